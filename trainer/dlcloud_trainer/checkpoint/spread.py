"""Tensors wherever they lie, as the one row of bytes a checkpoint is: read from it and written to it piece by piece.

May import torch and layout. Never makes the whole row: memory for it is what there is not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .errors import Damaged
from .layout import TensorSpec


def cut(tensor: Tensor, start: int, stop: int) -> Iterator[Tensor]:
    """Views that together are the elements `start` to `stop` of the tensor in row-major order, however it lies."""
    if start == 0 and stop == tensor.numel():
        yield tensor
    elif tensor.is_contiguous():
        yield tensor.view(-1)[start:stop]
    else:
        row = tensor[0].numel()
        first, last = -(-start // row), stop // row
        if first > last:  # within one row
            yield from cut(tensor[last], start - last * row, stop - last * row)
            return
        if start % row:
            yield from cut(tensor[first - 1], start % row, row)
        if first < last:
            yield tensor[first:last]
        if stop % row:
            yield from cut(tensor[last], 0, stop % row)


def pairs(tensor: Tensor, start: int, row: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of `tensor`, from its element `start` on, each with the view of `row` (1-d, of its dtype) it belongs to."""
    at = 0
    for part in cut(tensor, start, start + row.numel()):
        yield part, row[at : at + part.numel()].view(part.shape)
        at += part.numel()


def copy(into: list[Tensor], source: list[Tensor]) -> None:
    """All at once: in a Python loop each of thousands of tensors costs 5 us. On CUDA this waits for the device."""
    if not into:
        return
    with torch.no_grad():
        to_host = not any(tensor.is_cuda for tensor in into)
        torch._foreach_copy_(into, source, non_blocking=to_host)
    for device in {tensor.device for tensor in source if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()


class Spread:
    """`tensors` as the row of bytes that `specs` describe; its length is `size_bytes`."""

    def __init__(self, tensors: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]) -> None:
        listed = [(spec.offset, name, tensors[name].detach()) for name, spec in specs.items() if spec.size_bytes]
        self._parts = sorted(listed, key=lambda part: part[0])
        self._ends = [offset + _size(tensor) for offset, _, tensor in self._parts]
        self.size_bytes = max((spec.offset + spec.size_bytes for spec in specs.values()), default=0)

    def gather(self, start: int, into: Tensor) -> None:
        """Fill `into` (uint8, 1-d) with the bytes from `start` on; what lies between tensors is zero."""
        found = list(self._overlaps(start, into))
        end = start
        for offset, row, _ in found:
            into[end - start : offset - start].zero_()
            end = offset + _size(row)
        into[end - start :].zero_()
        copy([view for _, _, views in found for _, view in views], [live for _, _, views in found for live, _ in views])

    def scatter(self, start: int, piece: Tensor) -> None:
        """Write `piece` (uint8, 1-d), the bytes from `start` on, into the tensors; raises `Damaged` when it cannot
        belong there."""
        found = [pair for _, _, views in self._overlaps(start, piece) for pair in views]
        copy([live for live, _ in found], [view for _, view in found])

    def _overlaps(self, start: int, piece: Tensor) -> Iterator[tuple[int, Tensor, list[tuple[Tensor, Tensor]]]]:
        stop = start + piece.numel()
        for index in range(bisect_right(self._ends, start), len(self._parts)):
            offset, name, tensor = self._parts[index]
            if offset >= stop:
                return
            first, last = max(offset, start), min(self._ends[index], stop)
            item = tensor.element_size()
            if (first - offset) % item or (last - offset) % item or (first - start) % item:
                raise Damaged(f"tensor {name} is cut within an element, at byte {first} or {last} of the state")
            row = piece[first - start : last - start].view(tensor.dtype)
            yield first, row, list(pairs(tensor, (first - offset) // item, row))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
