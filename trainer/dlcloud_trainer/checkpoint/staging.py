"""The flat buffer training is copied into: the only thing a step ever waits for.

May import torch. Every tensor begins at a multiple of 64 bytes, in the order given.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor

from .errors import Damaged, StateNotPlain
from .layout import TensorSpec

ALIGNMENT = 64
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


def view(flat: Tensor, name: str, spec: TensorSpec) -> Tensor:
    """The tensor that lies in `flat` (uint8, 1-d) as `spec` says; raises `Damaged` when it cannot."""
    dtype = DTYPES.get(spec.dtype)
    if dtype is None:
        raise Damaged(f"tensor {name} has dtype {spec.dtype!r}, which this program does not know")
    count = 1
    for length in spec.shape:
        count *= length
    if count * dtype.itemsize != spec.size_bytes or spec.offset % dtype.itemsize:
        raise Damaged(f"tensor {name} of {spec.dtype} {list(spec.shape)} cannot be {spec.size_bytes} bytes long")
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


class Staging:
    """One reused buffer. It grows when the state does, and is pinned when the state lies on a GPU."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._pinned = False
        self._specs: dict[str, TensorSpec] = {}
        self._views: list[Tensor] = []

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the buffer fit and touch its memory, which costs far more than a copy into it."""
        if self._fit(tensors)[1]:
            self._buffer.zero_()

    def copy(self, tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, TensorSpec], Tensor]:
        """Copy all tensors in; returns where they lie and the filled part (uint8, 1-d). On CUDA this waits for the
        device."""
        size = self._fit(tensors)[0]
        if self._views:
            with torch.no_grad():
                # One call for thousands of tensors: in a Python loop each costs 5 us.
                torch._foreach_copy_(self._views, [t.detach() for t in tensors.values()], non_blocking=True)
            for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
                torch.cuda.current_stream(device).synchronize()
        return self._specs, self._buffer[:size]

    def _fit(self, tensors: Mapping[str, Tensor]) -> tuple[int, bool]:
        """Bytes the tensors need, and whether the buffer is new."""
        specs, size = plan(tensors)
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        new = self._buffer.numel() < size or (on_gpu and not self._pinned)
        if new:
            self._views = []  # before the allocation, so that the old buffer can go
            self._buffer = torch.empty(0, dtype=torch.uint8)
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True) if on_gpu else allocate(size)
            self._pinned = on_gpu
        if new or specs != self._specs or not self._views:
            _zero_gaps(self._buffer, specs)
            self._specs, self._views = specs, list(views(self._buffer, specs).values())
        return size, new


def _zero_gaps(buffer: Tensor, specs: Mapping[str, TensorSpec]) -> None:
    """What an earlier layout left between the tensors must not reach the store."""
    end = 0
    for spec in specs.values():
        buffer[end : spec.offset].zero_()
        end = spec.offset + spec.size_bytes
