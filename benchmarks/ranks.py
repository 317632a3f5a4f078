"""Real rank processes without agent and operator: for figures and tests about the training loop alone.

A small server process imports the trainer and forks the ranks, as the zygote does; each rank is
`dlcloud_trainer.rank.main` itself.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

SERVER = """
import gc, json, os, select, signal, sys
gc.disable()
import dlcloud_trainer.rank as rank
import dlcloud_trainer.workloads.cnn
sys.stdout.write("ready\\n"); sys.stdout.flush()
live = {}  # descriptor -> child; waiting costs nothing that a figure would show
pending = b""
while True:
    readable = select.select([0, *live], [], [])[0]
    if 0 in readable:
        data = os.read(0, 65536)
        if not data:
            break
        *lines, pending = (pending + data).split(b"\\n")
        for line in lines:
            order = json.loads(line)
            gc.freeze()
            child = os.fork()
            if child == 0:
                gc.enable()
                os.setsid()
                log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                events = os.open(order["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                null = os.open(os.devnull, os.O_RDONLY)
                os.dup2(null, 0); os.dup2(log, 1); os.dup2(log, 2)
                os.environ.update(order["env"], DLCLOUD_EVENTS_FD=str(events))
                rank.main()
            live[os.pidfd_open(child)] = child
            sys.stdout.write(f"forked {order['id']} {child}\\n"); sys.stdout.flush()
    for descriptor in live.keys() & set(readable):
        os.close(descriptor)
        child, status, used = os.wait4(live.pop(descriptor), 0)
        sys.stdout.write(f"ended {child} {os.waitstatus_to_exitcode(status)} {used.ru_maxrss}\\n"); sys.stdout.flush()
for child in live.values():
    os.kill(child, signal.SIGKILL)
"""


@dataclass
class RankProcess:
    """One rank. `events` and `log` are files it appends to."""

    rank: int
    pid: int
    events_file: Path
    log_file: Path
    server: RankServer

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Whole lines so far, of one kind or all."""
        if not self.events_file.exists():
            return []
        lines = self.events_file.read_text().split("\n")[:-1]
        return [event for line in lines if (event := json.loads(line)) and kind in ("", event["event"])]

    @property
    def exit_code(self) -> int | None:
        """As in subprocess, None while it runs."""
        return self.server.ended.get(self.pid)

    @property
    def peak_mib(self) -> float:
        """The process' largest resident size, once it has ended; what it shares with the server counts, too."""
        return self.server.peak_kib[self.pid] / 1024

    def wait(self, limit_s: float = 60) -> int:
        """The exit code; raises TimeoutError with the log's end."""
        with self.server.heard:
            self.server.heard.wait_for(lambda: self.exit_code is not None, limit_s)
        code = self.exit_code
        if code is None:
            raise TimeoutError(f"rank {self.rank} still runs after {limit_s} s\n{self.log}")
        return code

    def wait_for_event(self, kind: str, limit_s: float = 60, **wanted: Any) -> dict[str, Any]:
        """The first event of this kind with these fields."""
        end = time.monotonic() + limit_s
        while True:
            ended = self.exit_code is not None
            for event in self.events(kind):
                if all(event.get(name) == value for name, value in wanted.items()):
                    return event
            if ended or time.monotonic() > end:
                raise TimeoutError(f"rank {self.rank}: no {kind} {wanted}\n{self.log}")
            time.sleep(0.002)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to this rank alone."""
        os.kill(self.pid, number)

    @property
    def log(self) -> str:
        """Output and errors so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


@dataclass
class RankServer:
    """Forks ranks; a context manager that leaves none behind."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    prelude: str = ""  # Python to run before the trainer is used
    ended: dict[int, int] = field(default_factory=dict)
    peak_kib: dict[int, int] = field(default_factory=dict)
    heard: threading.Condition = field(default_factory=threading.Condition)
    _forked: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> RankServer:
        env = {**os.environ, "OMP_NUM_THREADS": "1", **self.env}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{self.prelude}\n{SERVER}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            cwd=self.folder,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the rank server did not start")
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)

    def start_round(
        self,
        job: dict[str, Any],
        *,
        world_size: int = 1,
        round: int = 1,
        ranks: list[int] | None = None,
        env: dict[str, str] | None = None,
        **assignment: Any,
    ) -> list[RankProcess]:
        """Fork the ranks of one round; `job` as in the assignment, its missing fields filled in."""
        text = json.dumps(round_assignment(job, world_size=world_size, round=round) | assignment)
        chosen = list(range(world_size)) if ranks is None else ranks
        return [self._fork(rank, json.loads(text), env or {}) for rank in chosen]

    def _fork(self, rank: int, assignment: dict[str, Any], env: dict[str, str]) -> RankProcess:
        order = f"{assignment['round']}-{rank}-{secrets.token_hex(3)}"
        events, log = self.folder / f"events-{order}", self.folder / f"log-{order}"
        world = str(assignment["worldSize"])
        env = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
            "DLCLOUD_ASSIGNMENT": json.dumps(assignment), **env,
        }  # fmt: skip
        line = {"id": order, "env": env, "events": str(events), "log": str(log)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()
        with self.heard:
            if not self.heard.wait_for(lambda: order in self._forked, 20):
                raise TimeoutError("the rank server does not fork")
        return RankProcess(rank, self._forked[order], events, log, self)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *rest = line.decode().split()
            with self.heard:
                if word == "forked":
                    self._forked[rest[0]] = int(rest[1])
                else:
                    self.peak_kib[int(rest[0])] = int(rest[2])
                    self.ended[int(rest[0])] = int(rest[1])
                self.heard.notify_all()


def round_assignment(job: dict[str, Any], *, world_size: int, round: int) -> dict[str, Any]:
    """An assignment for ranks on this machine, on a free port."""
    defaults = {
        "namespace": "default", "name": "cnn", "uid": "1", "workload": "cnn", "parameters": {}, "script": None,
        "data": {"uri": "builtin://digits"}, "checkpoint": None, "resumeFrom": "",
        "objectStore": {"endpoint": "", "region": "us-east-1"},
    }  # fmt: skip
    return {
        "kind": "round", "round": round, "nonce": secrets.token_hex(8), "ranks": [0], "worldSize": world_size,
        "workers": world_size, "index": 0, "masterAddr": "127.0.0.1", "masterPort": free_port(), "threads": 1,
        "restarts": round - 1, "initS": 60, "checkpointS": 60, "job": {**defaults, **job},
    }  # fmt: skip


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
