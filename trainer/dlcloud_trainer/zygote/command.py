"""Which commands a forked interpreter can run in place of a new one: a pure reading of Python's command line.

May import the standard library only. Anything not understood for certain is None: it is started cold, which is always
right.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_NAMES = ("python", "python3", f"python3.{sys.version_info.minor}")


class Kind(Enum):
    """What follows the interpreter's options."""

    FILE = "file"
    MODULE = "module"
    CODE = "code"


@dataclass(frozen=True)
class PythonRun:
    """A Python program: `target` is a path, a module's name or source text; `args` follow it."""

    kind: Kind
    target: str
    args: tuple[str, ...]
    unbuffered: bool = False
    no_bytecode: bool = False


def read_command(command: Sequence[str], executable: str) -> PythonRun | None:
    """The program of `python [-u] [-B] (file | -m module | -c code) [args]`, or None for anything else."""
    if not command or not is_interpreter(command[0], executable):
        return None
    flags: set[str] = set()
    words = list(command[1:])
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            return _file(word, words, flags)
        if word.startswith("--") or word == "-":
            return None
        for position, letter in enumerate(word[1:], start=2):
            if letter in "mc":
                rest = word[position:]
                if not rest and not words:
                    return None
                target = rest or words.pop(0)
                return _run(Kind.MODULE if letter == "m" else Kind.CODE, target, words, flags)
            if letter not in "uB":
                return None
            flags.add(letter)
    return None


def is_interpreter(name: str, executable: str) -> bool:
    """Whether a command's first word means this interpreter. A link into another environment does not."""
    if os.sep not in name:
        return name in _NAMES
    given, own = Path(name).absolute(), Path(executable).absolute()
    return given.parent.resolve() == own.parent.resolve() and given.resolve() == own.resolve()


def _file(path: str, args: list[str], flags: set[str]) -> PythonRun | None:
    if Path(path).is_dir() or zipfile.is_zipfile(path):
        return None
    return _run(Kind.FILE, path, args, flags)


def _run(kind: Kind, target: str, args: list[str], flags: set[str]) -> PythonRun:
    return PythonRun(kind, target, tuple(args), unbuffered="u" in flags, no_bytecode="B" in flags)
