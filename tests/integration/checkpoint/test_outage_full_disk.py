"""A store whose disk is full, for real: the server's data lie on a small file system of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcloud.local.store import EmbeddedStore
from dlcloud_trainer.checkpoint.errors import StoreFull

from ...servers.minio import MinioMissing, MinioServer
from .conftest import Place

DISK = "128m"
SAID = {
    "seaweedfs": "answers 500; look at the server's log and its free disk space",
    "minio": "is full (XMinioStorageFull); free space or raise its quota",
    "file": "no space left for ",
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    give_up = time.monotonic() + 10
    while subprocess.run(["umount", folder], capture_output=True).returncode and time.monotonic() < give_up:
        time.sleep(0.1)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def on_small_disk(small_disk: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if kind == "file":
        yield Place(f"file://{small_disk}/checkpoints")
        return
    with asyncio.Runner() as runner:
        store = EmbeddedStore(small_disk) if kind == "seaweedfs" else MinioServer(small_disk)
        try:
            runner.run(store.start())
        except MinioMissing as missing:
            pytest.skip(str(missing))
        try:
            runner.run(store.ensure_bucket("bucket"))
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
            yield Place("s3://bucket/job", store.endpoint)
        finally:
            runner.run(store.stop())


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    assert os.statvfs(folder).f_bavail == 0
    return filler


def save(one: Any, step: int) -> bool:
    saved: bool = one.checkpointer.save({"w": torch.full((1 << 20,), float(step))}, {}, step=step, samples=step)
    return saved


def wait_for(condition: Callable[[], object], limit_s: float) -> None:
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {limit_s} s"
        time.sleep(0.02)


def meet_full_disk(one: Any, disk: Path) -> Path:
    """A training with one checkpoint whose next one finds the disk full; returns the file that fills it."""
    one.checkpointer.take_over()
    save(one, 1)
    one.checkpointer.flush(30)
    filler = fill(disk)
    save(one, 2)
    wait_for(lambda: one.warnings, 10)
    return filler


@pytest.mark.parametrize("kind", list(SAID), indirect=True)
def test_a_full_disk_is_told_within_10_s_and_training_goes_on(
    on_small_disk: Place, small_disk: Path, kind: str, rank: Callable[..., Any]
) -> None:
    one = rank(on_small_disk, 1, upload_limit_s=60.0)
    meet_full_disk(one, small_disk)
    assert SAID[kind] in one.warnings[0][1]
    assert "training goes on" in one.warnings[0][1]
    one.checkpointer.check()


# SeaweedFS looks for space once a minute.
@pytest.mark.parametrize("kind", ["file", "minio", pytest.param("seaweedfs", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.timeout(240)
def test_the_next_save_after_space_was_freed_works(
    on_small_disk: Place, small_disk: Path, kind: str, rank: Callable[..., Any]
) -> None:
    one = rank(on_small_disk, 1, upload_limit_s=150.0)
    meet_full_disk(one, small_disk).unlink()
    with suppress(StoreFull):  # what says so at once does not wait for space
        one.checkpointer.flush(150)
    save(one, 3)
    one.checkpointer.flush(150)
    assert one.commits[-1].step == 3 and not one.checkpointer.troubled
    restored = rank(on_small_disk, 2).checkpointer.take_over()
    assert restored.tensors["w"].eq(3).all()
