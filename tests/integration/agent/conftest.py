"""A small rendezvous server and real agents for the tests of this folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import dlcloud_trainer
from dlcloud_trainer.agent_build import build_agent

LIMIT_S = 30.0
JOB_UID = "11111111-2222-3333-4444-555555555555"


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """The condition's first true value. Fails after the limit."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s:g} s: {what}")
        time.sleep(0.002)
    return value


@dataclass
class Pod:
    """What the server knows of one pod."""

    instruction: dict[str, Any] | None = None
    reports: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    requests: int = 0
    refuse_with: int = 0


class Rendezvous:
    """The operator's side of docs/protocol.md section 2, on 127.0.0.1."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.pods: dict[str, Pod] = {}
        self.changed = threading.Condition()
        self.closing = False
        handler = type("Handler", (_Handler,), {"rendezvous": self})
        self.server = _Server(("127.0.0.1", port), handler)
        self.scheme = "http"
        if tls is not None:
            self.scheme = "https"
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def pod(self, name: str) -> Pod:
        with self.changed:
            return self.pods.setdefault(name, Pod())

    def tell(self, name: str, instruction: dict[str, Any]) -> float:
        """Give a pod its next instruction; the time it was given."""
        pod = self.pod(name)
        with self.changed:
            pod.instruction = instruction
            self.changed.notify_all()
            return time.monotonic()

    def report(self, name: str, matches: Callable[[dict[str, Any]], Any], limit_s: float = LIMIT_S) -> dict[str, Any]:
        """The first report that matches; its arrival (monotonic s) is in `arrivedAt`."""
        pod = self.pod(name)

        def find() -> dict[str, Any] | None:
            return next(({**report, "arrivedAt": at} for at, report in list(pod.reports) if matches(report)), None)

        with self.changed:
            if not self.changed.wait_for(find, limit_s):
                last = pod.reports[-1:] or "no report"
                pytest.fail(f"no such report of {name} within {limit_s:g} s; the last one: {last}")
        found = find()
        assert found is not None
        return found

    def result(self, name: str, round: int, rank: int = 0, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """How a rank ended; with `arrivedAt`."""

        def of(report: dict[str, Any]) -> dict[str, Any] | None:
            return next((r for r in report["results"] if (r["round"], r["rank"]) == (round, rank)), None)

        report = self.report(name, of, limit_s)
        return {**(of(report) or {}), "arrivedAt": report["arrivedAt"]}

    def close(self) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()
        for connection in self.server.connections:  # as when the process ends
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: list[socket.socket] = []

    def get_request(self) -> Any:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An agent that was killed in the middle of a request is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rendezvous: Rendezvous

    def setup(self) -> None:
        super().setup()
        self.wfile = self.connection.makefile("wb", buffering=-1)  # one write per answer: no 40 ms of delayed ACK

    def answer(self, status: int, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def pod(self) -> Pod | None:
        name = self.path.split("/pods/")[1].split("/")[0]
        pod = self.rendezvous.pod(name)
        pod.requests += 1
        if self.headers["Authorization"] != f"Bearer token-of-{name}" or pod.refuse_with:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(pod.refuse_with or 401, {"error": "refused"})
            return None
        return pod

    def do_GET(self) -> None:
        pod = self.pod()
        if pod is None:
            return
        after = int(self.path.split("after=")[1].split("&")[0])
        server = self.rendezvous

        def news() -> bool:
            told = pod.instruction
            return told is not None and (told["kind"] == "finished" or told["round"] > after)

        with server.changed:
            server.changed.wait_for(lambda: news() or server.closing, 25)
        if server.closing:
            self.close_connection = True
            return
        self.answer(200, pod.instruction) if news() else self.answer(204)

    def do_POST(self) -> None:
        pod = self.pod()
        if pod is None:
            return
        report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.rendezvous.changed:
            pod.reports.append((time.monotonic(), report))
            self.rendezvous.changed.notify_all()
        self.answer(200, {})

    def log_message(self, *args: Any) -> None:
        pass


@dataclass
class Agent:
    """A running agent and the files around it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    termination: Path
    started_at: float

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self, start: str = "[rank 0] ") -> list[str]:
        return [line[len(start) :] for line in self.text().splitlines() if line.startswith(start)]

    def line(self, text: str, limit_s: float = LIMIT_S) -> str:
        """The first line of the log that contains the text."""

        def find() -> str | None:
            return next((line for line in self.text().splitlines() if text in line), None)

        deadline = time.monotonic() + limit_s
        while (found := find()) is None:
            if time.monotonic() > deadline:
                pytest.fail(f"{text!r} not in the log within {limit_s:g} s:\n{self.text()[-3000:]}")
            time.sleep(0.002)
        return found

    def wait(self, limit_s: float = LIMIT_S) -> int:
        return self.process.wait(limit_s)

    def last_words(self) -> dict[str, Any]:
        return dict(json.loads(self.termination.read_bytes()))


def children(pid: int) -> list[int]:
    """Child processes, by any of the parent's threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def script_job(command: list[str], **more: Any) -> dict[str, Any]:
    """The `job` of an instruction for a script."""
    job: dict[str, Any] = {"namespace": "default", "name": "job", "uid": JOB_UID, "workload": "", "parameters": {}}
    return {**job, "script": {"command": command, "args": []}, "checkpoint": None, "resumeFrom": "", **more}


def round_of(number: int, job: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An instruction for one worker with one rank, unless told otherwise."""
    instruction = {
        "kind": "round", "round": number, "nonce": f"nonce{number}", "ranks": [0], "worldSize": 1, "workers": 1,
        "index": 0, "masterAddr": "127.0.0.1", "masterPort": 29500, "threads": 1, "restarts": number - 1,
        "initS": 120, "checkpointS": 300, "job": job,
    }  # fmt: skip
    return {**instruction, **more}


@pytest.fixture
def rendezvous() -> Iterator[Rendezvous]:
    server = Rendezvous()
    yield server
    server.close()


@pytest.fixture(scope="session")
def agent_pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_agent(tmp_path_factory.mktemp("agent") / "agent.pyz")


def make_python(folder: Path, *paths: Path) -> str:
    """An interpreter of its own, whose only packages are those in the given folders."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "paths.pth").write_text("".join(f"{path}\n" for path in paths))
    return str(folder / "bin" / "python3")


@pytest.fixture(scope="session")
def light_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with our package and without torch: its zygote is ready in a tenth of the time."""
    return make_python(tmp_path_factory.mktemp("light") / "venv", Path(dlcloud_trainer.__file__).parents[1])


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The python3 of a user's own image: nothing of ours in it."""
    return make_python(tmp_path_factory.mktemp("bare") / "venv")


StartAgent = Callable[..., Agent]


@pytest.fixture
def start_agent(tmp_path: Path, agent_pyz: Path, rendezvous: Rendezvous, light_python: str) -> Iterator[StartAgent]:
    """Start an agent of this pod name; its python has no torch unless another one is given."""
    agents: list[Agent] = []

    def start(
        name: str = "job-0-1",
        *,
        python: str = "",
        url: str = "",
        prefix: list[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> Agent:
        token, log, termination = (tmp_path / f"{name}.{kind}" for kind in ("token", "log", "termination"))
        token.write_text(f"token-of-{name}\n")
        variables = {
            "DLCLOUD_RENDEZVOUS_URL": url or rendezvous.url,
            "DLCLOUD_TOKEN_FILE": str(token),
            "DLCLOUD_NAMESPACE": "default",
            "DLCLOUD_JOB": "job",
            "DLCLOUD_JOB_UID": JOB_UID,
            "DLCLOUD_INDEX": "0",
            "DLCLOUD_POD": name,
            "DLCLOUD_POD_UID": f"uid-of-{name}",
            "DLCLOUD_POD_IP": "127.0.0.1",
            "DLCLOUD_WORKLOAD": "",
            "DLCLOUD_PROCESSES": "1",
            "DLCLOUD_DRAIN_S": "10",
            "DLCLOUD_TERMINATION_LOG": str(termination),
            **(env or {}),
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DLCLOUD_", "PYTEST"))}
        started_at = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*(prefix or []), python or light_python, "-S", "-E", str(agent_pyz)],
                env={**inherited, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=tmp_path,
            )
        agents.append(Agent(name, process, log, termination, started_at))
        return agents[-1]

    yield start
    for agent in agents:
        family = [pid for child in children(agent.process.pid) for pid in [child, *children(child)]]
        if agent.process.poll() is None:
            agent.process.send_signal(signal.SIGKILL)
            agent.process.wait(10)
        wait_until(lambda pids=family: not any(map(alive, pids)), "the agent's processes died with it", 10)


@pytest.fixture
def round_script() -> Callable[..., dict[str, Any]]:
    """`round_script(number, *command, **fields)`: the instruction for a round of a script job."""
    return lambda number, *command, **more: round_of(number, script_job(list(command)), **more)


@pytest.fixture
def round_workload() -> Callable[..., dict[str, Any]]:
    """`round_workload(number, name, **job)`: the instruction for a round of a built-in workload."""
    return lambda number, name, **job: round_of(number, script_job([], workload=name, script=None, **job))


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def processes_below() -> Callable[[int], list[int]]:
    """Child processes of a pid."""
    return children


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


@pytest.fixture
def make_rendezvous() -> Iterator[Callable[..., Rendezvous]]:
    servers: list[Rendezvous] = []

    def make(port: int = 0, tls: ssl.SSLContext | None = None) -> Rendezvous:
        servers.append(Rendezvous(port, tls))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
