"""`dlcloud plot`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..output import Output
from ..place import Place
from .place import complete_job, on_place

_EPILOG = """Examples:

\b
  dlcloud plot digits                              loss and accuracy, in the terminal
  dlcloud plot digits --out digits.png             the same as a picture (.svg as well)
  dlcloud plot digits-20260102-030405 digits-20260103-091500 --metric accuracy
  dlcloud plot digits --metric learningRate --x epoch
  dlcloud plot digits --out digits.csv             the numbers: run, metric, round, step, epoch, samples, time, value
  dlcloud plot digits --confusion                  what it takes for what, as a table (--out: .png, .svg, .csv)
  dlcloud plot digits -n research                  a job of a cluster

\b
x and dashed lines: restarts; c and triangles: checkpoints that are kept. Of steps that were done again the last ones
count. Pictures that a job drew are named below its curves. JOB may be the URI of what a job saved, too. Exit codes: 0,
1 nothing was measured, 2 wrong usage or no such job, 3 the store cannot be reached.
"""


class _Axis(StrEnum):
    STEP = "step"
    EPOCH = "epoch"
    TIME = "time"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog=_EPILOG, help="Draw learning curves, of several runs over each other.")(plot)


@on_place(endpoint=True)
def plot(
    jobs: Annotated[
        list[str],
        typer.Argument(metavar="JOB...", help="Jobs' IDs.", autocompletion=complete_job, show_default=False),
    ],
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="What to draw [default: loss and accuracy]; may be given again."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file that ends in .png, .svg or .csv, not the terminal.")
    ] = None,
    smooth: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Mean over N points [default: what looks well]; 1: as it is.")
    ] = None,
    axis: Annotated[_Axis, typer.Option("--x", metavar="step|epoch|time", help="Horizontal axis.")] = _Axis.STEP,
    width: Annotated[int | None, typer.Option(metavar="N", min=1, help="Columns, or pixels of a picture.")] = None,
    height: Annotated[int | None, typer.Option(metavar="N", min=1, help="Rows a panel, or pixels in all.")] = None,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Of a classifier: which classes of the test set it took for which.")
    ] = False,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..curve import Axis
    from ..plotting import PlotOptions, plot_command

    options = PlotOptions(tuple(jobs), tuple(metrics or ()), out, smooth, Axis(axis), width, height, confusion)
    raise typer.Exit(plot_command(options, place, Output(sys.stdout), Output(sys.stderr)))
