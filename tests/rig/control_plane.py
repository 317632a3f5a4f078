"""etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok as processes on 127.0.0.1: `ControlPlane`.

May import this package. Every instance has a folder and ports of its own. Nothing runs in a pod: no image is pulled, no
process started, unless something plays the kubelet.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from . import keys, nodes
from .binaries import CONTROL_PLANE, find_programs
from .client import KubeError
from .cluster import Cluster
from .processes import Program, RigError, free_ports, until

ETCD, API_SERVER = "etcd", "kube-apiserver"
CONTROLLER_MANAGER, SCHEDULER, KWOK = "kube-controller-manager", "kube-scheduler", "kwok"
READY_S = 90.0  # 4 s on an idle machine
TRIES = 3
# The controllers' own limits (20 to 50 requests/s) would be what a benchmark measures.
CLIENT_LIMITS = ("--kube-api-qps=2000", "--kube-api-burst=4000")
STAGES = Path(__file__).with_name("stages.yaml")


class ControlPlane(Cluster):
    """`with ControlPlane(folder) as plane: ...`; `folder` is its own, logs stay in it."""

    def __init__(
        self,
        folder: Path,
        *,
        controller_manager: bool = True,
        scheduler: bool = True,
        kwok_nodes: int = 0,
        audit: bool = False,
        api_server_flags: Sequence[str] = (),
        owner: int | None = None,
        detached: bool = False,
    ) -> None:
        """`kwok_nodes`: simulated nodes. `audit`: every request becomes a line of `audit_log`.

        Its processes die with process `owner` (this one when None), unless `detached`. Raises ProgramsMissing.
        """
        names = (*CONTROL_PLANE, *((KWOK,) if kwok_nodes else ()))
        self._programs = find_programs(names)
        super().__init__(folder / "kubeconfig", folder, self._programs["kubectl"], folder / "pki")
        self._controller_manager, self._scheduler, self._kwok_nodes = controller_manager, scheduler, kwok_nodes
        self._flags = [*api_server_flags, *(audit_flags(folder) if audit else ())]
        lives_with = None if detached else owner or os.getpid()
        self._running = {
            name: Program(name, folder / f"{name}.log", lives_with)
            for name in (ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER, KWOK)
        }
        self._ports: list[int] = []

    @property
    def audit_log(self) -> Path:
        """A JSON object a line for each request, where `audit` was asked for."""
        return self.folder / "audit.log"

    @property
    def signing_key(self) -> Path:
        """The private key (PEM, RSA) that service accounts' tokens are signed with."""
        return self.folder / "pki" / "sa.key"

    def pid(self, name: str) -> int:
        """Of "kube-apiserver", "etcd" and so on. Raises RigError when it is not running."""
        return self._running[name].pid

    def pids(self) -> dict[str, int]:
        """Of all that run."""
        return {name: program.pid for name, program in self._running.items() if program.running}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- all of it ---

    def start(self) -> None:
        """Return when the API server serves and the controllers work (about 5 s). Raises RigError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        keys.make_all(self.folder / "pki")
        for attempt in range(1, TRIES + 1):
            self._ports = free_ports(4)  # one may be taken before its program listens
            try:
                self._start()
                return
            except RigError:
                self.stop()
                if attempt == TRIES:
                    raise
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Kill all programs: their data is worth nothing. Logs stay."""
        if "api" in self.__dict__:
            self.api.close()
            del self.__dict__["api"]
        for program in reversed(self._running.values()):
            program.stop(grace_s=0)
        shutil.rmtree(self.folder / "etcd-data", ignore_errors=True)

    def _start(self) -> None:
        etcd, api, peer = (f"127.0.0.1:{port}" for port in self._ports[:3])
        token = {"token": keys.admin_token(self.folder / "pki")}
        authority = (self.folder / "pki" / "ca.crt").read_bytes()
        keys.write_kubeconfig(self.kubeconfig, f"https://{api}", authority, token)
        self._run(
            ETCD,
            "--name=rig",
            "--data-dir=etcd-data",
            "--unsafe-no-fsync",  # the data may be lost: no need to wait for the disk
            f"--listen-client-urls=http://{etcd}",
            f"--advertise-client-urls=http://{etcd}",
            f"--listen-peer-urls=http://{peer}",
            f"--initial-advertise-peer-urls=http://{peer}",
            f"--initial-cluster=rig=http://{peer}",
            f"--quota-backend-bytes={4 << 30}",
            "--log-level=warn",
        )
        self.start_api_server()
        if self._controller_manager:
            self._run(
                CONTROLLER_MANAGER,
                *("--kubeconfig=kubeconfig", "--leader-elect=false", "--secure-port=0", *CLIENT_LIMITS),
                "--service-account-private-key-file=pki/sa.key",
                "--root-ca-file=pki/ca.crt",
                "--concurrent-namespace-syncs=4",
            )
        if self._scheduler:
            self._run(SCHEDULER, "--kubeconfig=kubeconfig", "--leader-elect=false", "--secure-port=0", *CLIENT_LIMITS)
        if self._controller_manager:
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            needs = self._running[CONTROLLER_MANAGER]
            until("the controllers work", lambda: self.api.find(account), READY_S, needs)
        if self._kwok_nodes:
            self.start_kwok(self._kwok_nodes)

    def start_kwok(self, count: int) -> None:
        """Start kwok, with `count` nodes; return when they are ready. Raises ProgramsMissing."""
        self._programs = {**self._programs, **find_programs((KWOK,))}
        self._run(
            KWOK,
            "--kubeconfig=kubeconfig",
            f"--config={STAGES}",
            f"--manage-nodes-with-annotation-selector={nodes.SELECTOR}",
            f"--server-address=127.0.0.1:{self._ports[3]}",
            "--node-ip=127.0.0.1",
            "--node-lease-duration-seconds=40",
            "--v=WARN",
        )
        nodes.make_nodes(self.api, count)
        until(f"{count} nodes are ready", lambda: nodes.ready(self.api) >= count, READY_S, self._running[KWOK])

    # --- the API server ---

    def start_api_server(self) -> None:
        """Start it on the port it had, and return when it is ready. Raises RigError."""
        self._run(
            API_SERVER,
            f"--etcd-servers=http://127.0.0.1:{self._ports[0]}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports[1]}",
            "--tls-cert-file=pki/serving.crt",
            "--tls-private-key-file=pki/serving.key",
            "--client-ca-file=pki/ca.crt",
            "--token-auth-file=pki/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=pki/sa.pub",
            "--service-account-signing-key-file=pki/sa.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",  # a loopback address may not be in the endpoints of "kubernetes"
            "--allow-privileged",
            "--max-requests-inflight=3000",
            "--max-mutating-requests-inflight=1500",
            *self._flags,
        )
        until("the API server is ready", self._api_server_ready, READY_S, self._running[API_SERVER])

    def stop_api_server(self, grace_s: float = 3.0) -> None:
        """Terminate it: it takes no new requests and waits for its watches to end; after `grace_s` it is killed."""
        self._running[API_SERVER].stop(grace_s)

    def kill_api_server(self) -> None:
        """SIGKILL; it stays away until `start_api_server`."""
        self._running[API_SERVER].stop(grace_s=0)

    def restart_api_server(self, *, kill: bool = False) -> None:
        """Stop it (or kill it), start it, return when it is ready again."""
        if kill:
            self.kill_api_server()
        else:
            self.stop_api_server()
        self.start_api_server()

    @contextlib.contextmanager
    def paused(self, name: str = API_SERVER) -> Iterator[None]:
        """A program that does not answer, for the length of a block: SIGSTOP, SIGCONT."""
        try:
            self._running[name].stand_still()
            yield
        finally:
            with contextlib.suppress(RigError):
                self._running[name].signal(signal.SIGCONT)

    def forget_history(self) -> None:
        """From now on earlier resource versions are 410 Gone: etcd is compacted, the watch cache emptied."""
        answer = self._etcd("/v3/kv/range", {"key": base64.b64encode(b"x").decode()})
        self._etcd("/v3/kv/compaction", {"revision": answer["header"]["revision"], "physical": True})
        self.restart_api_server(kill=True)

    # --- inside ---

    def _etcd(self, path: str, body: Any) -> Any:
        url = f"http://127.0.0.1:{self._ports[0]}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10) as answer:
            return json.load(answer)

    def _api_server_ready(self) -> bool:
        try:
            return self.api.text("/readyz") == "ok"
        except KubeError:
            return False

    def _run(self, name: str, *flags: str) -> None:
        environment = {"PATH": os.defpath, "HOME": str(self.folder), "GOGC": "75"}
        self._running[name].start([str(self._programs[name]), *flags], environment)


def audit_flags(folder: Path) -> list[str]:
    """The API server's flags for a line per request in `folder`/audit.log."""
    folder.mkdir(parents=True, exist_ok=True)
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }
    (folder / "audit-policy.yaml").write_text(json.dumps(policy))
    return ["--audit-policy-file=audit-policy.yaml", "--audit-log-path=audit.log"]
