"""Seconds until an agent reports, until a forked rank writes its first line, and until it makes its first step.

Beside each: torchrun or a fresh interpreter, in turn in the same run. `python -m benchmarks.startup -n 10`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, print_table, wait_for
from dlcloud_trainer.agent_build import build_agent

PEERS = Path(__file__).parent / "peers"
FIRST_LINE = PEERS / "first_line.py"
PROGRAM = PEERS / "ddp_digits.py"


class Rendezvous(ThreadingHTTPServer):
    """Hands out one round at a time and notes when reports arrive; no state beyond that."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.news = threading.Condition()
        self.assignment: dict[str, Any] | None = None
        self.reports: list[tuple[float, dict[str, Any]]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where the agent finds it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def hand_out(self, number: int, command: list[str]) -> float:
        """Offer the next round of a script; returns CLOCK_MONOTONIC at that moment."""
        port = self.reports[-1][1]["port"]
        job = {"namespace": "default", "name": "start", "uid": "u", "workload": "", "parameters": {}, "data": None}
        job |= {"script": {"command": command, "args": []}, "checkpoint": None, "resumeFrom": "", "objectStore": {}}
        with self.news:
            self.assignment = {
                "kind": "round", "round": number, "nonce": f"n{number}", "ranks": [0], "worldSize": 1, "workers": 1,
                "index": 0, "masterAddr": "127.0.0.1", "masterPort": port, "threads": 1, "restarts": number - 1,
                "initS": 120, "checkpointS": 300, "job": job,
            }  # fmt: skip
            self.news.notify_all()
        return time.monotonic()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Rendezvous

    def do_GET(self) -> None:
        after = int(self.path.split("after=")[1].split("&")[0])
        with self.server.news:
            self.server.news.wait_for(lambda: (self.server.assignment or {"round": 0})["round"] > after, timeout=20)
            answer = self.server.assignment
        if answer is None or answer["round"] <= after:
            self._answer(204, b"")
        else:
            self._answer(200, json.dumps(answer).encode())

    def do_POST(self) -> None:
        arrived = time.monotonic()
        self.server.reports.append((arrived, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self._answer(200, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(ConnectionError):  # an agent that was ended does not wait for its answer
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Agent:
    """One agent process, told nothing but this rendezvous."""

    def __init__(self, folder: Path, extra: dict[str, str]) -> None:
        folder.mkdir()
        (folder / "token").write_text("t")
        self.rendezvous = Rendezvous()
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1", **extra}
        env |= {
            "DLCLOUD_RENDEZVOUS_URL": self.rendezvous.url, "DLCLOUD_TOKEN_FILE": str(folder / "token"),
            "DLCLOUD_NAMESPACE": "default", "DLCLOUD_JOB": "start", "DLCLOUD_JOB_UID": "u", "DLCLOUD_INDEX": "0",
            "DLCLOUD_POD": "start-0-1", "DLCLOUD_POD_UID": "p", "DLCLOUD_POD_IP": "127.0.0.1", "DLCLOUD_WORKLOAD": "",
            "DLCLOUD_PROCESSES": "1", "DLCLOUD_DRAIN_S": "1",
        }  # fmt: skip
        agent = build_agent(folder / "agent.pyz")
        with (folder / "log").open("wb") as log:
            self.started_at = time.monotonic()
            self.process = subprocess.Popen([sys.executable, "-S", "-E", str(agent)], env=env, stdout=log, stderr=log)
        wait_for(lambda: self.rendezvous.reports, 30, "the agent's first report")
        self.first_report_s = self.rendezvous.reports[0][0] - self.started_at

    def close(self) -> None:
        """End the agent and its rendezvous."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.rendezvous.shutdown()


def clock_in(path: Path) -> float | None:
    """The first CLOCK_MONOTONIC a program has written, when it has."""
    text = path.read_text() if path.exists() else ""
    return float(text.split()[0]) if text.endswith("\n") else None


def first_step(path: Path, pid_before: int | None) -> tuple[float, int] | None:
    """Clock and pid of the first step that a newer process than `pid_before` wrote."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    steps = [(float(clock), int(pid)) for _, _, clock, _, pid in (line.split() for line in lines)]
    seen = [pid for _, pid in steps]
    start = len(seen) - seen[::-1].index(pid_before) if pid_before in seen else 0
    return steps[start] if start < len(steps) else None


def measure(folder: Path, runs: int) -> list[Figure]:
    """All figures; ours and the peer's in turn."""
    figures: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        figures.setdefault(name, []).append(seconds)

    for run in range(runs):
        agent = Agent(folder / f"start{run}", {})
        note("agent: exec -> first report", agent.first_report_s)
        agent.close()
        out = folder / f"torchrun{run}"
        note("torchrun: exec -> first line of its rank", _torchrun(FIRST_LINE, {"FIRST_LINE": str(out)}, out))
    _measure_first_lines(folder, runs, note)
    _measure_first_steps(folder, runs, note)
    return [Figure(name, "s", values) for name, values in figures.items()]


def _measure_first_lines(folder: Path, runs: int, note: Any) -> None:
    out = folder / "line"
    agent = Agent(folder / "lines", {"FIRST_LINE": str(out)})
    for run in range(runs + 1):  # the first one waits for the zygote's imports and is not counted
        out.unlink(missing_ok=True)
        begun = agent.rendezvous.hand_out(run + 1, ["python", str(FIRST_LINE)])
        wait_for(lambda: clock_in(out) is not None, 60, "the rank's first line")
        if run > 0:
            note("warm rank: assignment -> first line", (clock_in(out) or 0.0) - begun)
        cold = folder / f"cold{run}"
        begun = time.monotonic()
        env = {**os.environ, "FIRST_LINE": str(cold)}
        subprocess.run(
            [sys.executable, "-c", f"import torch, runpy; runpy.run_path({str(FIRST_LINE)!r})"], env=env, check=True
        )
        if run > 0:
            note("fresh interpreter that imports torch: exec -> first line", (clock_in(cold) or 0.0) - begun)
    agent.close()


def _measure_first_steps(folder: Path, runs: int, note: Any) -> None:
    log, endless = folder / "steps", {"CHECKPOINT": str(folder / "state.pt"), "STEPS": "1000000"}
    agent = Agent(folder / "steps-agent", {**endless, "STEP_LOG": str(log)})
    pid: int | None = None
    for run in range(runs + 1):
        begun = agent.rendezvous.hand_out(run + 1, ["python", str(PROGRAM)])
        wait_for(lambda before=pid: first_step(Path(f"{log}.0"), before), 60, "the first step")
        clock, pid = first_step(Path(f"{log}.0"), pid) or (0.0, 0)
        if run > 0:
            note("warm rank, plain DDP program: assignment -> first step", clock - begun)
    agent.close()
    for run in range(runs):
        log = folder / f"peer{run}"
        env = {"CHECKPOINT": str(folder / f"peer{run}.pt"), "STEPS": "1", "STEP_LOG": str(log)}
        begun = time.monotonic()
        _torchrun(PROGRAM, env, None)
        clock, _ = first_step(Path(f"{log}.0"), None) or (0.0, 0)
        note("torchrun, the same program: exec -> first step", clock - begun)


def _torchrun(program: Path, env: dict[str, str], clock_file: Path | None) -> float:
    begun = time.monotonic()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", str(program)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, check=True, capture_output=True)
    return (clock_in(clock_file) or 0.0) - begun if clock_file else 0.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10, help="runs of each (default 10)")
    runs = parser.parse_args().n
    with tempfile.TemporaryDirectory() as folder:
        print_table("Start", measure(Path(folder), runs))


if __name__ == "__main__":
    main()
