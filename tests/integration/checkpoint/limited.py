"""A process with a limit on its memory, and what it does there: hold a large state, save it, restore it.

The limit is a control group of its own (version 2 or 1) where this user may make one, else RLIMIT_DATA.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup")
PIECE = 1 << 20  # numbers
FILES_V2 = ("memory.max", "memory.current", "memory.swap.max")
FILES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.memsw.limit_in_bytes")


@dataclass(frozen=True)
class Limiter:
    """A control group, or without `folder` RLIMIT_DATA of the process that calls."""

    folder: Path | None

    def enter(self) -> None:
        """The calling process, before it takes memory."""
        if self.folder is not None:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def used(self) -> int:
        """Bytes that stay taken: without files' pages, which the kernel drops first."""
        if self.folder is None:
            return next(int(line.split()[1]) << 10 for line in _lines("/proc/self/status") if line.startswith("VmData"))
        names = {"inactive_file", "active_file"} if self._v2 else {"total_inactive_file", "total_active_file"}
        pages = sum(int(line.split()[1]) for line in _lines(self.folder / "memory.stat") if line.split()[0] in names)
        return self._number(1) - pages

    def limit(self, size_bytes: int) -> None:
        """From now on; the kernel ends a process that takes more, below RLIMIT_DATA it refuses."""
        if self.folder is None:
            resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, resource.RLIM_INFINITY))
            return
        (self.folder / self._files[0]).write_text(str(size_bytes))
        with suppress(OSError):  # no swap
            (self.folder / self._files[2]).write_text("0" if self._v2 else str(size_bytes))

    @property
    def _v2(self) -> bool:
        return self.folder is not None and (self.folder / "memory.max").exists()

    @property
    def _files(self) -> tuple[str, ...]:
        return FILES_V2 if self._v2 else FILES_V1

    def _number(self, index: int) -> int:
        assert self.folder is not None
        return int((self.folder / self._files[index]).read_text())


@contextmanager
def limiter() -> Iterator[Limiter]:
    for parent in (CGROUP, CGROUP / "memory"):
        folder = parent / f"dlcloud-test-{secrets.token_hex(4)}"
        with suppress(OSError):
            folder.mkdir()
            if any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
                break
            folder.rmdir()
    else:
        yield Limiter(None)
        return
    try:
        yield Limiter(folder)
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            return folder.rmdir()
        except OSError:  # the kernel still takes leave of a process
            assert time.monotonic() < until, f"{folder} cannot be removed"
            time.sleep(0.01)


def start(limit: Limiter, job: dict[str, Any]) -> subprocess.Popen[str]:
    """`job`: settings (of CheckpointSettings), state_bytes, restore, and limit_bytes or grow_bytes (beyond what an
    idle trainer takes). It writes a JSON list a line."""
    text = json.dumps(job | {"folder": str(limit.folder or "")})
    command = [sys.executable, str(Path(__file__)), text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


# --- in the process ---


def _main(job: dict[str, Any]) -> None:
    limit = Limiter(Path(job["folder"]) if job["folder"] else None)
    limit.enter()
    import torch

    from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings, collect

    torch.set_num_threads(1)
    checkpointer = Checkpointer(
        CheckpointSettings(**job["settings"]),
        on_commit=lambda commit: _say("committed", commit.step),
        on_warning=lambda reason, text: _say("warning", reason, text),
    )
    checkpointer.store.list()  # what the client takes is no part of the question
    limit.limit(job.get("limit_bytes") or limit.used() + job["grow_bytes"])

    sizes = [job["state_bytes"] // 32 - 37, 37, job["state_bytes"] // 4 - job["state_bytes"] // 32]
    model = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(n), requires_grad=False) for n in sizes)
    claimed = checkpointer.claim()
    if job["restore"]:
        assert claimed
        restored = checkpointer.restore({"model": model})
        assert restored is not None
        _say("restored", restored.step, all(_pattern(tensor, restored.step, check=True) for tensor in model))
        return
    for step in (1, 2):
        for tensor in model:
            _pattern(tensor, step)
        checkpointer.prepare(collect({"model": model})[0])
        _say("saving", step)
        tensors, state = collect({"model": model})
        checkpointer.save(tensors, state, step=step, samples=step, wait=True)
        checkpointer.flush(300)
        _say("saved", step, checkpointer.blocks)


def _pattern(tensor: Any, step: int, check: bool = False) -> bool:
    """Fill with numbers that tell place and step, or compare with them; takes little memory."""
    import torch

    bits = tensor.detach().view(torch.int32)
    for start in range(0, len(bits), PIECE):
        piece = bits[start : start + PIECE]
        wanted = torch.arange(start, start + len(piece), dtype=torch.int32).mul_(48271).add_(step)
        if check and not torch.equal(piece, wanted):
            return False
        if not check:
            piece.copy_(wanted)
    return True


def _say(*words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _lines(path: Path | str) -> list[str]:
    return Path(path).read_text().splitlines()


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
