"""Two whole local jobs with keys that can be recognised, and then a search for them everywhere.

One job is killed in the middle and goes on, at an S3 server behind https with a CA of its own; the other one's keys are
refused. Access key ids count as secrets.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import typer.main

from dlcloud.local.store import EmbeddedStore
from dlcloud.main import app
from dlcloud.objects import Access
from dlcloud.sabotage import rank_pids
from dlcloud.store import with_store
from dlcloud_operator.api import TrainingJob, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.render import PodRenderer, RenderSettings
from dlcloud_trainer.objects import StoreUnusable, open_objects

from .checkpoint.conftest import Place, credentials, s3_place, tls_place  # noqa: F401 - fixtures

MANIFEST = """
apiVersion: dlcloud.dev/v1
kind: TrainingJob
metadata: {{name: {name}}}
spec:
  workload: cnn
  parameters: {{epochs: {epochs}, architecture: conv8, augment: false}}
  data: {{uri: "builtin://digits"}}
  workers: {{count: 1, memory: 1Gi}}
  checkpoint: {{uri: "{uri}", everySeconds: 1}}
  objectStore: {{encryption: {{type: {encryption}}}}}
  restart: {{maxFailures: 1}}
"""
EACH = """
import json, sys, traceback
from dlcloud.main import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["dlcloud", *words]
    print("$", *words, flush=True)
    try:
        main()
    except BaseException:
        traceback.print_exc()
"""
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SSE_CUSTOMER_KEY_BASE64")


def forms(secret: str) -> set[bytes]:
    """A secret as it is, as it stands in a URL, in base64 and in JSON."""
    raw = secret.encode()
    return {
        raw,
        quote(secret, safe="").encode(),
        base64.b64encode(raw).rstrip(b"=")[:-1],
        secret.encode("unicode_escape"),
    }


@dataclass
class User:
    """Somebody with keys in the environment and a home of dlcloud's; remembers all that was said, and the processes."""

    home: Path
    env: dict[str, str]
    said: dict[str, bytes] = field(default_factory=dict)
    command_lines: set[bytes] = field(default_factory=set)

    @property
    def secrets(self) -> dict[str, set[bytes]]:
        return {name: forms(self.env[name]) for name in KEYS if name in self.env}

    def start(self, output: Any, *words: str) -> subprocess.Popen[bytes]:
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env = {**keep, "OMP_NUM_THREADS": "1", "DLCLOUD_HOME": str(self.home), **self.env}
        return subprocess.Popen(
            [sys.executable, *words], env=env, cwd=self.home, stdout=output, stderr=subprocess.STDOUT
        )  # fmt: skip

    def run(self, *words: str, during: Callable[[], Any] = lambda: None) -> int:
        """Run Python with these words to its end, with an eye on the processes; `during` is called again and again."""
        with tempfile.TemporaryFile() as output:
            process = self.start(output, *words)
            try:
                give_up = time.monotonic() + 240
                while process.poll() is None:
                    assert time.monotonic() < give_up, f"{words} does not end"
                    self.look()
                    during()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.2)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                output.seek(0)
                self.said[" ".join(words)] = output.read()
        return process.returncode

    def run_each(self, *lines: list[str]) -> None:
        """Run commands one after the other in one process: most of their time is that of imports."""
        self.run("-c", EACH, json.dumps(lines))

    def look(self) -> None:
        for entry in self.processes():
            with contextlib.suppress(OSError):
                self.command_lines.add((entry / "cmdline").read_bytes())

    def processes(self) -> Iterator[Path]:
        mark = str(self.home).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes():
                        yield entry

    def found_in(self, texts: dict[str, bytes]) -> list[str]:
        """Where which secret stands; the list holds names only."""
        return [
            f"{name} in {where}"
            for where, text in texts.items()
            for name, shapes in self.secrets.items()
            if any(shape in text for shape in shapes)
        ]

    def files(self) -> dict[str, bytes]:
        found = {}
        for path in self.home.rglob("*"):
            with contextlib.suppress(OSError):  # a running job writes and deletes
                if path.is_file() and not path.is_symlink():
                    found[str(path.relative_to(self.home))] = path.read_bytes()
        return found


class Killer:
    """Kills the rank once a checkpoint was committed, and looks at the run's files at that moment."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.killed = 0
        self.with_secrets: list[tuple[Path, int, int]] = []  # with their modes and their folders'

    def __call__(self) -> None:
        if self.killed or not any(b"/manifests/" in path.read_bytes() for path in self.user.home.rglob("job.json")):
            return
        for entry in self.user.processes():
            with contextlib.suppress(OSError):
                for variable in (entry / "environ").read_bytes().split(b"\0"):
                    name, _, uid = variable.decode(errors="replace").partition("=")
                    pids = rank_pids(uid) if name == "DLCLOUD_POD_UID" else []
                    if pids:
                        self.look()
                        os.kill(pids[0], signal.SIGKILL)
                        self.killed = pids[0]
                        return

    def look(self) -> None:
        for name, text in self.user.files().items():
            if self.user.found_in({name: text}):
                path = self.user.home / name
                modes = [one.stat().st_mode & 0o777 for one in (path, path.parent)]
                self.with_secrets.append((path, modes[0], modes[1]))


@dataclass
class Trained:
    user: User
    killer: Killer
    place: Place
    code: int


@pytest.fixture
def trained(tls_place: tuple[Place, Path], s3_server: Any, tmp_path: Path) -> Trained:  # noqa: F811
    """A job that was killed in the middle and went on to its end."""
    if s3_server.kind == "minio":
        pytest.skip("MinIO refuses SSE-C behind a proxy that ends TLS")
    place, ca = tls_place
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_SSE_CUSTOMER_KEY_BASE64": base64.b64encode(secrets.token_bytes(32)).decode(),
        "AWS_CA_BUNDLE": str(ca),
        "AWS_ENDPOINT_URL": place.endpoint,
    }
    user = User(home, env)
    manifest = home / "job.yaml"
    manifest.write_text(MANIFEST.format(name="kept", uri=place.uri, epochs=120, encryption="SSE-C"))
    killer = Killer(user)
    return Trained(
        user, killer, place, user.run("-m", "dlcloud", "run", str(manifest), "--local", "--plain", during=killer)
    )


@pytest.mark.timeout(420)
def test_nothing_secret_shows_in_a_job_that_was_killed_and_went_on(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, killer, place = trained.user, trained.killer, trained.place
    output = next(iter(user.said.values())).decode()
    assert trained.code == 0 and killer.killed, output

    # While it ran, the mounted Secret held them, for its owner alone: nothing else did.
    assert {(path.parent.parent.name, mode, of_folder) for path, mode, of_folder in killer.with_secrets} == {
        ("store-credentials", 0o600, 0o700)
    }
    assert user.found_in(user.files()) == []

    every_command(user, "kept")
    assert user.found_in(user.said) == []
    assert user.found_in({"a command line": b"\n".join(user.command_lines)}) == []
    assert any(b"dlcloud_trainer.zygote" in line for line in user.command_lines)

    for name, value in user.env.items():
        monkeypatch.setenv(name, value)
    objects = open_objects(place.uri, endpoint=place.endpoint, ca_file=user.env["AWS_CA_BUNDLE"], encryption="SSE-C")
    stored = {key: objects.get(key) for key in objects.list()}
    kinds = {part for key in stored for part in key.split("/")}
    assert {"head.json", "manifests", "attempts", "metrics", "logs"} <= kinds
    assert user.found_in(stored) == []
    with pytest.raises(StoreUnusable):  # and the server has them encrypted: without the key it hands out nothing
        next(open_plain(place, user, key) for key in stored if key.endswith("head.json"))


def open_plain(place: Place, user: User, key: str) -> bytes:
    return open_objects(place.uri, endpoint=place.endpoint, ca_file=user.env["AWS_CA_BUNDLE"]).get(key)


def every_command(user: User, name: str) -> None:
    """Each command there is, in each form of its output; whether it succeeds is the matter of other tests."""
    job = str(user.home / "job.yaml")
    lines = [
        ["validate", job], ["validate", job, "-o", "json"],
        ["ls"], ["ls", "-o", "json"], ["ls", "-o", "wide"], ["ls", "-o", "yaml"],
        ["describe", name], ["describe", name, "-o", "json"], ["describe", name, "-o", "yaml"],
        ["logs", name], ["logs", name, "--rank", "0"],
        ["top", name, "--plain"], ["plot", name], ["plot", name, "-o", str(user.home / "curve.svg")],
        ["checkpoints", "ls", name], ["checkpoints", "ls", name, "-o", "json"], ["checkpoints", "verify", name],
        ["checkpoints", "get", name], ["checkpoints", "pin", name], ["checkpoints", "unpin", name],
        ["checkpoints", "rm", name, "--yes"],
        ["export", name, "--out", str(user.home / "export")],
        ["data", "ls", "s3://checkpoints/"], ["data", "verify", "s3://checkpoints/"],
        ["data", "put", job, "s3://checkpoints/data/"],
        ["suspend", name], ["resume", name, "--set", "no.such=1"], ["completion", "bash"],
        ["doctor", job], ["run", job, "--local", "--set", "parameters.epochs=none"], ["rm", name, "--yes"],
    ]  # fmt: skip
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert known <= {line[0] for line in lines}, "a command is missing in this list"
    user.run_each(*lines)


@pytest.fixture
def refused(s3_server: Any, s3_bucket: str, tmp_path: Path) -> User:
    """Somebody whose temporary keys the store does not know."""
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "AWS_ACCESS_KEY_ID": f"ASIA{secrets.token_hex(8).upper()}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
        "AWS_SESSION_TOKEN": base64.b64encode(secrets.token_bytes(90)).decode(),
        "AWS_ENDPOINT_URL": s3_server.endpoint,
    }
    (home / "job.yaml").write_text(
        MANIFEST.format(name="refused", uri=f"s3://{s3_bucket}/refused/", epochs=1, encryption="SSE-S3")
    )
    return User(home, env)


@pytest.mark.timeout(120)
def test_nothing_secret_shows_when_the_store_refuses_the_keys(refused: User) -> None:
    assert refused.run("-m", "dlcloud", "run", str(refused.home / "job.yaml"), "--local", "--plain") == 1
    refused.run_each(["describe", "refused"], ["logs", "refused"], ["checkpoints", "ls", "refused"])
    said = b"\n".join(refused.said.values())
    assert b"objectStore.credentialsSecret" in said  # it was this that failed
    assert refused.found_in(refused.said) == []
    assert refused.found_in(refused.files()) == []
    assert refused.found_in({"a command line": b"\n".join(refused.command_lines)}) == []


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
def test_no_traceback_of_a_refusal_holds_a_key(
    wrong: str, s3_server: Any, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        wrong: secrets.token_hex(20),
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    objects = open_objects(f"s3://{s3_bucket}/x", endpoint=s3_server.endpoint)
    texts = {"repr": f"{objects!r} {vars(objects)!r}"}
    for what in (lambda: objects.put("k", b"1"), lambda: objects.get("k"), lambda: objects.list()):
        try:
            what()
        except StoreUnusable as error:
            texts[f"traceback {len(texts)}"] = "".join(traceback.format_exception(error))
    assert len(texts) == 4
    user = User(tmp_path, env)
    assert user.found_in({name: text.encode() for name, text in texts.items()}) == []


def test_a_rendered_pod_names_the_secret_and_holds_none_of_its_values() -> None:
    access = Access("https://s3", secrets.token_hex(9), secrets.token_hex(9), secrets.token_hex(9))
    spec = {"workload": "cnn", "data": {"uri": "builtin://digits"}}
    job = with_store(TrainingJob.model_validate({"metadata": {"name": "a"}, "spec": spec}), access)
    now = datetime.now(UTC)
    view = JobView(JobKey("default", "a"), "uid", "1", 1, now, TrainingJobStatus(), job.spec)
    pod = str(PodRenderer(RenderSettings("http://127.0.0.1:1")).render(view, 0, 1))
    assert "secretKeyRef" in pod
    assert not [value for value in (access.access_key, access.secret_key, access.session_token) if value in pod]


def test_the_embedded_servers_keys_stand_in_one_file_for_its_owner_alone(tmp_path: Path) -> None:
    async def use() -> None:
        async with EmbeddedStore(tmp_path / "store") as store:
            await store.ensure_bucket("checkpoints")
            user = User(tmp_path / "store", {KEYS[0]: store.access_key, KEYS[1]: store.secret_key})
            for key in (store.secret_key, "not-the-secret"):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
                    patch.setenv("AWS_SECRET_ACCESS_KEY", key)
                    with contextlib.suppress(StoreUnusable):
                        objects = open_objects("s3://checkpoints/x", endpoint=store.endpoint)
                        await asyncio.to_thread(objects.put, "k", b"1")
            found = {where.partition(" in ")[2] for where in user.found_in(user.files())}
            assert found == {"s3.json"}
            assert (tmp_path / "store" / "s3.json").stat().st_mode & 0o777 == 0o600

    asyncio.run(use())
