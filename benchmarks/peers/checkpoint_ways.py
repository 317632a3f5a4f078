"""Ways to bring a training state to S3 and back, each in a process of its own: what benchmarks.checkpoint compares.

Run as a program with a JSON object (way, writes, endpoint, accessKey, secretKey, bucket, folder, megabytes); then one
order a line on standard input, one JSON object a line for an answer. A process that does not write restores what
another has saved in the same folder.
"""

from __future__ import annotations

import ctypes
import gc
import http.client
import io
import itertools
import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings, collect
from dlcloud_trainer.checkpoint.staging import allocate, as_memory
from dlcloud_trainer.checkpoint.tries import in_parallel
from dlcloud_trainer.checkpoint.upload import THREADS, slice_size

WIDTH = 1024
BATCH = 16


class State:
    """A model and its AdamW, `megabytes` together, after one step."""

    def __init__(self, megabytes: float) -> None:
        layers = max(1, round(megabytes * 1e6 / 3 / 4 / (WIDTH * WIDTH + WIDTH)))
        self.model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)

    @property
    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer}

    def step(self) -> None:
        """One real step of training."""
        # Gradients that stay: with new ones a step takes as long as malloc's mood wants.
        self.optimizer.zero_grad(set_to_none=False)
        self.model(torch.randn(BATCH, WIDTH)).square().mean().backward()
        self.optimizer.step()


class Way:
    """Something that saves. `begin` is what training waits for; after `finish` the state is on the server."""

    def __init__(self, job: dict[str, Any], state: State) -> None:
        self.job, self.state = job, state

    def prepare(self) -> None:
        """What is done once, before the first save."""

    def begin(self) -> None: ...

    def finish(self) -> None: ...

    def settle(self) -> None:
        """What may be done later, but before the next save."""

    def restore(self) -> None:
        """Into a fresh state, which `self.state` is then."""

    def client(self) -> Any:
        """A minio client."""
        from minio import Minio

        host = self.job["endpoint"].removeprefix("http://")
        return Minio(host, self.job["accessKey"], self.job["secretKey"], secure=False, region="us-east-1")


class Ours(Way):
    def __init__(self, job: dict[str, Any], state: State) -> None:
        super().__init__(job, state)
        self.number = 0
        self.committed = threading.Event()
        os.environ |= {"AWS_ACCESS_KEY_ID": job["accessKey"], "AWS_SECRET_ACCESS_KEY": job["secretKey"]}
        self.round = 0 if job["writes"] else 1000

    def prepare(self) -> None:
        self._next_round().claim()
        self.checkpointer.prepare(collect(self.state.parts)[0])
        while self.checkpointer.busy:
            time.sleep(0.01)

    def begin(self) -> None:
        self.number += 1
        self.committed.clear()
        tensors, state = collect(self.state.parts)
        assert self.checkpointer.save(tensors, state, step=self.number, samples=self.number)

    def finish(self) -> None:
        while not self.committed.wait(0.5):
            self.checkpointer.check()

    def settle(self) -> None:
        self.checkpointer.flush(300)  # what the commit made superfluous is deleted

    def restore(self) -> None:
        assert self._next_round().claim()
        assert self.checkpointer.restore(self.state.parts) is not None

    def claim(self) -> None:
        """The start of a round."""
        self._next_round().claim()

    def _next_round(self) -> Checkpointer:
        self.round += 1
        settings = CheckpointSettings(
            f"s3://{self.job['bucket']}/{self.job['folder']}",
            endpoint=self.job["endpoint"],
            round=self.round,
            nonce="n",
            keep_last=1,
            keep_best=0,
        )
        self.checkpointer = Checkpointer(settings, on_commit=lambda commit: self.committed.set(), on_warning=_complain)
        return self.checkpointer


class TorchSave(Way):
    def begin(self) -> None:
        buffer = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in self.state.parts.items()}, buffer)
        size = buffer.tell()
        buffer.seek(0)
        self.client().put_object(
            self.job["bucket"],
            f"{self.job['folder']}/torch-save",
            buffer,
            size,
        )

    def restore(self) -> None:
        answer = self.client().get_object(self.job["bucket"], f"{self.job['folder']}/torch-save")
        try:
            saved = torch.load(io.BytesIO(answer.read()), weights_only=True)
        finally:
            answer.close()
            answer.release_conn()
        for name, part in self.state.parts.items():
            part.load_state_dict(saved[name])


class Distributed(Way):
    """torch.distributed.checkpoint.async_save over fsspec and s3fs."""

    def begin(self) -> None:
        from torch.distributed.checkpoint import async_save
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

        saved = {name: part.state_dict() for name, part in self.state.parts.items()}
        self.future = async_save(saved, storage_writer=FsspecWriter(self._path(), **self._options()), no_dist=True)

    def finish(self) -> None:
        self.future.result()

    def restore(self) -> None:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

        self.state.step()  # it fills what is there: an optimiser has to have its state
        saved = {name: part.state_dict() for name, part in self.state.parts.items()}
        checkpoint.load(saved, storage_reader=FsspecReader(self._path(), **self._options()), no_dist=True)
        for name, part in self.state.parts.items():
            part.load_state_dict(saved[name])

    def _path(self) -> str:
        return f"s3://{self.job['bucket']}/{self.job['folder']}/distributed"

    def _options(self) -> dict[str, Any]:
        where = {"endpoint_url": self.job["endpoint"], "region_name": "us-east-1"}
        return {"key": self.job["accessKey"], "secret": self.job["secretKey"], "client_kwargs": where}


class Raw(Way):
    """Bare HTTP of bytes that lie ready: one object for each connection's turn, or all in one."""

    def __init__(self, job: dict[str, Any], state: State, connections: int) -> None:
        super().__init__(job, state)
        size = 3 * sum(parameter.numel() * parameter.element_size() for parameter in state.model.parameters())
        flat = allocate(size)
        flat.random_(0, 255)
        self.memory, self.connections = as_memory(flat), connections
        self.step = slice_size(size) if connections > 1 else size

    def begin(self) -> None:
        self._all("PUT")

    def restore(self) -> None:
        self._all("GET")

    def _all(self, method: str) -> None:
        client = self.client()
        starts = range(0, len(self.memory), self.step)
        # Signed ahead: what is measured is HTTP alone.
        urls = [
            client.get_presigned_url(
                method,
                self.job["bucket"],
                f"{self.job['folder']}/raw-{self.connections}-{start}",
                expires=timedelta(hours=1),
            )
            for start in starts
        ]
        in_parallel(lambda one: self._send(method, *one), list(zip(urls, starts, strict=True)), self.connections)

    def _send(self, method: str, url: str, start: int) -> None:
        host, _, path = url.removeprefix("http://").partition("/")
        view = self.memory[start : start + self.step]
        connection = http.client.HTTPConnection(host, timeout=120)
        body = {"body": view, "headers": {"Content-Length": str(len(view))}} if method == "PUT" else {}
        connection.request(method, f"/{path}", **body)
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{method} {path.split('?')[0]}: {answer.status}")
        at = 0
        while method == "GET" and at < len(view):
            at += answer.readinto(view[at:])
        answer.read()
        connection.close()


WAYS: dict[str, Callable[[dict[str, Any], State], Way]] = {
    "ours": Ours,
    "torch.save + minio": TorchSave,
    "distributed.checkpoint": Distributed,
    "raw": lambda job, state: Raw(job, state, THREADS),
    "raw, one connection": lambda job, state: Raw(job, state, 1),
}


# --- orders ---


def save(way: Way, base_rss: int) -> dict[str, float]:
    """One save; `rss_mib` is what the process took at most beyond what it had before the first preparation."""
    with _measured(base_rss) as found:
        began = time.perf_counter()
        way.begin()
        found["blocked"] = time.perf_counter() - began
        way.finish()
    way.settle()
    return found


def restore(way: Way, megabytes: float) -> dict[str, float]:
    """Into a fresh model and optimiser, whose own memory does not count as extra."""
    if not isinstance(way, Raw):
        del way.state
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        way.state = State(megabytes)
    own = 0 if isinstance(way, Raw) else int(megabytes * 1e6 * 2 / 3)  # the optimiser's state is made by the restore
    with _measured(_status("VmRSS") + own) as found:
        way.restore()
    return found


def train(way: Way, seconds: float) -> dict[str, float]:
    """Seconds a save costs a training: `seconds` of steps with one, less what as many steps take without."""
    plain = _steps(way.state, seconds / 2)
    begun = time.perf_counter()
    way.begin()
    blocked = time.perf_counter() - begun
    done = threading.Event()
    waiter = threading.Thread(target=lambda: (way.finish(), done.set()))
    waiter.start()
    slowed = _steps(way.state, seconds)
    waiter.join()
    way.settle()
    after = _steps(way.state, seconds / 2)
    usual = statistics.median(plain + after)
    return {"blocked": blocked, "slowed": sum(slowed) - usual * len(slowed), "step": usual}


def _steps(state: State, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        state.step()
        times.append(time.perf_counter() - began)
    return times


def spin(way: Way, what: str, seconds: float) -> dict[str, float]:
    """What saves, one after the other, leave to a thread that counts or multiplies: its pace beside the idle one, and
    the seconds a save takes from it."""
    act = _count if what == "python" else _multiply
    idle = act(seconds)
    stop, uploads = threading.Event(), [0]

    def upload() -> None:
        while not stop.is_set():
            way.begin()
            way.finish()
            way.settle()
            uploads[0] += 1

    thread = threading.Thread(target=upload)
    thread.start()
    busy = act(seconds)
    stop.set()
    thread.join()
    return {"pace": busy / idle, "lost": (1 - busy / idle) * seconds / max(1, uploads[0])}


def _count(seconds: float) -> float:
    """Additions of a pure Python loop in a second."""
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        for _ in range(1000):
            number += 1
    return number / seconds


def _multiply(seconds: float) -> float:
    """Products of 256 x 256 matrices in a second."""
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    out = torch.empty(256, 256)
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        torch.mm(left, right, out=out)
        number += 1
    return number / seconds


def claim(way: Way) -> dict[str, float]:
    assert isinstance(way, Ours)
    began = time.perf_counter()
    way.claim()
    return {"seconds": time.perf_counter() - began}


@contextmanager
def _measured(base_rss: int) -> Iterator[dict[str, float]]:
    found: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    cpu, began = _cpu(), time.perf_counter()
    yield found
    found["whole"] = time.perf_counter() - began
    found["cpu"] = _cpu() - cpu
    found["rss_mib"] = (_status("VmHWM") - base_rss) / 2**20


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _complain(reason: str, message: str) -> None:
    sys.stderr.write(f"{reason}: {message}\n")


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    state = State(job["megabytes"])
    if job["writes"]:
        state.step()
    way = WAYS[job["way"]](job, state)
    base_rss = _status("VmRSS")
    if job["writes"]:
        way.prepare()
    print("{}", flush=True)
    orders: dict[str, Callable[..., dict[str, float]]] = {
        "save": lambda: save(way, base_rss),
        "restore": lambda: restore(way, job["megabytes"]),
        "train": lambda seconds: train(way, seconds),
        "spin": lambda what, seconds: spin(way, what, seconds),
        "claim": lambda: claim(way),
    }
    for line in itertools.takewhile(bool, iter(sys.stdin.readline, "")):
        name, *arguments = json.loads(line)
        print(json.dumps(orders[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
