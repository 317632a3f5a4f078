"""The programs in docs/checkpoints.md do what the page says, on a real prefix copied from a real store."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from minio import Minio

from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings, Restored

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
STEPS = (10, 20)


def program(name: str, folder: Path) -> Path:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(f"# {name} ")]
    path = folder / name
    path.write_text(found)
    return path


def tensors(step: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(step)
    return {
        "model.weight": torch.randn(7, 5),
        "model.half": torch.randn(3).bfloat16(),
        "model.empty": torch.zeros(0, 4),
        "model.count": torch.tensor(step),
        "model.mask": torch.tensor([True, False, True]),
    }


class Store:
    """One job's prefix on the server, and a copy of it made with another client."""

    def __init__(self, server: Any, bucket: str, copy: Path) -> None:
        self._bucket, self._prefix, self._endpoint = bucket, "team/default/job/uid/", server.endpoint
        host = server.endpoint.removeprefix("http://")
        self._client = Minio(host, access_key=server.access_key, secret_key=server.secret_key, secure=False)
        self.copied = copy

    def checkpointer(self, round: int) -> Checkpointer:
        settings = CheckpointSettings(
            uri=f"s3://{self._bucket}/{self._prefix}", endpoint=self._endpoint, round=round, nonce=f"n{round}"
        )
        return Checkpointer(settings, on_commit=lambda _: None, on_warning=lambda *_: None)

    def copy(self) -> Path:
        for found in self._client.list_objects(self._bucket, self._prefix, recursive=True):
            assert found.object_name is not None
            key = found.object_name.removeprefix(self._prefix)
            self._client.fget_object(self._bucket, found.object_name, str(self.copied / key))
        return self.copied

    def upload(self, key: str) -> None:
        self._client.fput_object(self._bucket, self._prefix + key, str(self.copied / key))


@pytest.fixture
def store(s3_server: Any, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    store = Store(s3_server, s3_bucket, tmp_path / "copy")
    checkpointer = store.checkpointer(1)
    checkpointer.take_over()
    for step in STEPS:
        checkpointer.save(tensors(step), {}, step=step, samples=step, wait=True)
        checkpointer.flush(30)
    checkpointer.close()
    yield store


def run(path: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def restored_by(store: Store, round: int) -> Restored:
    checkpointer = store.checkpointer(round)
    try:
        found = checkpointer.take_over()
    finally:
        checkpointer.close()
    assert found is not None
    return found


def test_a_copied_prefix_becomes_tensors_without_dlcloud(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    said = run(program("restore.py", tmp_path), str(store.copy()), str(out))
    assert said == "step 20: 5 tensors\n"
    loaded = torch.load(out, weights_only=True)
    for name, tensor in tensors(20).items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name


def test_the_restore_program_names_a_damaged_slice(store: Store, tmp_path: Path) -> None:
    copy = store.copy()
    for piece in copy.glob("attempts/*/*.bin"):
        data = bytearray(piece.read_bytes())
        data[0] ^= 1
        piece.write_bytes(data)
    done = subprocess.run(
        [sys.executable, str(program("restore.py", tmp_path)), str(copy), str(tmp_path / "out.pt")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "attempts/" in done.stderr
    assert "is damaged" in done.stderr


def test_a_head_set_back_by_hand_is_what_the_next_round_resumes_from(store: Store, tmp_path: Path) -> None:
    assert restored_by(store, 2).step == 20
    head = store.copy() / "head.json"
    run(program("go_back.py", tmp_path), str(head), "10")
    store.upload("head.json")
    assert restored_by(store, 3).step == 10
