"""The bundled store as the chart starts it: the rendered command line and scripts, run here as processes."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from minio import Minio
from minio.error import S3Error

from dlcloud.local import weed
from dlcloud_operator.kube.certificates import rendezvous_names, sign_with

from ...rig.processes import free_ports, until
from ..conftest import S3Server
from .helm import CHART, one, render

FILES = CHART / "files"
KEYS = {
    "AWS_ACCESS_KEY_ID": "JOBSACCESSKEY",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-jobs",
    "ADMIN_ACCESS_KEY_ID": "ADMINACCESSKEY",
    "ADMIN_SECRET_ACCESS_KEY": "secret-of-the-administrator",
}
BUCKETS = "checkpoints datasets"


def script(name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = {"PATH": os.defpath, "PYTHONPATH": str(FILES), "PYTHONDONTWRITEBYTECODE": "1", **env}
    command = [sys.executable, str(FILES / name), *arguments]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=60, check=False)


@dataclass(frozen=True)
class Store:
    port: int
    grpc_port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, prefix: str) -> Minio:
        access, secret = KEYS[f"{prefix}_ACCESS_KEY_ID"], KEYS[f"{prefix}_SECRET_ACCESS_KEY"]
        return Minio(f"127.0.0.1:{self.port}", access_key=access, secret_key=secret, secure=False, region="us-east-1")

    def keys(self, prefix: str) -> dict[str, str]:
        found = {"S3_ACCESS_KEY": KEYS[f"{prefix}_ACCESS_KEY_ID"], "S3_SECRET_KEY": KEYS[f"{prefix}_SECRET_ACCESS_KEY"]}
        return found | {"S3_ENDPOINT": self.endpoint, "BUCKETS": BUCKETS}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """SeaweedFS with the pod's arguments, on ports of its own, all of it on 127.0.0.1."""
    folder = tmp_path_factory.mktemp("bundled")
    made = script("seaweedfs_config.py", str(folder), BUCKETS=BUCKETS, **KEYS)
    assert made.returncode == 0, made.stderr
    (folder / "data").mkdir()
    container = one(render(), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    ports = dict(
        zip(
            ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc"),
            free_ports(8),
            strict=True,
        )
    )
    given = {"-dir": folder / "data", "-s3.config": folder / "s3.json", "-s3.ip.bind": "127.0.0.1"}
    given |= {
        f"-{name.replace('.grpc', '')}.port{'.grpc' if '.grpc' in name else ''}": port for name, port in ports.items()
    }
    kept = [argument for argument in container["args"] if argument.partition("=")[0] not in given]
    command = [weed.find(), *kept, *(f"{name}={value}" for name, value in given.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={"PATH": os.defpath, "HOME": str(folder)}, stdout=log, stderr=log
        )
    try:
        found = Store(ports["s3"], ports["s3.grpc"])
        done = script("make_buckets.py", **found.keys("ADMIN"), WAIT_S="60")
        assert done.returncode == 0, done.stderr + (folder / "log").read_text(errors="replace")[-2000:]
        until("the volume server knows its volumes", lambda: weed.has_volumes(ports), 30)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
        weed.remove_sockets(
            {f"{name}.grpc": ports[f"{name}.grpc"] for name in ("master", "volume", "filer", "s3")} | {"admin.grpc": 0}
        )


def test_the_buckets_are_made_once_and_stay(store: Store) -> None:
    assert {bucket.name for bucket in store.client("ADMIN").list_buckets()} == {"checkpoints", "datasets"}
    again = script("make_buckets.py", **store.keys("ADMIN"))
    assert (again.returncode, again.stdout) == (0, "bucket checkpoints is there\nbucket datasets is there\n")


def test_the_jobs_keys_reach_the_buckets_given_and_no_other(store: Store) -> None:
    store.client("ADMIN").make_bucket("private")
    assert list(store.client("AWS").list_objects("checkpoints")) == []
    with pytest.raises(S3Error, match="Access Denied"):
        list(store.client("AWS").list_objects("private"))
    with pytest.raises(S3Error, match="Access Denied"):
        store.client("AWS").make_bucket("another")


def test_nobody_gets_in_without_keys(store: Store) -> None:
    with pytest.raises(S3Error, match="Access Denied"):
        list(Minio(f"127.0.0.1:{store.port}", secure=False, region="us-east-1").list_objects("checkpoints"))


def test_the_servers_second_port_asks_for_a_certificate_that_nobody_has(store: Store) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])

    with (
        pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|BAD_CERTIFICATE|HANDSHAKE_FAILURE"),
        socket.create_connection(("127.0.0.1", store.grpc_port), timeout=10) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        while secured.recv(100):
            pass


def test_buckets_of_a_server_that_is_not_there_are_given_up_with_a_sentence() -> None:
    [port] = free_ports(1)
    keys = {"S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b", "BUCKETS": "checkpoints", "WAIT_S": "0"}
    done = script("make_buckets.py", S3_ENDPOINT=f"http://127.0.0.1:{port}", **keys)
    assert done.returncode == 1
    assert f"bucket checkpoints could not be made at http://127.0.0.1:{port}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.s3
def test_the_bucket_script_works_on_any_s3_server(s3_server: S3Server) -> None:
    keys = {"S3_ACCESS_KEY": s3_server.access_key, "S3_SECRET_KEY": s3_server.secret_key}
    done = script("make_buckets.py", S3_ENDPOINT=s3_server.endpoint, BUCKETS="chart-one chart-two", WAIT_S="20", **keys)
    assert (done.returncode, done.stderr) == (0, "")


# --- what `helm test` runs ---


class Answers(BaseHTTPRequestHandler):
    """200 for the health, 401 for the rendezvous, as the operator gives."""

    ready = True

    def do_GET(self) -> None:
        status = 401 if self.path.startswith("/v1/") else 200 if self.ready or self.path == "/healthz" else 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def serve(context: ssl.SSLContext | None = None, ready: bool = True) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Answers,), {"ready": ready}))
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def rendezvous(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """URL and CA of a server with a certificate that the operator signed with the chart's CA."""
    folder = tmp_path_factory.mktemp("ca")
    for name, text in one(render(), "Secret", "dlcloud-ca")["data"].items():
        (folder / name).write_bytes(b64decode(text))
    certificates = sign_with(folder, rendezvous_names("https://127.0.0.1"))
    return f"https://127.0.0.1:{serve(certificates.context).server_port}", folder / "ca.crt"


def test_the_test_of_the_release_passes_where_all_is_well(store: Store, rendezvous: tuple[str, Path]) -> None:
    url, ca = rendezvous
    health = f"http://127.0.0.1:{serve().server_port}"
    surroundings = {"HEALTH_URL": health, "RENDEZVOUS_URL": url, "CA_FILE": str(ca), **store.keys("AWS")}
    done = script("check_release.py", **surroundings)
    assert (done.returncode, done.stdout) == (0, "operator: ok\nrendezvous: ok\nobject store: ok\n"), done.stderr


def test_the_test_of_the_release_names_what_is_wrong(
    rendezvous: tuple[str, Path], store: Store, tmp_path: Path
) -> None:
    url, _ = rendezvous
    (tmp_path / "other.crt").write_bytes(
        b64decode(one(render(release="other"), "Secret", "other-dlcloud-ca")["data"]["ca.crt"])
    )
    health = f"http://127.0.0.1:{serve(ready=False).server_port}"
    surroundings = {"HEALTH_URL": health, "RENDEZVOUS_URL": url, "CA_FILE": str(tmp_path / "other.crt"), "WAIT_S": "0"}
    done = script("check_release.py", **surroundings, **(store.keys("AWS") | {"S3_SECRET_KEY": "wrong"}))
    assert done.returncode == 1
    operator, leader, objects = done.stderr.splitlines()
    assert operator == f"operator: {health}/readyz: answered 503, expected 200"
    assert "CERTIFICATE_VERIFY_FAILED" in leader
    assert "answered 403" in objects
