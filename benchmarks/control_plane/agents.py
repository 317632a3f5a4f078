"""Simulated agents in one process: `python -m benchmarks.control_plane.agents CONFIG`. docs/protocol.md, section 2.

May import the standard library only. Each agent has its two connections, its own token and TLS session, polls for
instructions and reports as the real one does; its rank is a clock. What happens is written to a file, a line each.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import time
from asyncio import sslproto
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

WAIT_S = 25
STEPS_PER_S = 2.0
CHECKPOINT_S = 60.0
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0  # those of the trainer's agent


class Connection:
    """One kept-alive HTTP/1.1 connection, one request at a time."""

    def __init__(self, config: dict[str, Any], tls: ssl.SSLContext, head: str) -> None:
        self._config, self._tls, self._head = config, tls, head
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body. Raises OSError or EOFError; the next request opens a new connection then."""
        try:
            async with asyncio.timeout(WAIT_S + 10):
                return await self._request(method, target, body)
        except BaseException:
            self.close()
            raise

    async def _request(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                self._config["host"], self._config["port"], ssl=self._tls, server_hostname=self._config["serverName"]
            )
        reader, writer = self._streams
        writer.write(f"{method} {target} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return int(head[0].split()[1]), content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class Agent:
    """One worker's agent, in a job of its own name."""

    def __init__(self, config: dict[str, Any], told: dict[str, Any], tls: ssl.SSLContext, record: TextIO) -> None:
        self._every_s, self._ask_again, self._record = config["everyS"], config["askAgain"], record
        self._told, self._job, self._index = told, told["job"], told["index"]
        head = f"Host: {config['serverName']}\r\nAuthorization: Bearer {told['token']}\r\n"
        self._polls = Connection(config, tls, head)
        self._reports = Connection(config, tls, head + "Content-Type: application/json\r\n")
        self._round: dict[str, Any] | None = None
        self._began = 0.0
        self._news = asyncio.Event()

    async def poll(self) -> None:
        """Ask for instructions until the job is finished."""
        after, failures = 0, 0
        while True:
            try:
                status, body = await self._polls.request(
                    "GET", f"{self._told['path']}/assignment?after={after}&wait={WAIT_S}"
                )
                if status not in (200, 204):
                    raise OSError(f"{status} {body[:100]!r}")
            except (OSError, EOFError) as error:
                failures += 1
                self._note("trouble", "assignment", type(error).__name__, str(error)[:100])
                # Asked as by an agent that knows nothing, so that an answer shows that the operator knows the job.
                after = 0 if self._ask_again and self._index == 0 else after
                await asyncio.sleep(_pause_s(failures))
                continue
            failures = 0
            if status == 204:
                continue
            instruction = json.loads(body)
            self._note("told", instruction["kind"], instruction.get("round", 0))
            if instruction["kind"] == "finished":
                return
            after = instruction["round"]
            if self._round is None or after > self._round["round"]:
                self._round, self._began = instruction, time.monotonic()
                self._news.set()

    async def report(self) -> None:
        """Report at once when a round began, else every `everyS`."""
        failures = 0
        while True:
            self._news.clear()
            step, body = self._body()
            sent = time.monotonic()
            try:
                status, answer = await self._reports.request("POST", f"{self._told['path']}/report", body)
                if status != 200:
                    raise OSError(f"{status} {answer[:100]!r}")
            except (OSError, EOFError) as error:
                failures += 1
                self._note("trouble", "report", type(error).__name__, str(error)[:100])
                await asyncio.sleep(_pause_s(failures))
                continue
            failures = 0
            self._note("report", step, f"{sent:.6f}")
            try:
                async with asyncio.timeout(max(0.0, sent + self._every_s - time.monotonic())):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _body(self) -> tuple[int, bytes]:
        """The step that is told, and the report."""
        now = datetime.now(UTC)
        report: dict[str, Any] = {"sentAt": _text(now), "address": self._told["ip"], "port": 29500, "draining": False}
        if self._round is None:
            return 0, json.dumps(report | {"round": 0, "ranks": [], "results": []}).encode()
        trained_s = time.monotonic() - self._began
        step = 1 + int(trained_s * STEPS_PER_S)
        rank = {"state": "running", "step": step, "quietS": 0.2, "longestStepS": 0.6}
        report |= {
            "round": self._round["round"],
            "results": [],
            "ranks": [{"rank": n, **rank} for n in self._round["ranks"]],
        }
        if 0 in self._round["ranks"]:
            report["progress"] = {
                "epoch": 1, "epochs": 10, "step": step, "totalSteps": 1_000_000, "samples": step * 64,
                "loss": round(2.0 / step + random.random() / 100, 4),
                "samplesPerSecond": round(random.uniform(120, 130), 1), "metrics": {"validationAccuracy": 0.91},
            }  # fmt: skip
            saved = int(trained_s / CHECKPOINT_S)
            if saved:
                at = datetime.fromtimestamp(now.timestamp() - trained_s + saved * CHECKPOINT_S, UTC)
                uri = f"s3://checkpoints/{self._job}/manifests/{saved:012d}.json"
                told = {"step": int(saved * CHECKPOINT_S * STEPS_PER_S), "uri": uri, "committedAt": _text(at)}
                report["checkpoint"] = told | {"sizeBytes": 2_400_000}
        return step, json.dumps(report).encode()

    def _note(self, *what: object) -> None:
        """A line: when, job, index, and what."""
        print(f"{time.monotonic():.6f}", self._job, self._index, *what, sep="\t", file=self._record)


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _pause_s(failures: int) -> float:
    return min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)


async def run(config: dict[str, Any], record: TextIO) -> None:
    """All agents of the file, started over `rampS` seconds, until this process is killed."""
    tls = ssl.create_default_context(cafile=config["ca"])
    async with asyncio.TaskGroup() as group:
        group.create_task(_flush(record))
        for told in config["agents"]:
            agent = Agent(config, told, tls, record)
            group.create_task(agent.poll())
            group.create_task(agent.report())
            await asyncio.sleep(config["rampS"] / len(config["agents"]))


async def _flush(record: TextIO) -> None:
    while True:
        await asyncio.sleep(0.5)
        record.flush()


def main(path: Path) -> None:
    """The agents of one configuration file."""
    config = json.loads(path.read_text())
    sslproto.SSLProtocol.max_size = 16 * 1024  # asyncio's 256 KiB would be 1 GiB for 4,000 connections
    with Path(config["record"]).open("w") as record:
        asyncio.run(run(config, record))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
