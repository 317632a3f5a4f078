"""The flat buffer training is copied into: the only thing a step waits for, where there is memory for it.

May import torch, memory, spread and tries. Every tensor begins at a multiple of 64 bytes, in the order given. Must
never take memory a control group does not have: the kernel would end the process.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from .errors import Damaged, NoRoom, StateNotPlain
from .layout import TensorSpec
from .memory import Lack, lack
from .spread import copy, pairs
from .tries import in_parallel

ALIGNMENT = 64
MOST_COPIERS = 4
SHARE_BYTES = 16 << 20
HUGE_PAGE = 2 << 20
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "C128": torch.complex128,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def plan(tensors: Mapping[str, Tensor]) -> tuple[dict[str, TensorSpec], int]:
    """Where each tensor goes, and the buffer's size in bytes; raises `StateNotPlain` for what is no dense tensor."""
    specs: dict[str, TensorSpec] = {}
    end = 0
    for name, tensor in tensors.items():
        dtype = NAMES.get(tensor.dtype)
        if dtype is None or tensor.layout != torch.strided or tensor.device.type == "meta":
            raise StateNotPlain(
                f"{name}: a {tensor.layout} tensor of {tensor.dtype} on {tensor.device.type} cannot be stored; "
                f"allowed are dense tensors of {', '.join(sorted(NAMES.values()))}"
            )
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        size = tensor.numel() * tensor.element_size()
        specs[name] = TensorSpec(dtype, tuple(tensor.shape), offset, size)
        end = offset + size
    return specs, end


def dtype_of(name: str, spec: TensorSpec) -> torch.dtype:
    """The dtype of a tensor that can lie as `spec` says; raises `Damaged` when none can."""
    dtype = DTYPES.get(spec.dtype)
    if dtype is None:
        raise Damaged(f"tensor {name} has dtype {spec.dtype!r}, which this program does not know")
    count = 1
    for length in spec.shape:
        count *= length
    if count * dtype.itemsize != spec.size_bytes or spec.offset % dtype.itemsize:
        raise Damaged(f"tensor {name} of {spec.dtype} {list(spec.shape)} cannot be {spec.size_bytes} bytes long")
    return dtype


def view(flat: Tensor, name: str, spec: TensorSpec) -> Tensor:
    """The tensor that lies in `flat` (uint8, 1-d) as `spec` says; raises `Damaged` when it cannot."""
    dtype = dtype_of(name, spec)
    return flat[spec.offset : spec.offset + spec.size_bytes].view(dtype).view(spec.shape)


def views(flat: Tensor, specs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
    return {name: view(flat, name, spec) for name, spec in specs.items()}


def allocate(size_bytes: int) -> Tensor:
    """A flat uint8 tensor of zeros in huge pages where the kernel has them: 400 MB would else cost 100,000 page
    faults."""
    if size_bytes < HUGE_PAGE:
        return torch.zeros(size_bytes, dtype=torch.uint8)
    memory = mmap.mmap(-1, -(-size_bytes // HUGE_PAGE) * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8, count=size_bytes)


def as_memory(flat: Tensor) -> memoryview:
    """The bytes of a uint8 tensor on the CPU, shared with it."""
    return memoryview(flat.numpy())  # type: ignore[arg-type]


class Staged:
    """A copy of the state: `flat` (uint8, 1-d) stays as it is while an upload reads it."""

    waits = False

    def __init__(self, flat: Tensor) -> None:
        self.size_bytes = flat.numel()
        self._memory = as_memory(flat)

    @contextmanager
    def read(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, for as long as the block lasts."""
        yield self._memory[start:stop]


Share = tuple[int, int, Tensor]  # index of a tensor, its first element to copy, and where to: 1-d, or the whole shape


class Staging:
    """One reused buffer. It grows when the state does, and is pinned when the state lies on a GPU."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._pinned = False
        self._specs: dict[str, TensorSpec] = {}
        self._shares: list[list[Share]] = []
        self._copiers = 1
        self._refused: int | None = None  # bytes there was no room for: as much is not tried again

    @property
    def refused(self) -> bool:
        """Whether there was no room the last time it was asked for."""
        return self._refused is not None

    def admit(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `NoRoom` when memory for a copy is not there; takes none."""
        size = plan(tensors)[1]
        if self._buffer.numel() < size:
            self._check(size)
        self._refused = None

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the buffer fit and touch its memory, which costs far more than a copy into it; raises `NoRoom`."""
        if self._fit(tensors)[1]:
            self._buffer.zero_()

    def copy(self, tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, TensorSpec], Tensor]:
        """Copy all tensors in; returns where they lie and the filled part (uint8, 1-d). On CUDA this waits for the
        device. Raises `NoRoom`."""
        size = self._fit(tensors)[0]
        values = list(tensors.values())

        def work(shares: list[Share]) -> None:
            into, source = [], []
            for index, start, row in shares:
                value = values[index].detach()
                found = [(value, row)] if row.shape == value.shape else pairs(value, start, row)
                for live, part in found:
                    into.append(part)
                    source.append(live)
            copy(into, source)

        in_parallel(work, self._shares, self._copiers)
        return self._specs, self._buffer[:size]

    def _fit(self, tensors: Mapping[str, Tensor]) -> tuple[int, bool]:
        """Bytes the tensors need, and whether the buffer is new."""
        specs, size = plan(tensors)
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        new = self._buffer.numel() < size or (on_gpu and not self._pinned)
        if new:
            self._shares = []  # before the allocation, so that the old buffer can go
            self._buffer = torch.empty(0, dtype=torch.uint8)
            self._buffer, self._pinned = self._allocate(size, on_gpu), on_gpu
        if new or specs != self._specs or not self._shares:
            _zero_gaps(self._buffer, specs)
            self._copiers = _copiers(size, on_gpu)
            # Many shares: a copier that gets no core holds up no other.
            count = 1 if self._copiers == 1 else max(1, -(-size // SHARE_BYTES))
            self._specs, self._shares = specs, _shares(self._buffer, specs, count)
        self._refused = None
        return size, new

    def _allocate(self, size: int, on_gpu: bool) -> Tensor:
        self._check(size)
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True) if on_gpu else allocate(size)
        except (MemoryError, OSError, RuntimeError):  # of torch, of mmap, of the CUDA driver
            self._refused = size
            raise NoRoom(_no_room(size, None)) from None

    def _check(self, size: int) -> None:
        if self._refused is not None and size >= self._refused:
            raise NoRoom(_no_room(size, None))
        lacking = lack(size)
        if lacking is not None:
            self._refused = size
            raise NoRoom(_no_room(size, lacking))


def _no_room(size: int, lacking: Lack | None) -> str:
    more = f" by at least {-(-lacking.missing_bytes >> 20)} MiB" if lacking else ""
    return (
        f"no memory for a copy of the state ({-(-size >> 20)} MiB): training waits for the end of every upload; raise "
        f"workers.memory{more}"
    )


def _copiers(size: int, on_gpu: bool) -> int:
    """Threads that copy: torch's own where it has several, else a few for a large state."""
    if on_gpu or torch.get_num_threads() > 1:
        return 1
    return max(1, min(MOST_COPIERS, len(os.sched_getaffinity(0)), size // SHARE_BYTES))


def _shares(buffer: Tensor, specs: Mapping[str, TensorSpec], count: int) -> list[list[Share]]:
    """`count` parts of the state, about equally large."""
    size = max((spec.offset + spec.size_bytes for spec in specs.values()), default=0)
    step = max(ALIGNMENT, -(-size // count // ALIGNMENT) * ALIGNMENT)
    shares: list[list[Share]] = [[] for _ in range(count)]
    for index, (name, spec) in enumerate(specs.items()):
        whole = view(buffer, name, spec)
        item = whole.element_size()
        end = spec.offset + spec.size_bytes
        number = min(spec.offset // step, count - 1)
        at = spec.offset
        while number < count - 1 and end > (number + 1) * step:
            shares[number].append((index, (at - spec.offset) // item, _row(whole, spec, at, (number + 1) * step)))
            number, at = number + 1, (number + 1) * step
        row = whole if at == spec.offset else _row(whole, spec, at, end)
        shares[number].append((index, (at - spec.offset) // item, row))
    return shares


def _row(whole: Tensor, spec: TensorSpec, start: int, stop: int) -> Tensor:
    item = whole.element_size()
    return whole.view(-1)[(start - spec.offset) // item : (stop - spec.offset) // item]


def _zero_gaps(buffer: Tensor, specs: Mapping[str, TensorSpec]) -> None:
    """What an earlier layout left between the tensors must not reach the store."""
    end = 0
    for spec in specs.values():
        buffer[end : spec.offset].zero_()
        end = spec.offset + spec.size_bytes
