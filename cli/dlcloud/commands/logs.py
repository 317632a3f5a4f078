"""`dlcloud logs`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..exits import EXIT_USAGE
from ..formats import Format
from ..output import Output
from ..place import Place
from .place import JobArgument, on_place

_EPILOG = """Examples:

\b
  dlcloud logs digits                        all pods there are and were, worker by worker
  dlcloud logs -f digits                     and what comes, across restarts, to the job's end
  dlcloud logs digits --rank 0 --tail 20     what rank 0 said last, without `[rank 0]` before it
  dlcloud logs digits -n research            a job of a cluster
  dlcloud logs digits -o json | jq -r 'select(.rank == 1) | .text'

\b
Pods that are gone are read from the store, where each one's output is kept beside the checkpoints. Machine output is
one JSON object a line: {pod, worker, incarnation, rank, text}; rank is null for the agent. Time stamps are not kept.
Exit codes: 0 (also when the job failed), 2 no such job, 3 nothing can be reached, 130 Ctrl-C.
"""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog=_EPILOG, help="Show a job's output, also after its pods are gone.")(logs)


@on_place(endpoint=True)
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on to the job's end.")] = False,
    ranks: Annotated[
        list[int] | None, typer.Option("--rank", metavar="N", min=0, help="This rank alone; may be given again.")
    ] = None,
    worker: Annotated[int | None, typer.Option(metavar="N", min=0, help="The pods of this worker alone.")] = None,
    tail: Annotated[int | None, typer.Option(metavar="N", min=0, help="Only the last N lines of every pod.")] = None,
    output: Annotated[
        Format, typer.Option("-o", "--output", metavar="text|json", help="Output format.", show_default=False)
    ] = Format.TEXT,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..joblogs.command import LogOptions, logs_command
    from ..joblogs.lines import Selection

    if output not in (Format.TEXT, Format.JSON):
        typer.echo(f"-o {output}: output has lines, so give text or json", err=True)
        raise typer.Exit(EXIT_USAGE)
    options = LogOptions(Selection(frozenset(ranks or ()), worker), follow, tail, output)
    raise typer.Exit(logs_command(place.open(), job, options, Output(sys.stdout), Output(sys.stderr)))
