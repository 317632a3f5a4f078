"""The IDX format of MNIST, read strictly: what is short, damaged or something else is refused by name.

May import numpy and the standard library. Never trusts a size in a header before the bytes are there: memory is bounded
by `MAX_BYTES`, whatever a file claims or unpacks to. Format: http://yann.lecun.com/exdb/mnist (big endian; magic 00 00
type rank).
"""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 2 << 30
CUT_SHORT = "the file is cut short, copy it again"
DAMAGED = "the file is damaged, copy it again"


def read_images(data: bytes, name: str, side: int = 28) -> npt.NDArray[np.uint8]:
    """Images (n, side, side) of an IDX file, plain or gzip; raises `InvalidInput` naming the file."""
    images = read_idx(data, name, rank=3)
    if images.shape[1:] != (side, side):
        found = "x".join(map(str, images.shape[1:]))
        raise InvalidInput(f"{name}: images of {found} pixels; the workload reads {side}x{side}, convert them first")
    return images


def read_labels(data: bytes, name: str, classes: int = 10) -> npt.NDArray[np.uint8]:
    """Labels (n,) from 0 to classes - 1 of an IDX file, plain or gzip; raises `InvalidInput` naming the file."""
    labels = read_idx(data, name, rank=1)
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        first = int(wrong[0])
        raise InvalidInput(
            f"{name}: label {labels[first]} at position {first}; allowed are 0 to {classes - 1}, give a file of digits"
        )
    return labels


def read_idx(data: bytes, name: str, rank: int) -> npt.NDArray[np.uint8]:
    """The unsigned bytes of an IDX file with `rank` dimensions; raises `InvalidInput` naming the file."""
    header_size = 4 + 4 * rank
    packed = data[:2] == GZIP_MAGIC
    unpacker = zlib.decompressobj(wbits=31)
    header = _unpack(unpacker, data, header_size, name) if packed else data[:header_size]
    if len(header) < header_size:
        raise InvalidInput(f"{name}: {len(header)} bytes, an IDX header has {header_size}; {CUT_SHORT}")
    zero, kind, found_rank, *shape = struct.unpack(f">HBB{rank}I", header)
    if zero != 0 or kind != UNSIGNED_BYTE or found_rank != rank:
        expected = struct.pack(">HBB", 0, UNSIGNED_BYTE, rank).hex(" ")
        found = header[:4].hex(" ")
        raise InvalidInput(f"{name}: begins with {found} instead of {expected}; it is not the IDX file of that name")
    size = math.prod(shape)
    if size == 0:
        raise InvalidInput(
            f"{name}: its header promises {'x'.join(map(str, shape))} values, that is nothing; {DAMAGED}"
        )
    if size > MAX_BYTES:
        raise InvalidInput(f"{name}: its header promises {size} bytes, at most {MAX_BYTES} are read; {DAMAGED}")
    if packed:
        body = _unpack(unpacker, unpacker.unconsumed_tail, size + 1, name)
        _check_end(unpacker, body, size, name)
    else:
        body = data[header_size:]
    if len(body) < size:
        raise InvalidInput(f"{name}: {len(body)} of {size} bytes of data; {CUT_SHORT}")
    if len(body) > size:
        raise InvalidInput(f"{name}: more than the {size} bytes of data its header promises; {DAMAGED}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _unpack(unpacker: zlib._Decompress, data: bytes, size: int, name: str) -> bytes:
    """At most `size` bytes; fewer only where the stream ends."""
    parts: list[bytes] = []
    missing = size
    try:
        while missing > 0 and not unpacker.eof:
            part = unpacker.decompress(data, missing)
            parts.append(part)
            missing -= len(part)
            data = unpacker.unconsumed_tail
            if not part and not data:
                break
    except zlib.error as error:
        reason = str(error).rsplit(": ", 1)[-1]
        raise InvalidInput(f"{name}: not readable as gzip ({reason}); {DAMAGED}") from None
    return b"".join(parts)


def _check_end(unpacker: zlib._Decompress, body: bytes, size: int, name: str) -> None:
    if len(body) > size:
        return  # the caller says so
    if not unpacker.eof:
        raise InvalidInput(f"{name}: the gzip stream ends after {len(body)} of {size} bytes of data; {CUT_SHORT}")
    if unpacker.unused_data:
        rest = len(unpacker.unused_data)
        raise InvalidInput(f"{name}: {rest} bytes after the end of the gzip stream; {DAMAGED}")
