"""The command `dlcloud`: its options, their help and its exit codes. All work is done elsewhere, imported when needed.

May import typer and this package. Nothing slow at module level: `dlcloud --help` must answer at once. Nothing a
user typed gets a traceback.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .commands import checkpoints, doctor, jobs, logs, plot, run, top
from .exits import EXIT_BROKEN_PIPE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from .jobs.errors import JobNotFound, JobsError
from .output import silence

_EPILOG = """Examples:

\b
  dlcloud validate job.yaml                              every mistake, with line and remedy
  dlcloud run job.yaml --local                           train here, with processes as pods
  dlcloud run job.yaml --local --workers 4 --set parameters.epochs=3
  kubectl apply -f job.yaml                              train in a cluster
"""

app = typer.Typer(
    name="dlcloud",
    help="Distributed PyTorch training that does not lose work.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"dlcloud {version('dlcloud')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options before the command."""


for _module in (run, jobs, logs, top, plot, checkpoints, doctor):
    _module.register(app)


def main() -> None:
    """Entry point of the console script; leaves with the exit code, never with a traceback for what a user did."""
    try:
        app()
    except JobsError as error:
        typer.echo(str(error), err=True)
        sys.exit(EXIT_USAGE if isinstance(error, JobNotFound) else EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        silence(sys.stdout)
        sys.exit(EXIT_BROKEN_PIPE)


if __name__ == "__main__":
    main()
