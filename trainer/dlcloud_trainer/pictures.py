"""What a training draws, as PNG files in the store below `pictures/`; written by a thread of rank 0.

May import torch and pillow, which is imported with the first picture. A store that fails costs pictures, never the
training.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Mapping

from torch import Tensor

NOT_WRITTEN = "PictureNotWritten"
CONFUSION = "pictures/confusion.json"  # a table that whoever looks at it draws


def picture_key(name: str, epoch: int) -> str:
    """Key of a picture made after so many epochs."""
    return f"pictures/{name}-{epoch:06d}.png"


def png(pixels: Tensor) -> bytes:
    """A PNG file of uint8 pixels (height, width) or (height, width, 3)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(file, "PNG", optimize=False)
    return file.getvalue()


def tiled(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Images (n, height, width) or (n, height, width, 3), uint8, side by side as one picture on black."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1] + gap, images.shape[2] + gap
    picture = images.new_zeros((rows * height - gap, columns * width - gap, *images.shape[3:]))
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        picture[top : top + images.shape[1], left : left + images.shape[2]] = image
    return picture


class Pictures:
    """`put(key, data)` writes an object; `warn(reason, message)` is called once per trouble."""

    def __init__(self, put: Callable[[str, bytes], object], warn: Callable[[str, str], None]) -> None:
        self._put, self._warn = put, warn
        self._queue: queue.SimpleQueue[tuple[str, Tensor | bytes] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed = False

    def keep(self, pictures: Mapping[str, Tensor], epoch: int) -> None:
        """Write these of the end of an epoch; returns at once."""
        for name, pixels in pictures.items():
            self.write(picture_key(name, epoch), pixels)

    def write(self, key: str, content: Tensor | bytes) -> None:
        """Write one object, pixels as PNG; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)
            self._thread.start()
        self._queue.put((key, content))

    def close(self, limit_s: float) -> None:
        """Write what is left, for at most `limit_s`."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(limit_s)

    def _run(self) -> None:
        while (one := self._queue.get()) is not None:
            key, content = one
            try:
                self._put(key, png(content) if isinstance(content, Tensor) else content)
                self._failed = False
            except Exception as error:
                if not self._failed:
                    self._warn(NOT_WRITTEN, f"{key}: {error}; training goes on without it")
                self._failed = True
