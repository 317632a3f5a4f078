"""A release of the chart without kubelets: its rights and its Deployment's arguments, the operator as processes here.

Nothing but the chart says what the operator may do and how it is started; only addresses, ports and folders are ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from ...rig import keys, versions
from ...rig.binaries import find_programs
from ...rig.cluster import Cluster
from ...rig.kubelet.client import LoopThread
from ...rig.processes import Program, free_ports, until
from .proxy import Proxy

CHART = Path(__file__).parents[3] / "charts"
RELEASE = "rel"
LEADER = "dlcloud.dev/leader=true"
_RIGHTS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
_OURS = (
    "--tls-ca-dir",
    "--tls-dir",
    "--rendezvous-port",
    "--rendezvous-url",
    "--metrics-port",
    "--host",
    "--log-format",
)
_TRACEBACK = "Traceback (most recent call last)"
_INHERITED = ("PATH", "HOME", "LANG", "TZ", "PYTHONPATH")
READY_S = 30.0

Object = dict[str, Any]


class Installation:
    """`with Installation(cluster, folder, namespaces) as release:`; `release.start_operator()` as often as wanted."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        namespaces: Sequence[str] = (),
        *,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """`namespaces`: those watched, with Roles; none: all, with a ClusterRole. `values` are the chart's."""
        self.cluster, self.folder = cluster, folder
        self.operators: list[OperatorProcess] = []
        self._egress = folder / "egress.json"
        self._values: Object = {"watchNamespaces": list(namespaces), "s3": {"enabled": False}, **(values or {})}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.namespace = self.cluster.make_namespace("operator", {})
        self.apply_rights()
        self.tls = self.folder / "tls"
        self.tls.mkdir(mode=0o700, exist_ok=True)
        keys.make_ca(self.tls)
        self.kubeconfig = self.cluster.kubeconfig_for_service_account(self.namespace, self._account)
        self.service = Service(self.cluster, self.namespace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for operator in self.operators:
            operator.stop(grace_s=5)
        self.service.close()
        self.cluster.kubectl("delete", "--wait=false", "--ignore-not-found", "-f", "-", given=self._cluster_rights)
        self.cluster.delete_namespace(self.namespace)

    @property
    def ca(self) -> str:
        return (self.tls / "ca.crt").read_text()

    # --- what the chart says ---

    def render(self, **values: Any) -> list[Object]:
        """The chart's objects with this release's values and more."""
        path = self.folder / "values.yaml"
        path.write_text(yaml.safe_dump({**self._values, **values}))
        helm = find_programs(("helm",))["helm"]
        command: list[str | Path] = [helm, "template", RELEASE, CHART, "--namespace", self.namespace, "--values", path]
        command += ["--kube-version", versions.KUBERNETES]  # a helm that was built plainly takes an old one
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def apply_rights(self, **values: Any) -> None:
        """The service account and exactly the chart's roles; operators that start from now on get these values."""
        documents = self.render(**values)
        self._deployment = self._deployment_of(documents)
        for one in documents:
            if one["kind"] == "ConfigMap" and "egress.json" in one["data"]:
                self._egress.write_text(one["data"]["egress.json"])
        documents = [one for one in documents if one["kind"] in _RIGHTS and not _is_hook(one)]
        self.cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(documents))
        self._account = self._deployment["spec"]["template"]["spec"]["serviceAccountName"]
        cluster_wide = [one for one in documents if one["kind"].startswith("Cluster")]
        self._cluster_rights = yaml.safe_dump_all(cluster_wide)

    @property
    def lease_name(self) -> str:
        return next(arg.partition("=")[2] for arg in self.arguments() if arg.startswith("--lease-name="))

    def arguments(self) -> list[str]:
        """The flags of the Deployment, without those that are about the pod it would run in."""
        found = []
        for argument in self._container["args"]:
            if argument.partition("=")[0] not in _OURS:
                argument = argument.replace("/etc/dlcloud/egress/egress.json", str(self._egress))
                found.append(argument.replace("$(POD_NAMESPACE)", self.namespace))
        return found

    @property
    def _container(self) -> Object:
        return next(
            one for one in self._deployment["spec"]["template"]["spec"]["containers"] if one["name"] == "operator"
        )

    def _deployment_of(self, documents: list[Object]) -> Object:
        named = [one for one in documents if one["kind"] == "Deployment"]
        return next(one for one in named if one["metadata"]["name"].endswith("operator"))

    # --- its processes ---

    def start_operator(
        self, *flags: str, proxy: Proxy | None = None, name: str = "", wait: bool = True
    ) -> OperatorProcess:
        """One more operator process, with a pod object of its own; `name` takes an earlier one's place."""
        name = name or f"operator-{len(self.operators)}"
        uid = self._pod(name)
        (metrics, rendezvous) = free_ports(2)
        self.service.ports[name] = rendezvous
        kubeconfig = proxy.kubeconfig(self.kubeconfig) if proxy is not None else self.kubeconfig
        command = [
            *(sys.executable, "-m", "dlcloud_operator"),
            *[argument.replace("$(POD_NAME)", name) for argument in self.arguments()],
            f"--kubeconfig={kubeconfig}",
            *("--host=127.0.0.1", f"--rendezvous-port={rendezvous}", f"--metrics-port={metrics}"),
            *(f"--rendezvous-url={self.service.url}", f"--tls-ca-dir={self.tls}", "--log-format=text"),
            *flags,
        ]
        operator = OperatorProcess(name, self.folder / f"{name}.log", metrics, self)
        environment = {name: value for name, value in os.environ.items() if name in _INHERITED}
        operator.start(command, {**environment, "POD_NAMESPACE": self.namespace, "POD_NAME": name, "POD_UID": uid})
        self.operators.append(operator)
        if wait:
            operator.wait_ready()
        return operator

    def leader(self) -> str:
        """The name of the pod that carries the leader's label; empty when none does."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return next((pod["metadata"]["name"] for pod in self.cluster.api.items(path, labelSelector=LEADER)), "")

    def lease(self) -> Object | None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{self.lease_name}"
        found: Object | None = self.cluster.api.find(path)
        return found

    def logs(self) -> str:
        """What all its processes said."""
        return "".join(f"--- {one.name}\n{one.text()}" for one in {one.name: one for one in self.operators}.values())

    def _pod(self, name: str) -> str:
        """The operator's own pod, which nobody schedules; its uid."""
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        if (found := self.cluster.api.find(f"{pods}/{name}")) is not None:
            return str(found["metadata"]["uid"])
        labels = self._deployment["spec"]["template"]["metadata"]["labels"]
        container = {"name": "operator", "image": "none"}
        spec = {"containers": [container], "schedulerName": "nobody", "serviceAccountName": self._account}
        metadata = {"name": name, "labels": labels}
        return str(self.cluster.api.create(pods, {"metadata": metadata, "spec": spec})["metadata"]["uid"])


class OperatorProcess(Program):
    """One process of an installation."""

    def __init__(self, name: str, log: Path, metrics_port: int, release: Installation) -> None:
        super().__init__(name, log, os.getpid())
        self._metrics_port = metrics_port
        self._read_to = 0
        self._release = release

    def wait_ready(self, limit_s: float = READY_S) -> None:
        """Until /readyz says yes."""
        until(f"{self.name} is ready", self.ready, limit_s, self)

    def wait_leading(self, limit_s: float = READY_S) -> None:
        """Until its pod carries the leader's label, and no other does."""
        until(f"{self.name} leads", lambda: self._release.leader() == self.name, limit_s, self)

    def ready(self) -> bool:
        return self._status("readyz") == 200

    def healthy(self) -> bool:
        return self._status("healthz") == 200

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """The value of a metric without labels, or with exactly these."""
        for line in self.metrics().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise LookupError(f"no metric {name}")

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def turn_the_page(self) -> None:
        """What was said until now is read."""
        self._read_to = len(self.text())

    def tracebacks(self) -> list[str]:
        """What no operator should say, whatever happens."""
        return [line for line in self.text()[self._read_to :].splitlines() if _TRACEBACK in line]

    def troubles(self) -> list[str]:
        """What no operator should say where nothing is wrong: tracebacks, and lines of level ERROR."""
        lines = self.text()[self._read_to :].splitlines()
        return [line for line in lines if _TRACEBACK in line or re.search(r"\bERROR\b", line)]

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.stop(grace_s=0)

    def freeze(self) -> None:
        self.stand_still()

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def exit_code(self, limit_s: float = 20.0) -> int:
        """The code it ends with, which it must do by itself."""
        assert self._popen is not None
        return self._popen.wait(limit_s)

    def _status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


class Service:
    """What the rendezvous Service is to pods: a fixed address, behind it the pod that carries the leader's label."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.ports: dict[str, int] = {}
        self._cluster, self._path = cluster, f"/api/v1/namespaces/{namespace}/pods"
        self._asked_at, self._chosen = 0.0, ""
        self._thread = LoopThread("service")
        self._server: asyncio.Server = self._thread.run(self._start())
        self._port = self._server.sockets[0].getsockname()[1]

    @cached_property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def close(self) -> None:
        async def end() -> None:
            self._server.close()

        self._thread.run(end())
        self._thread.close()

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if time.monotonic() - self._asked_at > 0.2:
                self._asked_at = time.monotonic()
                self._chosen = await asyncio.to_thread(self._leader)
            there, back = await asyncio.open_connection("127.0.0.1", self.ports[self._chosen])
        except (OSError, KeyError):
            writer.close()
            return
        await asyncio.gather(_pump(reader, back), _pump(there, writer), return_exceptions=True)

    def _leader(self) -> str:
        with contextlib.suppress(Exception):
            return next(
                (pod["metadata"]["name"] for pod in self._cluster.api.items(self._path, labelSelector=LEADER)), ""
            )
        return self._chosen


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(Exception):
            writer.close()


def _is_hook(document: Object) -> bool:
    return "helm.sh/hook" in (document["metadata"].get("annotations") or {})
