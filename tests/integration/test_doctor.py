"""`dlcloud doctor` on this machine: what is well, and real things broken one after the other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlcloud.doctor import stores
from dlcloud.doctor.findings import Finding, State
from dlcloud.doctor.programs import Bench
from dlcloud.objects import Access, _client

from .checkpoint.proxy import Fault, Proxy
from .conftest import S3Server

LIMIT_S = 100
Examine = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A user's environment without a cluster and without a store; what is written goes below `tmp_path`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUBE", "DLCLOUD_"))}
    (tmp_path / "tmp").mkdir()
    return own | {"DLCLOUD_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def examine(environ: dict[str, str]) -> Examine:
    """Run the doctor as a process; its findings by name."""

    def run(*arguments: str, code: int, **more: str) -> dict[str, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "dlcloud", "doctor", "-o", "json", "--limit", "90", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            env=environ | more,
        )
        assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    return run


def manifest(folder: Path, **spec: Any) -> str:
    document = {
        "apiVersion": "dlcloud.dev/v1",
        "kind": "TrainingJob",
        "metadata": {"name": "a"},
        "spec": {"workload": "cnn", "data": {"uri": "builtin://digits"}, **spec},
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    return str(file)


def test_a_machine_and_a_store_that_are_well_are_found_so_and_left_as_they_were(
    examine: Examine, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    file = manifest(
        tmp_path, checkpoint={"uri": f"s3://{s3_bucket}/doctor-test/"}, workers={"count": 1, "memory": "64Mi"}
    )
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    found = examine("--endpoint", s3_server.endpoint, file, code=0, **keys)
    tried = {"python", "packages", "torch", "fork", "loopback", "local-store"}
    tried |= {"manifest", "s3-server", "checkpoints", "data"}
    assert {name: found[name]["state"] for name in tried} == dict.fromkeys(tried, "ok"), found
    assert found.keys() >= {"gpu", "cpu", "memory", "shared-memory", "disk", "temporary-files", "open-files", "size"}
    assert s3_server.secret_key not in json.dumps(found)
    client = _client(Access(s3_server.endpoint, s3_server.access_key, s3_server.secret_key))
    assert list(client.list_objects(s3_bucket, prefix="doctor-test/", recursive=True)) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "home").exists()


def test_without_a_kubeconfig_what_needs_a_cluster_is_skipped(examine: Examine, tmp_path: Path) -> None:
    found = examine("--kubeconfig", str(tmp_path / "nowhere"), code=1)
    assert "there is no such file" in found["kubeconfig"]["message"]
    assert {found[name]["state"] for name in ("api-server", "crd", "rights", "nodes", "pods")} == {"skip"}


def test_an_api_server_that_is_away_is_named(examine: Examine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"https://127.0.0.1:{free.getsockname()[1]}"
    content = {
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "current-context": "c",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(content))
    found = examine("--kubeconfig", str(tmp_path / "kubeconfig"), code=1)
    assert found["kubeconfig"]["state"] == "ok"
    assert f"{address} (context c) cannot be reached: it refuses connections" in found["api-server"]["message"]
    assert found["crd"]["state"] == "skip"


# --- one store after the other ---


@pytest.fixture
def try_store(environ: dict[str, str]) -> Callable[[str, Access], Finding]:
    def run(bucket: str, access: Access) -> Finding:
        with Bench(60) as bench:
            use = stores.Use("checkpoint.uri", f"s3://{bucket}/trial/", True)
            return stores.try_store(bench, use, access, environ)

    return run


def test_wrong_keys_are_told_without_showing_them(
    try_store: Callable[[str, Access], Finding], s3_server: S3Server, s3_bucket: str
) -> None:
    finding = try_store(s3_bucket, Access(s3_server.endpoint, s3_server.access_key, "wr0ng-secret"))
    assert finding.state is State.FAIL
    assert "SignatureDoesNotMatch" in finding.message
    assert "AWS_SECRET_ACCESS_KEY" in finding.remedy
    assert "wr0ng-secret" not in f"{finding}"


def test_a_missing_bucket_is_told(try_store: Callable[[str, Access], Finding], s3_server: S3Server) -> None:
    finding = try_store("no-such-bucket", Access(s3_server.endpoint, s3_server.access_key, s3_server.secret_key))
    assert finding.state is State.FAIL
    assert "bucket 'no-such-bucket' does not exist" in finding.message
    assert "create it" in finding.remedy


def test_a_folder_where_nothing_can_be_made_is_told(environ: dict[str, str]) -> None:
    with Bench(60) as bench:
        finding = stores.try_store(bench, stores.Use("checkpoint.uri", "file:///proc/dlcloud", True), None, environ)
    assert finding.state is State.FAIL
    assert "/proc/dlcloud" in finding.message


def test_data_that_is_not_there_is_told(environ: dict[str, str], tmp_path: Path) -> None:
    with Bench(60) as bench:
        finding = stores.try_data(bench, "cnn", (tmp_path / "nothing-here").as_uri(), None, environ)
    assert finding.state is State.FAIL
    assert "put there the four files of MNIST" in finding.remedy


def test_a_store_that_gives_back_other_bytes_is_told_and_nothing_is_left_behind(
    try_store: Callable[[str, Access], Finding], s3_server: S3Server
) -> None:
    bucket = s3_server.make_bucket()
    with Proxy(s3_server.endpoint).running() as proxy:
        proxy.on("GET", "00000.bin", Fault(edit=lambda body: b"x" * len(body)))
        finding = try_store(bucket, Access(proxy.endpoint, s3_server.access_key, s3_server.secret_key))
    assert finding.state is State.FAIL
    assert "what is read is not what was written" in finding.message
    client = _client(Access(s3_server.endpoint, s3_server.access_key, s3_server.secret_key))
    assert list(client.list_objects(bucket, recursive=True)) == []


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_that_ignores_conditions_is_told(header: str, environ: dict[str, str], tmp_path: Path) -> None:
    """An anonymous server behind a proxy that strips the header: a signature would cover it."""
    import asyncio

    from dlcloud.local.store import EmbeddedStore

    everybody = {"name": "anonymous", "actions": ["Admin", "Read", "Write", "List"]}
    admin = {"name": "admin", "credentials": [{"accessKey": "a", "secretKey": "s"}], "actions": ["Admin"]}
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "s3.json").write_text(json.dumps({"identities": [admin, everybody]}))
    uri = "s3://bucket/trial"
    with asyncio.Runner() as runner, Bench(60) as bench:
        store = EmbeddedStore(tmp_path / "store")
        runner.run(store.start())
        try:
            runner.run(store.ensure_bucket("bucket"))
            with Proxy(store.endpoint).running() as proxy:
                proxy.on("PUT", "", Fault(without=(header,)))
                request = {"what": "checkpoint.uri", "uri": uri, "write": True, "endpoint": proxy.endpoint}
                ended = bench.python(
                    "dlcloud_trainer.checks.store",
                    given={"stores": [request]},
                    env=environ | {"AWS_SKIP_SIGNATURE": "true"},
                )
            left = runner.run(store.list("s3://bucket/"))
        finally:
            runner.run(store.stop())
    finding = stores.judge_steps(uri, True, ended, 60)
    assert finding.state is State.FAIL
    assert f"does not keep {header} conditions" in finding.message
    assert left == (), "nothing is left behind, also of a trial that failed"


def test_a_server_that_speaks_no_tls_or_not_at_all_is_told(s3_server: S3Server) -> None:
    tls = stores.server(Access(s3_server.endpoint.replace("http://", "https://"), "", ""))
    assert (tls.state, "speaks no TLS" in tls.message) == (State.FAIL, True)
    assert "use http://127.0.0.1" in tls.remedy
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    away = stores.server(Access(address, "", ""))
    assert (away.state, away.message) == (State.FAIL, f"{address}: refuses connections")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """A file system of 300 KiB, in a mount namespace of its own."""
    look = (
        "import sys; from pathlib import Path; from dlcloud.doctor.machine import disk; "
        "found = disk(Path(sys.argv[1]), 'DLCLOUD_HOME'); print(found.state, found.message)"
    )
    mount = 'mount -t tmpfs -o size=300k tmpfs "$1" || exit 77; exec "$2" -c "$3" "$1"'
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not there")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, look],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("this machine lets no file system be mounted")
    assert done.stdout == f"fail {tmp_path} cannot be written: No space left on device\n", done.stderr


def processes_in(folder: Path) -> list[str]:
    """Those whose working folder is below this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_an_interrupt_ends_it_at_once_and_leaves_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    process = subprocess.Popen(
        [sys.executable, "-m", "dlcloud", "doctor", "--limit", "90"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environ,
    )
    give_up = time.monotonic() + LIMIT_S
    while not any("weed" in command for command in processes_in(folder)):  # in the middle of its work
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    give_up = time.monotonic() + 30
    while processes_in(folder) or list(folder.iterdir()):
        assert time.monotonic() < give_up, (processes_in(folder), list(folder.iterdir()))
        time.sleep(0.02)
