"""`dlcloud data` as a process on a real S3 server and on a folder."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import load_colour_images
from dlcloud_trainer.data_tool.index import INDEX, PARTIAL, parse_index
from dlcloud_trainer.objects import Objects, open_objects
from dlcloud_trainer.parameters import TrainingParameters

from ...rig.processes import until
from ...unit.trainer.data.made import cifar_files, write_files
from ..checkpoint.proxy import Fault
from .conftest import DataPlace

FILES = cifar_files(20)


@dataclass
class Cli:
    folder: Path
    env: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, "-m", "dlcloud", "data", *map(str, arguments)]
        self.started.append(subprocess.Popen(command, env=self.env, cwd=self.folder, text=True, **given))
        return self.started[-1]

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in out + err
        return process.returncode, out, err


@pytest.fixture
def cli(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cli]:
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    made = Cli(tmp_path, {**keep, "DLCLOUD_HOME": str(tmp_path / "home"), "TERM": "dumb"})
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.wait()


@dataclass
class There:
    uri: str
    options: tuple[str, ...] = ()
    endpoint: str = ""

    def objects(self) -> Objects:
        return open_objects(self.uri, endpoint=self.endpoint)


@pytest.fixture(params=["file", "s3"])
def there(request: pytest.FixtureRequest, tmp_path: Path, cli: Cli) -> There:
    if request.param == "file":
        return There(f"file://{tmp_path}/there")
    place: DataPlace = request.getfixturevalue("place")
    cli.env |= place.keys
    return There(place.uri, ("--endpoint", place.endpoint), place.endpoint)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_files(tmp_path / "cifar", FILES | {".hidden/x": b"x", ".DS_Store": b"x"})
    return tmp_path / "cifar"


def test_what_was_put_is_listed_verified_and_read_by_a_workload(cli: Cli, there: There, source: Path) -> None:
    code, out, err = cli("put", source, there.uri, *there.options)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "6 files, 360.1 KiB"
    listed = parse_index(there.objects().get(INDEX), INDEX)
    assert {name: (file.size_bytes, file.sha256) for name, file in listed.items()} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()
    }
    assert sorted(there.objects().list()) == sorted([*FILES, INDEX])

    code, out, _ = cli("ls", there.uri, "-o", "json", *there.options)
    assert [one["name"] for one in json.loads(out)] == sorted(FILES)
    assert "data_batch_1.bin" in cli("ls", there.uri, *there.options)[1]
    assert cli("verify", there.uri, *there.options)[:2] == (0, "6 files, 360.1 KiB: OK\n")
    data = load_colour_images(there.uri, StoreAddress(there.endpoint), TrainingParameters())
    assert len(data.test.labels) == 20


def test_a_second_put_sends_only_what_was_changed(cli: Cli, there: There, source: Path) -> None:
    assert cli("put", source, there.uri, *there.options)[0] == 0
    (source / "new").mkdir()
    (source / "new" / "notes.txt").write_text("new")
    (source / "test_batch.bin").write_bytes(FILES["data_batch_1.bin"])  # as long as before
    before = {one.key: one.etag for one in there.objects().describe()}
    code, out, _ = cli("put", source, there.uri, *there.options)
    assert (code, out.splitlines()[0]) == (0, "7 files, 360.1 KiB, 5 were there already (300.1 KiB)")
    after = {one.key: one.etag for one in there.objects().describe()}
    assert {key for key in after if after[key] != before.get(key)} == {INDEX, "test_batch.bin", "new/notes.txt"}
    assert cli("verify", there.uri, *there.options)[0] == 0


def test_verify_names_what_is_missing_cut_or_changed(cli: Cli, there: There, source: Path) -> None:
    cli("put", source, there.uri, *there.options)
    store = there.objects()
    store.delete("data_batch_1.bin")
    store.put("data_batch_2.bin", FILES["data_batch_2.bin"][:-1])
    data = FILES["data_batch_3.bin"]
    store.put("data_batch_3.bin", data[:100] + bytes([data[100] ^ 1]) + data[101:])
    code, out, _ = cli("verify", there.uri, *there.options)
    assert code == 1
    assert sorted(out.splitlines()) == [
        "3 of 6 files not as uploaded; `dlcloud data put` sends them again",
        "data_batch_1.bin: it is missing",
        "data_batch_2.bin: 61459 bytes, dlcloud-data.json says 61460",
        "data_batch_3.bin: its SHA-256 is not the one in dlcloud-data.json",
    ]
    code, out, _ = cli("verify", there.uri, "-o", "json", *there.options)
    assert (code, len(json.loads(out))) == (1, 3)
    assert "missing" in cli("ls", there.uri, *there.options)[1]
    assert "3 were there already" in cli("put", source, there.uri, *there.options)[1]
    assert cli("verify", there.uri, *there.options)[0] == 0


def test_an_upload_that_is_killed_goes_on_where_it_was(cli: Cli, place: DataPlace, tmp_path: Path) -> None:
    cli.env |= place.keys
    write_files(tmp_path / "many", {f"{number:03d}.bin": bytes([number]) * 1000 for number in range(60)})
    hold = place.proxy.on("PUT", r"/\d{3}\.bin", Fault(delay_s=0.4))
    upload = cli.start("put", "many", place.uri, "--endpoint", place.endpoint)
    until("it is noted what has come", lambda: PARTIAL in place.objects().list(), 60)
    upload.send_signal(signal.SIGKILL)
    upload.wait(20)
    noted = parse_index(place.objects().get(PARTIAL), PARTIAL)
    assert 0 < len(noted) < 60
    assert hold.met < 60
    place.proxy.clear()
    assert INDEX not in place.objects().list()
    assert "is not done" in cli("ls", place.uri, "--endpoint", place.endpoint)[2]
    place.proxy.settle()
    place.proxy.forget()
    assert cli("put", "many", place.uri, "--endpoint", place.endpoint)[0] == 0
    sent = [path for method, path in place.proxy.seen if method == "PUT" and path.endswith(".bin")]
    assert len(sent) <= 60 - len(noted)
    assert cli("verify", place.uri, "--endpoint", place.endpoint)[0] == 0
    assert PARTIAL not in place.objects().list()


def test_a_large_file_is_sent_in_parts(cli: Cli, place: DataPlace, tmp_path: Path) -> None:
    cli.env |= place.keys
    (tmp_path / "large.bin").write_bytes(os.urandom(40 << 20))
    assert cli("put", "large.bin", place.uri, "--endpoint", place.endpoint)[0] == 0
    parts = [path for method, path in place.proxy.seen if method == "PUT" and "partNumber=" in path]
    assert len(parts) == 3
    assert cli("verify", place.uri, "--endpoint", place.endpoint)[0] == 0


def test_a_terminal_sees_a_bar(cli: Cli, place: DataPlace, source: Path) -> None:
    cli.env |= place.keys | {"TERM": "xterm-256color", "COLUMNS": "100"}
    place.proxy.on("PUT", "test_batch", Fault(delay_s=1.0))
    ours, theirs = pty.openpty()
    upload = cli.start("put", source, place.uri, "--endpoint", place.endpoint, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:
        pass  # the other end is closed
    os.close(ours)
    assert upload.wait(60) == 0
    assert b"upload cifar" in said
    assert b"KiB" in said


def test_what_cannot_be_done_is_said_in_one_line(cli: Cli, place: DataPlace, source: Path, tmp_path: Path) -> None:
    cli.env |= place.keys
    at = ("--endpoint", place.endpoint)
    (tmp_path / "empty").mkdir()
    for arguments, code, words in (
        (("put", "nothing", place.uri, *at), 2, "nothing: there is no such file or folder"),
        (("put", "empty", place.uri, *at), 2, "empty: no files are in it"),
        (("put", source, "bucket/prefix"), 2, "bucket/prefix: is no place for data; give s3://bucket/prefix"),
        (("put", source, "s3://no-such-bucket-here/x", *at), 1, "'no-such-bucket-here'"),
        (("ls", place.uri, *at), 1, "nothing is there; correct the URI, or upload"),
        (("verify", place.uri, *at), 1, "dlcloud-data.json: there is no index to compare with"),
        (("ls", place.uri, "--endpoint", "http://127.0.0.1:9"), 3, "127.0.0.1:9"),
        (("ls", "s3://data/x"), 1, "no S3 server is known for it; give --endpoint URL"),
    ):
        found, out, err = cli(*arguments)
        assert (found, out) == (code, ""), err
        assert words in err
        assert len(err.splitlines()) == 1


def test_a_file_that_is_changed_while_it_is_sent_is_noticed(cli: Cli, place: DataPlace, tmp_path: Path) -> None:
    cli.env |= place.keys
    source = tmp_path / "growing"
    write_files(source, {"a.bin": bytes(192 << 20)})
    place.proxy.on("PUT", "partNumber=1", Fault(before=lambda request: (source / "a.bin").open("ab").write(b"x")))
    code, _, err = cli("put", source, place.uri, "--endpoint", place.endpoint)
    assert (code, "a.bin: it was changed while it was read" in err) == (1, True), err
    assert INDEX not in place.objects().list()
