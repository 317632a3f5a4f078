"""What a save sends: a copy of the state, or where there is no memory for one, the state where it lies.

May import torch, memory, spread, staging and upload.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from .draft import Source
from .errors import NoRoom
from .layout import TensorSpec
from .memory import MARGIN, free_bytes
from .spread import Spread
from .staging import Staged, Staging, allocate, as_memory, plan
from .upload import THREADS, slice_size


class Copier:
    """Makes the sources of uploads, one at a time: the one before must not be read any more."""

    def __init__(self, warn: Callable[[str, str], None]) -> None:
        self._warn, self._warned = warn, False
        self._staging = Staging()

    @property
    def blocks(self) -> bool:
        """Whether training has to wait for uploads, as far as is known."""
        return self._staging.refused

    def admits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether there is memory for a copy; takes none."""
        try:
            self._staging.admit(tensors)
        except NoRoom as lacking:
            self._tell(lacking)
        return not self.blocks

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the memory for a copy, and have the kernel provide it."""
        try:
            self._staging.prepare(tensors)
        except NoRoom as lacking:
            self._tell(lacking)

    def take(self, tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, TensorSpec], Source]:
        """Where each tensor lies in the source, and the source."""
        try:
            specs, flat = self._staging.copy(tensors)
            return specs, Staged(flat)
        except NoRoom as lacking:
            self._tell(lacking)
            live = Live(tensors)
            return live.specs, live

    def _tell(self, lacking: NoRoom) -> None:
        if not self._warned:
            self._warned = True
            self._warn("CheckpointBlocks", str(lacking))


class Live:
    """A `Source` over the tensors themselves, with as many buffers of one slice as there are senders and memory."""

    waits = True

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.specs: Mapping[str, TensorSpec]
        self.specs, self.size_bytes = plan(tensors)
        self._spread = Spread(tensors, self.specs)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()  # the senders' threads have streams of their own
        step = min(slice_size(self.size_bytes, waits=True), self.size_bytes)
        self._free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        for buffer in buffers(step, THREADS):
            self._free.put(buffer)

    @contextmanager
    def read(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, for as long as the block lasts."""
        buffer = self._free.get()
        try:
            piece = buffer[: stop - start]
            self._spread.gather(start, piece)
            yield as_memory(piece)
        finally:
            self._free.put(buffer)


def buffers(size_bytes: int, most: int) -> list[Tensor]:
    """Buffers of `size_bytes`, 1 to `most`, as many as leave a margin free."""
    free = free_bytes()
    count = most if free is None else max(1, min(most, (free - MARGIN) // max(1, size_bytes)))
    found = [allocate(size_bytes)]
    with suppress(MemoryError, OSError, RuntimeError):  # of mmap, of torch: a limit free_bytes knows nothing of
        while len(found) < count:
            found.append(allocate(size_bytes))
    return found
