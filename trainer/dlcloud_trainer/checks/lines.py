"""What the programs here write: lines of JSON. May import the standard library only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def tell(**fields: Any) -> None:
    """Write one line at once."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Seconds since the context began, rounded to milliseconds."""
    began = time.monotonic()
    yield lambda: round(time.monotonic() - began, 3)


def one_line(error: BaseException) -> str:
    """An exception's last words in one line of at most 500 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text}"[:500].rstrip(": ")
