"""`dlcloud top`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..formats import Format
from ..output import Output
from ..place import Place
from .place import complete_job, on_place

_EPILOG = """Examples:

\b
  dlcloud top                       all running jobs, drawn again every second; q leaves
  dlcloud top --all                 also those that have ended
  dlcloud top digits                one job: workers, the course of its loss, events
  dlcloud top --once                once, and no screen (also when the output goes to a pipe or a file)
  dlcloud top -o json | jq '.[] | select(.warning != "")'
  dlcloud top -n research           jobs of a cluster

\b
SAVED is the age of the last checkpoint. A line that begins with ! is what a user should look at. Machine output is
written once. Exit codes: 0 (also q), 2 no such job, 3 the cluster cannot be reached, 130 Ctrl-C.
"""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog=_EPILOG, help="Watch running jobs.")(top)


@on_place()
def top(
    job: Annotated[
        str, typer.Argument(metavar="[JOB]", help="One job, closer.", show_default=False, autocompletion=complete_job)
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Also jobs that have ended.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Write the state once and leave.")] = False,
    output: Annotated[
        Format, typer.Option("-o", "--output", metavar="text|json|yaml", help="Output format.", show_default=False)
    ] = Format.TEXT,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..top.command import TopOptions, top_command

    raise typer.Exit(top_command(place.open(), TopOptions(job, every, once, output), Output(sys.stdout)))
