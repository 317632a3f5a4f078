"""A whole job, run by the command line, whose object store is wrong from the start or goes away on the way."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlcloud.local.store import EmbeddedStore
from dlcloud.sabotage import rank_pids
from dlcloud_trainer.checkpoint.layout import HEAD, Head, Manifest
from dlcloud_trainer.objects import open_objects

MANIFEST = """
apiVersion: dlcloud.dev/v1
kind: TrainingJob
metadata: {{name: digits}}
spec:
  workload: cnn
  parameters: {{epochs: {epochs}, architecture: conv8}}
  data: {{uri: builtin://digits}}
  workers: {{count: 1, memory: 1Gi}}
  checkpoint: {{uri: "s3://{bucket}/{prefix}", everySeconds: 1}}
  limits: {{checkpoint: {limit}}}
"""
TOLD_S = 10.0
STEPS_OF_AN_EPOCH = 20
SECRETS = {"ADMINKEY": "secret-of-the-admin-1", "READONLY": "secret-of-the-reader-1"}
READER = {"name": "reader", "actions": ["Read", "List"]}
ADMIN = {"name": "admin", "actions": ["Admin", "Read", "Write", "List", "Tagging"]}


class Server:
    """A SeaweedFS to stop and to start again: its port stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allow("ADMINKEY")
        self._runner = asyncio.Runner()
        self._store: EmbeddedStore | None = None
        self.endpoint = ""

    def allow(self, access_key: str) -> None:
        """From its next start on the server knows this administrator, and the reader."""
        people = []
        for who, key in ((ADMIN, access_key), (READER, "READONLY")):
            people.append({**who, "credentials": [{"accessKey": key, "secretKey": SECRETS.get(key, "another-secret")}]})
        (self.folder / "s3.json").write_text(json.dumps({"identities": people}))

    def start(self) -> None:
        self._store = EmbeddedStore(self.folder)
        self._runner.run(self._store.start())
        assert self.endpoint in ("", self._store.endpoint), "another program took its port meanwhile"
        self.endpoint = self._store.endpoint

    def bucket(self) -> None:
        assert self._store is not None
        self._runner.run(self._store.ensure_bucket("bucket"))

    def stop(self) -> None:
        if self._store is not None:
            self._runner.run(self._store.stop())
            self._store = None

    def close(self) -> None:
        self.stop()
        self._runner.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that a test may stop."""
    folder = tmp_path / "store"
    folder.mkdir()
    server = Server(folder)
    server.start()
    server.bucket()
    yield server
    server.close()


@dataclass
class Run:
    """A `dlcloud run` whose lines are read as they come."""

    process: subprocess.Popen[str]
    home: Path
    lines: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, words: str, limit_s: float = 60) -> float:
        """Until a line holds the words; when that line came."""
        give_up = time.monotonic() + limit_s
        while True:
            for at, line in list(self.lines):
                if re.search(words, line):
                    return at
            assert self.process.poll() is None and time.monotonic() < give_up, f"no {words!r} in\n{self.text}"
            time.sleep(0.02)

    def wait_until(self, condition: Callable[[], object], limit_s: float = 60) -> None:
        """Wait for what the job's status tells."""
        give_up = time.monotonic() + limit_s
        while not condition():
            assert self.process.poll() is None and time.monotonic() < give_up, self.text
            time.sleep(0.02)

    def kill(self) -> None:
        """End it; its processes go with it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self, limit_s: float = 90) -> int:
        code = self.process.wait(limit_s)
        self._reader.join(10)
        return code

    def step(self) -> int:
        """The furthest step an agent has told, from the job's status."""
        with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
            return int(self.status()["progress"]["step"])
        return 0

    def status(self) -> dict[str, Any]:
        (kept,) = self.home.glob("runs/*/job.json")
        found: dict[str, Any] = json.loads(kept.read_text())["status"]
        return found


def start_run(
    folder: Path,
    endpoint: str,
    *,
    access_key: str = "ADMINKEY",
    secret: str = "",
    bucket: str = "bucket",
    epochs: int = 500,
    limit: str = "1m",
) -> Run:
    """A run in a folder of its own."""
    manifest = folder / "job.yaml"
    manifest.write_text(MANIFEST.format(epochs=epochs, bucket=bucket, prefix=folder.name, limit=limit))
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env |= {"DLCLOUD_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    env |= {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret or SECRETS[access_key]}
    command = [sys.executable, "-m", "dlcloud", "run", str(manifest), "--local", "--endpoint", endpoint]
    process = subprocess.Popen(
        command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return Run(process, folder / "home")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def start(endpoint: str, **options: Any) -> Run:
        started.append(start_run(tmp_path, endpoint, **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def saved_steps(server: Server, tmp_path: Path) -> list[int]:
    """Of the checkpoints that are kept, newest first; what they name is there and nothing else is."""
    os.environ.update(AWS_ACCESS_KEY_ID="ADMINKEY", AWS_SECRET_ACCESS_KEY=SECRETS["ADMINKEY"])
    top = open_objects(f"s3://bucket/{tmp_path.name}", endpoint=server.endpoint)
    (head,) = [key for key in top.list() if key.endswith(HEAD)]
    store = open_objects(top.uri(head.removesuffix(HEAD)), endpoint=server.endpoint)
    entries = Head.parse(store.get(HEAD), HEAD).checkpoints
    assert store.list("manifests") == sorted(entry.manifest for entry in entries)
    slices = [s.key for e in entries for s in Manifest.parse(store.get(e.manifest), "m").slices]
    assert store.list("attempts") == sorted(slices)
    return [entry.step for entry in entries]


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "wrong secret": (
        {"secret": "not-the-secret-of-anybody"},
        r"refused to get \S+head.json \(SignatureDoesNotMatch\); correct AWS_SECRET_ACCESS_KEY in "
        r"objectStore.credentialsSecret",
    ),
    "missing bucket": (
        {"bucket": "nowhere"},
        "bucket 'nowhere' does not exist at http://127.0.0.1:[0-9]+; create it, or correct",
    ),
    "read only": ({"access_key": "READONLY"}, r"refused to put \S+ \(AccessDenied\); check the keys in objectStore"),
    "closed port": (
        {"endpoint": "http://127.0.0.1:1"},
        "object store http://127.0.0.1:1 refuses connections; check objectStore.endpoint and the network",
    ),
}


@pytest.fixture(scope="module")
def wrong_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All of `WRONG`, side by side."""
    server = Server(tmp_path_factory.mktemp("store"))
    server.start()
    server.bucket()
    runs = {}
    for what, (options, _) in WRONG.items():
        given = {"endpoint": server.endpoint} | options
        runs[what] = start_run(tmp_path_factory.mktemp(what.replace(" ", "-")), **given)
    yield runs
    for one in runs.values():
        one.kill()
    server.close()


@pytest.mark.parametrize("what", WRONG)
def test_a_job_whose_store_is_wrong_fails_before_its_first_step_with_one_sentence(
    wrong_runs: dict[str, Run], what: str
) -> None:
    one, (options, said) = wrong_runs[what], WRONG[what]
    assert one.end() == 1, one.text
    (failed,) = [line for _, line in one.lines if line.startswith("Failed after")]
    assert re.search(said, failed), one.text
    assert "StoreUnusable" in failed and "Traceback" not in one.text
    assert " step " not in one.text and one.step() == 0
    for secret in (*SECRETS.values(), options.get("secret") or "-----"):
        assert secret not in one.text


@pytest.mark.parametrize(
    "away_s", [5, pytest.param(20, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(240)
def test_a_job_trains_on_while_its_store_is_away_and_saves_when_it_is_back(
    server: Server, run: Callable[..., Run], tmp_path: Path, clean_environment: None, away_s: float
) -> None:
    one = run(server.endpoint, limit="3m")
    one.wait_for("checkpoint at step")
    server.stop()
    began = time.monotonic()
    assert one.wait_for("CheckpointUploadFailed: ") - began < TOLD_S + 2  # the report and the view take their time
    before = one.step()
    one.wait_until(lambda: one.step() > before + STEPS_OF_AN_EPOCH)
    one.wait_until(lambda: time.monotonic() > began + away_s, away_s + 5)
    assert "cannot be saved since" in one.status()["message"]
    server.start()
    one.wait_for("Recovered: checkpoints are saved again")
    assert "cannot be saved" not in one.status()["message"]
    conditions = {c["type"]: c["status"] for c in one.status()["conditions"]}
    assert conditions["CheckpointUploadFailed"] == "False"
    assert one.text.count("CheckpointUploadFailed: ") == 1
    assert "Restarting" not in one.text
    one.process.send_signal(signal.SIGINT)
    assert one.end() == 130
    steps = saved_steps(server, tmp_path)
    assert steps == sorted(set(steps), reverse=True)
    assert steps[0] == one.status()["checkpoint"]["step"]


@pytest.mark.timeout(240)
def test_a_rank_that_dies_while_the_store_is_away_waits_for_it_and_goes_on(
    server: Server, run: Callable[..., Run]
) -> None:
    one = run(server.endpoint)
    one.wait_for("checkpoint at step")
    server.stop()
    one.wait_for("CheckpointUploadFailed: ")
    (pid,) = rank_pids(one.status()["round"]["members"][0]["uid"])
    os.kill(pid, signal.SIGKILL)
    one.wait_for("StoreUnreachable: the round waits for its checkpoint: .* refuses connections")
    server.start()
    one.wait_for("Recovered: the object store answers again")
    one.wait_for("Recovered: checkpoints are saved again")
    assert one.status()["phase"] == "Running" and one.status()["restarts"] == 1


@pytest.mark.timeout(240)
def test_a_job_at_its_end_waits_for_a_store_that_comes_back_in_time(
    server: Server, run: Callable[..., Run], tmp_path: Path, clean_environment: None
) -> None:
    one = run(server.endpoint, epochs=12)
    one.wait_for("checkpoint at step")
    one.wait_for("epoch 8/12|epoch 9/12|epoch 1[012]/12")
    server.stop()
    one.wait_until(lambda: "(the job waits for it; tried again until" in one.status()["message"])
    assert one.process.poll() is None
    server.start()
    assert one.end() == 0, one.text
    total = one.status()["progress"]["totalSteps"]
    assert saved_steps(server, tmp_path)[0] == total == one.status()["checkpoint"]["step"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_keys_that_are_revoked_for_good_end_the_job_with_a_sentence(server: Server, run: Callable[..., Run]) -> None:
    one = run(server.endpoint, limit="1s")
    one.wait_for("checkpoint at step")
    server.stop()
    server.allow("SOMEBODYELSE")
    server.start()
    one.wait_for("CheckpointUploadFailed: ")
    assert one.end() == 1, one.text
    (failed,) = [line for _, line in one.lines if line.startswith("Failed after")]
    assert "StoreUnusable" in failed and "(3 x limits.checkpoint)" in failed
    assert "InvalidAccessKeyId" in failed and "objectStore.credentialsSecret" in failed
    assert SECRETS["ADMINKEY"] not in one.text and "Traceback" not in one.text
