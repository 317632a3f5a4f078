"""400 MB of training state to S3 and back, ours beside torch.save with minio, torch.distributed.checkpoint with s3fs,
and bare HTTP.

Every way has a process of its own, and all take turns. `python -m benchmarks.checkpoint`, about 5 minutes; `--quick`
takes one, of 100 MB. Without s3fs (the extra `bench`) its rows are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, print_table
from dlcloud.local.store import EmbeddedStore

PEERS = Path(__file__).parent / "peers"
OURS, TORCH, DISTRIBUTED, RAW, RAW_ONE = (
    "ours",
    "torch.save + minio",
    "distributed.checkpoint",
    "raw",
    "raw, one connection",
)
NAMES = {
    OURS: "dlcloud",
    TORCH: "torch.save, then minio put_object",
    DISTRIBUTED: "torch.distributed.checkpoint.async_save, s3fs",
    RAW: "bare HTTP, 4 connections",
    RAW_ONE: "bare HTTP, 1 connection",
}
SETTLE_S = 0.5  # for what the store still does for the way before
Values = dict[str, dict[str, list[float]]]  # by way, then by what was measured


@dataclass(frozen=True)
class Server:
    """Where objects go."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str


class Worker:
    """A process of one way."""

    def __init__(self, server: Server, way: str, megabytes: float, folder: str, writes: bool) -> None:
        job = {
            "way": way, "writes": writes, "endpoint": server.endpoint, "accessKey": server.access_key,
            "secretKey": server.secret_key, "bucket": server.bucket, "folder": folder, "megabytes": megabytes,
        }  # fmt: skip
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(PEERS / "checkpoint_ways.py"), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self._way = way

    def ready(self) -> None:
        """Wait until it takes orders."""
        self._answer()

    def order(self, *words: Any) -> dict[str, float]:
        """Have it do something and wait for the figures."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._way}: its process ended with {self._process.wait(60)}")
        found: dict[str, float] = json.loads(line)
        return found


@contextmanager
def workers(
    server: Server, ways: Iterable[str], megabytes: float, folder: str = "", *, writes: bool = True
) -> Iterator[dict[str, Worker]]:
    """One process for each way; those that write have saved once, which makes connections and memory."""
    with ExitStack() as stack:
        made: dict[str, Worker] = {}
        for way in ways:
            made[way] = Worker(server, way, megabytes, folder or f"bench-{secrets.token_hex(4)}", writes)
            stack.callback(made[way].close)
        for worker in made.values():
            worker.ready()
        in_turn(made, 1, "save" if writes else "restore")
        yield made


def in_turn(made: dict[str, Worker], rounds: int, *order: Any, values: Values | None = None) -> Values:
    """Every worker's figures of `rounds` turns."""
    values = {} if values is None else values
    for _ in range(rounds):
        for way, worker in made.items():
            time.sleep(SETTLE_S if order != ("claim",) else 0.0)
            for what, value in worker.order(*order).items():
                values.setdefault(way, {}).setdefault(what, []).append(value)
    return values


def figures(values: Values, shown: dict[str, tuple[str, str]]) -> list[Figure]:
    """Rows: `shown` maps what was measured to its words and its unit; {} in the words is the way's name."""
    return [
        Figure(words.format(NAMES[way]), unit, found[what])
        for what, (words, unit) in shown.items()
        for way, found in values.items()
        if what in found
    ]


def ratio(values: Values, what: str, way: str = OURS, beside: str = RAW) -> float:
    """Of the medians."""
    return statistics.median(values[way][what]) / statistics.median(values[beside][what])


def saving(server: Server, made: dict[str, Worker], megabytes: float, rounds: int) -> None:
    """The table of saves."""
    values = in_turn(made, rounds, "save")
    shown = {
        "blocked": ("{}: training waits", "s"),
        "whole": ("{}: until it is stored", "s"),
        "cpu": ("{}: CPU time of the client", "s"),
        "rss_mib": ("{}: memory beyond the state", "MiB"),
    }
    for way in {RAW, RAW_ONE} & values.keys():
        del values[way]["blocked"], values[way]["rss_mib"]
    print_table(f"Saving {megabytes:.0f} MB to {server.name}", figures(values, shown))
    to_one = ratio(values, "whole", beside=RAW_ONE)
    beyond = statistics.median(values[OURS]["rss_mib"]) - megabytes * 1e6 / 2**20
    print(
        f"\nMedians: training waits {statistics.median(values[OURS]['blocked']):.3f} s; {beyond:.0f} MiB more than "
        f"the copy; until it is stored {ratio(values, 'whole'):.2f} of bare HTTP with 4 connections, {to_one:.2f} of 1"
    )


def restoring(server: Server, ways: Sequence[str], megabytes: float, rounds: int, folder: str) -> None:
    """The table of restores, of what writing workers have left in `folder`."""
    with workers(server, ways, megabytes, folder, writes=False) as made:
        values = in_turn(made, rounds, "restore")
    shown = {
        "whole": ("{}: until the state is there", "s"),
        "cpu": ("{}: CPU time of the client", "s"),
        "rss_mib": ("{}: memory beyond the state", "MiB"),
    }
    for way in {RAW, RAW_ONE} & values.keys():
        del values[way]["rss_mib"]
    print_table(f"Restoring {megabytes:.0f} MB from {server.name}", figures(values, shown))
    print(
        f"\nMedians: {ratio(values, 'whole'):.2f} of bare HTTP with 4 connections, "
        f"{ratio(values, 'whole', beside=RAW_ONE):.2f} of 1"
    )


def training(server: Server, made: dict[str, Worker], megabytes: float, rounds: int, seconds: float) -> None:
    """What a save costs a training on one rank and one thread."""
    values = in_turn({way: made[way] for way in made if way not in (RAW, RAW_ONE)}, rounds, "train", seconds)
    for found in values.values():
        pairs = zip(found["blocked"], found["slowed"], strict=True)
        found["lost"] = [blocked + slowed for blocked, slowed in pairs]
    shown = {
        "lost": ("{}: training time a save costs", "s"),
        "blocked": ("{}: of it, waiting", "s"),
        "step": ("{}: a step of this training", "s"),
    }
    title = f"A training with {megabytes:.0f} MB of state, which saves to {server.name} on the same machine"
    print_table(title, figures(values, shown))


def spinning(server: Server, made: dict[str, Worker], megabytes: float, rounds: int, seconds: float) -> None:
    """What saves without a pause leave to another thread of the process."""
    chosen = {way: made[way] for way in made if way not in (RAW, RAW_ONE)}
    table: list[Figure] = []
    for what, words in (("python", "a thread that counts in Python"), ("torch", "a thread that multiplies matrices")):
        values = in_turn(chosen, rounds, "spin", what, seconds)
        table += figures(values, {"pace": (f"{{}}: {words}, beside its pace alone", "ratio")})
        table += figures(values, {"lost": (f"{{}}: {words}, time lost a save", "s")})
    print_table(f"Saves of {megabytes:.0f} MB without a pause to {server.name}", table)


def round_start(servers: Sequence[Server], rounds: int) -> None:
    """The check every round begins with, without its restore: the head is read and taken over."""
    table: list[Figure] = []
    for server in servers:
        with workers(server, [OURS], 1) as made:
            before = requests(server)
            values = in_turn(made, rounds, "claim")
            table += figures(values, {"seconds": (f"{{}}: a round's start at {server.name}", "s")})
            if before is not None:
                after = requests(server) or 0
                table.append(Figure("dlcloud: its requests", "", [(after - before) / rounds]))
    print_table("A round's start, without the restore", table)


def requests(server: Server) -> int | None:
    """How many requests the server has had, when it tells."""
    if server.name != "a server that keeps nothing":
        return None
    with urllib.request.urlopen(f"{server.endpoint}/requests") as answer:
        return int(answer.read())


@contextmanager
def sink() -> Iterator[Server]:
    """A server that discards what it is sent."""
    program = [sys.executable, str(PEERS / "checkpoint_sink.py")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        port = int(process.stdout.readline())
        yield Server("a server that keeps nothing", f"http://127.0.0.1:{port}", "AKIDBENCH", "secret-of-bench", "bench")
        process.stdin.close()


@contextmanager
def embedded(folder: Path) -> Iterator[Server]:
    """SeaweedFS over a folder."""
    with asyncio.Runner() as runner:
        store = EmbeddedStore(folder)
        runner.run(store.start())
        try:
            runner.run(store.ensure_bucket("bench"))
            yield Server("SeaweedFS", store.endpoint, store.access_key, store.secret_key, "bench")
        finally:
            runner.run(store.stop())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default 3)")
    parser.add_argument("--megabytes", type=float, default=400, help="size of the state (default 400)")
    parser.add_argument("--quick", action="store_true", help="one turn of each, of 100 MB")
    chosen = parser.parse_args()
    megabytes, rounds = (100.0, 1) if chosen.quick else (chosen.megabytes, chosen.rounds)
    seconds = megabytes / 80

    peers = [TORCH, DISTRIBUTED] if importlib.util.find_spec("s3fs") else [TORCH]
    ways = [OURS, *peers, RAW, RAW_ONE]
    with tempfile.TemporaryDirectory() as name, embedded(Path(name)) as seaweed, sink() as nothing:
        with workers(seaweed, ways, megabytes, "saved") as made:
            saving(seaweed, made, megabytes, rounds)
            training(seaweed, made, megabytes, max(1, rounds - 1), seconds)
        restoring(seaweed, ways, megabytes, rounds, "saved")
        with workers(nothing, ways, megabytes) as made:
            saving(nothing, made, megabytes, rounds)
            spinning(nothing, made, megabytes, 1, seconds / 3)
        round_start([seaweed, nothing], 5 * rounds)
    if DISTRIBUTED not in peers:
        print(f"\n{NAMES[DISTRIBUTED]}: not measured, there is no s3fs (see docs/benchmarks.md)")


if __name__ == "__main__":
    main()
