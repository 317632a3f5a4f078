"""PNG and JPEG files to pixels of one size, strictly: no guessing at channels, no scaling.

May import numpy and, with the first image, pillow. Sizes are looked at before anything is decoded; all images of a part
together are bounded by `MAX_BYTES`.
"""

from __future__ import annotations

import io

import numpy as np

from ..errors import InvalidInput
from .splits import Pixels

MAX_SIDE = 4096
MAX_BYTES = 8 << 30
MODES = {1: ("L", "1"), 3: ("RGB", "L", "P", "1")}  # what is taken without loss
WORDS = {1: "grey", 3: "colour"}


class Gallery:
    """Images (channels, height, width) of one size; `like` is a part whose size they must have."""

    def __init__(self, channels: int, like: Gallery | None = None) -> None:
        self._channels = channels
        self._data = bytearray()
        self._count = 0
        self._first: tuple[str, tuple[int, int]] | None = like._first if like is not None else None

    def add(self, data: bytes, name: str) -> None:
        """Decode one more; raises `InvalidInput` naming it."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                self._check(image.size, image.mode, "transparency" in image.info, name)
                mode = "L" if self._channels == 1 else "RGB"
                pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        except InvalidInput:
            raise
        except Exception as error:  # pillow's decoders raise whatever a damaged file makes them
            raise InvalidInput(
                f"{name}: not readable as PNG or JPEG ({type(error).__name__}); the file is damaged or something else, "
                "copy it again"
            ) from None
        if pixels.dtype != np.uint8:
            raise InvalidInput(f"{name}: {pixels.dtype} pixels; 8 bits a channel are read, convert it first")
        if len(self._data) + pixels.nbytes > MAX_BYTES:
            raise InvalidInput(f"{name}: all images together have more than {MAX_BYTES} bytes of pixels; give fewer")
        self._data += pixels.transpose(2, 0, 1).tobytes() if pixels.ndim == 3 else pixels.tobytes()
        self._count += 1

    def pixels(self) -> Pixels:
        """All of them, (n, channels, height, width)."""
        width, height = self._first[1] if self._first is not None else (0, 0)
        return np.frombuffer(self._data, np.uint8).reshape(self._count, self._channels, height, width)

    def _check(self, size: tuple[int, int], mode: str, transparent: bool, name: str) -> None:
        if self._first is None:
            self._first = (name, size)
        first, wanted = self._first
        if size != wanted:
            raise InvalidInput(
                f"{name}: {_words(size)} pixels, {first} has {_words(wanted)}; all images of a data set must have one "
                "size, convert them first"
            )
        if max(size) > MAX_SIDE or min(size) < 1:
            raise InvalidInput(f"{name}: {_words(size)} pixels, at most {MAX_SIDE}x{MAX_SIDE} are read; scale it down")
        if transparent or mode not in MODES[self._channels]:
            kind = f"mode {mode}{' with transparency' if transparent else ''}"
            raise InvalidInput(
                f"{name}: {kind}; this workload reads {WORDS[self._channels]} images of 8 bits a channel "
                f"({', '.join(MODES[self._channels])}), convert it first"
            )


def _words(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"  # height first, as everywhere
