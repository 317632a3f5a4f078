"""Puts the operator on a control plane as the chart does, and runs it as its real process.

May import the API package (the CRD), tests.rig and this package. The process has the chart's rights and no more.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from benchmarks.control_plane.client import Client, RequestFailed
from benchmarks.control_plane.manifests import NAMESPACE
from benchmarks.control_plane.measured import Measured
from benchmarks.control_plane.plane import Plane
from benchmarks.control_plane.waiting import until
from dlcloud_operator.api.crd import build_crd
from tests.rig.binaries import find_programs
from tests.rig.keys import make_ca, write_kubeconfig
from tests.rig.processes import free_ports
from tests.rig.versions import KUBERNETES

ROOT = Path(__file__).resolve().parents[2]
OWN_NAMESPACE = "dlcloud-system"
POD = "dlcloud-operator-0"
RELEASE = "dlcloud"
_RIGHTS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{OWN_NAMESPACE}/leases/dlcloud-operator"
_READY_S = 90.0


class Installation:
    """The CRD, the rights, and what an operator process is started with."""

    def __init__(self, client: Client, plane: Plane, folder: Path) -> None:
        self.client, self._plane, self._folder = client, plane, folder
        self.rendezvous_port, self.metrics_port = free_ports(2)
        self.rendezvous_name = f"{RELEASE}-rendezvous.{OWN_NAMESPACE}.svc"
        self.tls = folder / "tls"
        self._last_holder = ""

    async def apply(self) -> None:
        """Everything but the process."""
        self.tls.mkdir()
        make_ca(self.tls)
        await self.client.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", build_crd())
        for name in (OWN_NAMESPACE, NAMESPACE):
            await self.client.create("/api/v1/namespaces", {"metadata": {"name": name}})
        chart = _rendered_chart()
        template = next(document["spec"]["template"] for document in chart if _is_operator(document))
        account = template["spec"]["serviceAccountName"]
        told = {"$(POD_NAMESPACE)": OWN_NAMESPACE, "$(POD_NAME)": POD}
        flags = template["spec"]["containers"][0]["args"]
        self._chart_flags = [functools.reduce(lambda text, key: text.replace(key, told[key]), told, f) for f in flags]
        rights = [document for document in chart if document["kind"] in _RIGHTS]
        for document in sorted(rights, key=lambda document: _RIGHTS.index(document["kind"])):
            await self.client.create(_collection(document), document)
        for name in (OWN_NAMESPACE, NAMESPACE):
            await self.client.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default")
        pod = {
            "metadata": {"name": POD, "labels": {"app.kubernetes.io/name": "dlcloud-operator"}},
            "spec": {"serviceAccountName": account, "containers": [{"name": "operator", "image": "none"}]},
        }
        await self.client.create(f"/api/v1/namespaces/{OWN_NAMESPACE}/pods", pod)
        path = f"/api/v1/namespaces/{OWN_NAMESPACE}/serviceaccounts/{account}/token"
        answer = await self.client.request("POST", path, {"spec": {"expirationSeconds": 86400}})
        token = {"token": answer["status"]["token"]}
        self.kubeconfig = write_kubeconfig(
            self._folder / "operator.kubeconfig", self._plane.url, self._plane.ca.read_bytes(), token, OWN_NAMESPACE
        )
        await self.client.exists("/apis/dlcloud.dev/v1/trainingjobs")

    def start(self, profile: Path | None = None) -> Measured:
        """The operator's process; `profile`: with a sampler, which writes there."""
        module = ["benchmarks.control_plane.profiled", str(profile)] if profile else ["dlcloud_operator"]
        own = {
            "kubeconfig": self.kubeconfig,
            "host": "127.0.0.1",
            "rendezvous-port": self.rendezvous_port,
            "rendezvous-url": f"https://{self.rendezvous_name}:{self.rendezvous_port}",
            "metrics-port": self.metrics_port,
            "tls-ca-dir": self.tls,
        }
        given = [flag for flag in self._chart_flags if flag.removeprefix("--").split("=")[0] not in own]
        flags = [*given, *(f"--{name}={value}" for name, value in own.items())]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        return Measured([sys.executable, "-m", *module, *flags], self._folder / "operator.log", environment)

    async def ready(self, operator: Measured) -> float:
        """Waits until it is ready and holds the lease; CLOCK_MONOTONIC then. Raises RuntimeError, TimeoutError."""
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.metrics_port}") as session:

            async def answers() -> bool:
                operator.check()
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get("/readyz") as answer:
                        return answer.status == 200
                return False

            await until(answers, _READY_S, "the operator's readiness", 0.02)

        async def leads() -> bool:
            operator.check()
            holder = await self._lease_holder()
            led = holder not in ("", self._last_holder)
            self._last_holder = holder if led else self._last_holder
            return led

        await until(leads, _READY_S, "the operator's lease", 0.02)
        return time.monotonic()

    async def scrape(self) -> float:
        """Read /metrics as Prometheus does; the seconds it took."""
        began = time.monotonic()
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            await answer.read()
        return time.monotonic() - began

    async def free_lease(self) -> None:
        """Remove the lease that a killed operator left."""
        with contextlib.suppress(RequestFailed):
            await self.client.request("DELETE", LEASE)

    async def _lease_holder(self) -> str:
        try:
            lease = await self.client.request("GET", LEASE)
        except RequestFailed:
            return ""
        return str(lease["spec"].get("holderIdentity") or "")


def _rendered_chart() -> list[dict[str, Any]]:
    """What `helm install` would make, hooks left out."""
    helm = shutil.which("helm") or find_programs(("helm",))["helm"]
    command = [str(helm), "template", RELEASE, str(ROOT / "charts"), "--namespace", OWN_NAMESPACE, "--no-hooks"]
    rendered = subprocess.run([*command, "--kube-version", KUBERNETES], check=True, capture_output=True, text=True)
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def _is_operator(document: dict[str, Any]) -> bool:
    return document["kind"] == "Deployment" and str(document["metadata"]["name"]).endswith("operator")


def _collection(document: dict[str, Any]) -> str:
    plural = document["kind"].lower() + "s"
    root = "/api/v1" if document["kind"] == "ServiceAccount" else "/apis/rbac.authorization.k8s.io/v1"
    namespace = "" if document["kind"].startswith("Cluster") else document["metadata"].get("namespace", OWN_NAMESPACE)
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
