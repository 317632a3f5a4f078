"""A pod's output on its way to the store: a bounded queue in, numbered parts out. Pure: no I/O, no clock, no lock.

May import the standard library only. The parts, one after the other, are the output as it was written; when more waits
than may, the oldest of it is left out and a line in its place says how much.
"""

from __future__ import annotations

from collections import deque

PART_BYTES = 1024 * 1024
WAITING_BYTES = 4 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024  # small writes share a block: one object for each line would cost more than the lines


class Backlog:
    """What the store does not have yet. A part only ever grows, up to `part_bytes`; then the next one begins."""

    def __init__(self, part_bytes: int = PART_BYTES, waiting_bytes: int = WAITING_BYTES) -> None:
        self._part_bytes, self._waiting_bytes = part_bytes, waiting_bytes
        self._blocks: deque[bytearray] = deque()
        self._size = 0  # of the blocks
        self._missing = 0  # bytes that were left out before the first block
        self._head = b""  # taken out of the queue, not yet in the part
        self._number, self._part = 0, bytearray()
        self._written = 0  # bytes of the part the store has
        self._line_open = False  # the part, or what came before it, ends within a line

    @property
    def size(self) -> int:
        """Bytes that wait for a place in a part."""
        return self._size + len(self._head)

    @property
    def whole(self) -> bool:
        """There is enough to fill the part."""
        return len(self._part) + self.size >= self._part_bytes

    def has_room(self, count: int) -> bool:
        """Whether `count` more bytes may come and nothing is left out for them."""
        return self._size + count <= self._waiting_bytes

    def add(self, data: bytes) -> None:
        """Take in what was written next."""
        if self._blocks and len(self._blocks[-1]) + len(data) <= _BLOCK_BYTES:
            self._blocks[-1] += data
        else:
            self._blocks.append(bytearray(data))
        self._size += len(data)
        while self._size > self._waiting_bytes and len(self._blocks) > 1:
            self._leave_out(self._blocks.popleft())
        if self._size > self._waiting_bytes:  # one write above the limit
            block = self._blocks.popleft()
            self._blocks.append(block[-self._waiting_bytes :])
            self._leave_out(block[: -self._waiting_bytes])

    def take(self) -> tuple[int, bytes] | None:
        """Number and content of the part to write now, filled as far as the queue goes; None when there is nothing."""
        while len(self._part) < self._part_bytes and (self._head or self._missing or self._blocks):
            if not self._head:
                self._head = self._next()
            room = self._part_bytes - len(self._part)
            piece, self._head = self._head[:room], self._head[room:]
            self._part += piece
            self._line_open = not piece.endswith(b"\n")
        return (self._number, bytes(self._part)) if len(self._part) > self._written else None

    def done(self, number: int, size: int) -> None:
        """The store has the first `size` bytes of this part."""
        if number != self._number:
            return
        self._written = size
        if size == self._part_bytes:
            self._number, self._part, self._written = number + 1, bytearray(), 0

    def _next(self) -> bytes:
        if self._missing:
            line = b"[dlcloud] %d bytes of output are missing here\n" % self._missing
            self._missing = 0
            return b"\n" + line if self._line_open else line
        block = self._blocks.popleft()
        self._size -= len(block)
        return bytes(block)

    def _leave_out(self, block: bytearray) -> None:
        self._size -= len(block)
        self._missing += len(block)
