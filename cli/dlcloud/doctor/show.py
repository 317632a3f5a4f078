"""The answer for people (a line for each check, remedies below) and for machines (one document).

May import the standard library and this package.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from ..output import Output
from .findings import State
from .runner import Result

_SIGNS = {State.OK: "✓", State.WARN: "!", State.FAIL: "✗", State.SKIP: "-"}
_COLOURS = {State.OK: "32", State.WARN: "33", State.FAIL: "31", State.SKIP: "2"}
_REMEDY = "→ "


class Lines:
    """Writes findings as they come. On a terminal with colours, and the check that is waited for."""

    def __init__(self, out: Output, stream: TextIO, names: Sequence[str]) -> None:
        self._out, self._stream = out, stream
        self._width = max(map(len, names), default=0)
        self._terminal = stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
        self._colours = self._terminal and not os.environ.get("NO_COLOR")
        self._fancy = self._terminal and "utf" in (stream.encoding or "").lower()

    def waiting(self, name: str) -> None:
        """Say on a terminal what is being looked at."""
        if self._terminal and not self._out.gone:
            self._raw(f"\r\x1b[2K  {name} ...")

    def show(self, result: Result) -> None:
        """One finding."""
        if self._terminal:
            self._raw("\r\x1b[2K")
        finding = result.finding
        word = _SIGNS[finding.state] if self._fancy else f"{finding.state.value:<4}"
        head = f"{self._painted(word, _COLOURS[finding.state])} {result.check.name:<{self._width}}  "
        indent = " " * (len(word) + 1 + self._width + 2)
        for number, line in enumerate(self._wrapped(finding.message, len(indent))):
            self._out.line((head if number == 0 else indent) + line)
        if finding.remedy:
            arrow = _REMEDY if self._fancy else "-> "
            for number, line in enumerate(self._wrapped(finding.remedy, len(indent) + len(arrow))):
                self._out.line(indent + (arrow if number == 0 else " " * len(arrow)) + self._painted(line, "1"))

    def close(self, results: Sequence[Result]) -> None:
        """The sum of it."""
        if self._terminal:
            self._raw("\r\x1b[2K")
        self._out.line()
        self._out.line(summary(results))

    def _wrapped(self, text: str, indent: int) -> list[str]:
        """Broken for a terminal; elsewhere each message stays one line, for grep."""
        if not self._terminal:
            return [" ".join(text.split())]
        width = max(30, shutil.get_terminal_size().columns - indent - 1)
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text

    def _raw(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._out.failed(error)


def summary(results: Sequence[Result]) -> str:
    """`12 ok, 1 warning, 2 failed, 3 skipped`, and what that means."""
    count = {state: sum(result.finding.state is state for result in results) for state in State}
    parts = [f"{count[State.OK]} ok"]
    parts += [f"{count[State.WARN]} warning{'s' * (count[State.WARN] != 1)}"] if count[State.WARN] else []
    parts += [f"{count[State.FAIL]} failed"] if count[State.FAIL] else []
    parts += [f"{count[State.SKIP]} skipped"] if count[State.SKIP] else []
    verdict = (
        "runs will fail until the failed ones are mended" if count[State.FAIL] else "nothing is in the way of a run"
    )
    return f"{', '.join(parts)}: {verdict}"


def document(place: str, results: Sequence[Result]) -> dict[str, Any]:
    """For `-o json` and `-o yaml`."""
    return {
        "place": place,
        "ok": not any(result.finding.state is State.FAIL for result in results),
        "checks": [
            {
                "name": result.check.name,
                "state": result.finding.state.value,
                "message": result.finding.message,
                "remedy": result.finding.remedy,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
    }
