"""What stands beside the operator: Kubeflow's training operator, built from its Go module, and a bare client.

May import this package. The build is kept in the user's cache; nothing of it gets into the project.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.control_plane.client import Client
from benchmarks.control_plane.measured import Measured
from benchmarks.control_plane.plane import Plane
from benchmarks.control_plane.waiting import until
from tests.rig.processes import free_ports

VERSION = "v1.8.1"
MODULE = "github.com/kubeflow/training-operator"
CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    / "dlcloud"
    / "peers"
    / f"training-operator-{VERSION}"
)
CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")  # the peer's own constant
NAMESPACE = "kubeflow"
SECRET = "training-operator-webhook-cert"
KINDS = ("mpijobs", "mxjobs", "paddlejobs", "pytorchjobs", "tfjobs", "xgboostjobs")


class NotBuilt(Exception):
    """The peer cannot be had here; the message says why."""


def built() -> tuple[Path, Path]:
    """The peer's program and its module's folder; builds it the first time (minutes). Raises NotBuilt."""
    go = shutil.which("go")
    if go is None:
        raise NotBuilt("there is no Go; without it Kubeflow's training operator is left out")
    CACHE.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false -trimpath"}
    program = CACHE / "training-operator"
    try:
        if not (CACHE / "go.mod").exists():
            _run([go, "mod", "init", "dlcloud.local/training-operator"], env)
            _run([go, "get", f"{MODULE}@{VERSION}"], env)
        if not program.exists():
            print(f"building Kubeflow's training operator {VERSION} into {CACHE} (once; minutes)")
            _run([go, "build", "-ldflags", "-s -w", "-o", str(program), f"{MODULE}/cmd/training-operator.v1"], env)
        return program, Path(_run([go, "list", "-m", "-f", "{{.Dir}}", MODULE], env).strip())
    except subprocess.CalledProcessError as error:
        raise NotBuilt(f"{' '.join(error.cmd)}: {error.stderr[-500:]}") from None


def _run(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, cwd=CACHE, env=env, check=True, capture_output=True, text=True).stdout


@contextlib.asynccontextmanager
async def training_operator(client: Client, plane: Plane, folder: Path) -> AsyncIterator[Measured]:
    """The peer at work with its default settings, as administrator."""
    program, module = built()
    for kind in KINDS:
        text = (module / "manifests" / "base" / "crds" / f"kubeflow.org_{kind}.yaml").read_text()
        await client.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(text))
    await client.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    # Its certificates are for an admission webhook that a process outside of the cluster cannot serve: none is asked.
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    await client.create(hooks, {"metadata": {"name": "validator.training-operator.kubeflow.org"}, "webhooks": []})
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    await client.create(secrets, {"metadata": {"name": SECRET}})
    metrics, probes, webhook = free_ports(3)
    command = [
        str(program), "--metrics-bind-address", f"127.0.0.1:{metrics}", "--health-probe-bind-address",
        f"127.0.0.1:{probes}", "--webhook-server-port", str(webhook),
    ]  # fmt: skip
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": "/tmp",
        "KUBECONFIG": str(plane.kubeconfig),
    }
    with Measured(command, folder / "training-operator.log", environment) as peer:
        try:
            await _hand_certificates(client, f"{secrets}/{SECRET}", peer)

            async def works() -> bool:
                peer.check()
                return peer.log.read_text().count("Starting workers") >= len(KINDS)

            await until(works, 90, "the training operator's start")
            yield peer
        finally:
            shutil.rmtree(CERTIFICATES.parent, ignore_errors=True)


async def _hand_certificates(client: Client, path: str, peer: Measured) -> None:
    """What the kubelet does in a cluster: the Secret's keys become files."""

    async def written() -> bool:
        peer.check()
        data: dict[str, Any] = (await client.request("GET", path)).get("data") or {}
        if "tls.key" not in data:
            return False
        write_certificates({name: base64.b64decode(value) for name, value in data.items()})
        return True

    await until(written, 60, "the training operator's certificates")


def write_certificates(files: dict[str, bytes]) -> None:
    CERTIFICATES.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (CERTIFICATES / name).write_bytes(content)
