"""A tool run with a meter on the terminal: its result, or its refusal as an error.

May import this package's meter and tool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from ..jobs.errors import JobsError, Unreachable
from ..target import Target
from .progress import open_meter
from .tool import MODULE, Event, run_tool


class Refused(JobsError):
    """The request is wrong, or needs `--force`; the exit code is that of a wrong option."""

    def __init__(self, message: str, *, force: bool = False) -> None:
        super().__init__(message)
        self.force = force


def run(
    verb: str,
    target: Target,
    words: Sequence[str],
    options: Sequence[str],
    told: Callable[[Event], None],
    module: str = MODULE,
) -> Mapping[str, Any]:
    """Run the tool with a meter; returns its result. Raises JobsError, Refused among them."""
    with open_meter(sys.stderr) as meter, closing(run_tool(verb, target, words, options, module=module)) as events:
        for event in events:
            if event.kind == "progress":
                meter.show(event.fields)
            elif event.kind == "error":
                raise _error(event)
            elif event.kind == "result":
                return event.fields
            else:
                with meter.pause():
                    told(event)
    raise JobsError(f"the trainer's tool said nothing about {verb}")


def _error(event: Event) -> JobsError:
    message = str(event.fields.get("message"))
    if event.fields.get("usage"):
        return Refused(message, force=bool(event.fields.get("force")))
    return Unreachable(message) if event.fields.get("unreachable") else JobsError(message)
