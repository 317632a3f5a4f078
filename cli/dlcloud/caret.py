"""The line of a text with a caret under a place in it, as compilers show it.

May import the standard library only. Pure. What it returns is safe to print: no control character of the text is left.
"""

from __future__ import annotations

import re
import unicodedata

_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what YAML takes for one
_TAB = 4
_LEAST_WIDTH = 30
_ELLIPSIS = "…"


def excerpt(text: str, line: int, column: int, length: int = 1, *, width: int = 100) -> list[str]:
    """Line `line` of `text` and a line with `^~~~` under `length` characters from `column` on (both from 1).

    No line is wider than `width` columns (at least 30): a long one is cut around the place.
    """
    lines = _LINE_END.split(text)
    if line > len(lines) or (line == len(lines) and not lines[-1]):
        cells, start, end = list("(end of the file)"), 0, 1
    else:
        cells, starts = _cells(lines[line - 1])
        start = starts[min(column - 1, len(starts) - 1)]
        end = max(start + 1, starts[min(column - 1 + max(1, length), len(starts) - 1)])
    gutter = f"{line:>4} | "
    room = max(_LEAST_WIDTH, width) - len(gutter)
    cells, start, end = _cut(cells, start, end, room)
    marks = " " * start + "^" + "~" * (end - start - 1)
    return [(gutter + "".join(cells)).rstrip(), " " * (len(gutter) - 2) + "| " + marks]


def _cells(line: str) -> tuple[list[str], list[int]]:
    """The line by terminal cell (a wide character's second cell is empty), and the first cell of each character."""
    cells: list[str] = []
    starts: list[int] = []
    for character in line:
        starts.append(len(cells))
        if character == "\t":
            cells += [" "] * (_TAB - len(cells) % _TAB)
        elif unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
            if cells:
                cells[-1] += character
        elif not character.isprintable():
            cells.append("\ufffd")
        elif unicodedata.east_asian_width(character) in "WF":
            cells += [character, ""]
        else:
            cells.append(character)
    return cells, [*starts, len(cells)]


def _cut(cells: list[str], start: int, end: int, room: int) -> tuple[list[str], int, int]:
    """At most `room` cells around the place, with an ellipsis where something is left out."""
    if len(cells) <= room and end <= room:
        return cells, start, end
    first = max(0, min(start - room // 3, len(cells) - room))
    last = min(len(cells), first + room)
    shown = cells[first:last]
    if first > 0:
        shown[0] = _ELLIPSIS
        if len(shown) > 1 and shown[1] == "":  # half of a wide character
            shown[1] = " "
    if last < len(cells):
        shown[-1] = _ELLIPSIS
        if cells[last - 1] == "" and len(shown) > 1:
            shown[-2] = " "
    begin = min(start - first, room - 1)
    return shown, begin, max(begin + 1, min(end - first, room))
