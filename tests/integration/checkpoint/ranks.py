"""Rank 0 of a round as a process of its own, to kill and to stop: a real `Checkpointer` over a real store.

The processes are forked from a server that has imported torch and the engine (and nothing more, as the zygote), so that
one costs milliseconds. What a rank says lies in a file, which outlives it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings, upload
from dlcloud_trainer.checkpoint.errors import Fenced
from dlcloud_trainer.checkpoint.layout import HEAD, Head, Manifest
from dlcloud_trainer.objects import open_objects
from tests.rig.processes import states

LIMIT_S = 60.0
SLICE_BYTES = 1 << 20
SLICES = 3

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload([__name__])


def tensors(step: int) -> dict[str, Tensor]:
    """The state of a step: 2.5 MiB (three slices), each bit of it chosen by the step."""
    source = torch.Generator().manual_seed(step)
    return {
        "model/w": torch.randn(600_000, generator=source),
        "model/b": torch.randint(-(2**31), 2**31, (55_360,), generator=source, dtype=torch.int64).to(torch.int32),
        "step": torch.tensor(step),
    }


def same(found: dict[str, Tensor], step: int) -> bool:
    """Whether this is the state of `step`, bit for bit."""
    wanted = tensors(step)
    return found.keys() == wanted.keys() and all(
        found[name].dtype == tensor.dtype
        and found[name].contiguous().view(-1).view(torch.uint8).equal(tensor.view(-1).view(torch.uint8))
        for name, tensor in wanted.items()
    )


@dataclass
class RankProcess:
    """Made by `start`."""

    process: Any
    log: Path

    @staticmethod
    def start(folder: Path, job: dict[str, Any]) -> RankProcess:
        """`job`: settings (of CheckpointSettings), steps (to commit one after the other), and what `_work` reads."""
        log = folder / f"rank-{time.monotonic_ns()}.jsonl"
        environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "SSL_"))}
        process = _fork.Process(target=_work, args=(str(log), environment, job), daemon=True)
        process.start()
        return RankProcess(process, log)

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def said(self) -> list[list[Any]]:
        """All it said so far, one list each: ["restored", 2], ["committed", 3], ["warning", reason, text] ..."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def kill(self, *_: Any) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def stop(self, *_: Any) -> None:
        """SIGSTOP, and wait until it stands."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_for(self.is_stopped, "the process stands")

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def is_stopped(self) -> bool:
        return set(states(self.pid)) == {"T"}

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Its exit code, negative for a signal."""
        self.process.join(limit_s)
        assert self.process.exitcode is not None, f"still running after {limit_s:.0f} s: {self.said()}"
        return int(self.process.exitcode)

    def end(self) -> None:
        """Whatever it does."""
        if self.process.is_alive():
            self.kill()
            self.process.join(LIMIT_S)


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, f"waited {limit_s:.0f} s until {what}"
        time.sleep(0.005)


def committed(place: Any) -> list[int]:
    """Steps the head lists, newest first; [] without a head."""
    found = place.objects().get_with_etag(HEAD)
    return [entry.step for entry in Head.parse(found[0], HEAD).checkpoints] if found else []


def needed(place: Any) -> set[str]:
    """The head, the manifests it lists and their slices."""
    store = place.objects()
    listed = [entry.manifest for entry in Head.parse(store.get(HEAD), HEAD).checkpoints]
    pieces = [piece.key for key in listed for piece in Manifest.parse(store.get(key), key).slices]
    return {HEAD, *listed, *pieces}


# --- in the process ---


def _work(log: str, environment: dict[str, str], job: dict[str, Any]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    upload.SMALLEST = SLICE_BYTES
    with Path(log).open("a", buffering=1) as output:

        def say(*words: Any) -> None:
            output.write(json.dumps(words) + "\n")

        try:
            if "edit" in job:
                _edit_head(job)
            else:
                _train(job, say)
        except Fenced as error:
            say("fenced", str(error))
            sys.exit(74)
        except Exception as error:
            say("failed", repr(error))
            raise


def _train(job: dict[str, Any], say: Callable[..., None]) -> None:
    checkpointer = Checkpointer(
        CheckpointSettings(**job["settings"]),
        on_commit=lambda commit: say("committed", commit.step),
        on_warning=lambda reason, text: say("warning", reason, text),
    )
    restored = checkpointer.take_over()
    if restored is not None:
        assert same(restored.tensors, restored.step)
    say("restored", restored.step if restored else None)
    for step in job["steps"]:
        checkpointer.save(tensors(step), {"step": step}, step=step, samples=step)
        checkpointer.flush(LIMIT_S)
    say("ended")


def _edit_head(job: dict[str, Any]) -> None:
    """What a tool may do: pin (`True`), unpin (`False`) or drop (`None`) entries by step."""
    from dataclasses import replace
    from secrets import token_hex

    store = open_objects(job["settings"]["uri"], endpoint=job["settings"]["endpoint"])
    found = store.get_with_etag(HEAD)
    assert found is not None
    head = Head.parse(found[0], HEAD)
    edit = {int(step): pinned for step, pinned in job["edit"].items()}
    stay = [entry for entry in head.checkpoints if edit.get(entry.step, False) is not None]
    entries = tuple(replace(entry, pinned=edit.get(entry.step, entry.pinned)) for entry in stay)
    store.put_if_match(HEAD, replace(head, write=token_hex(8), checkpoints=entries).dump(), found[1])
