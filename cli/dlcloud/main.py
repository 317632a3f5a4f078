"""The command `dlcloud`: its options, their help and its exit codes. All work is done elsewhere, imported when needed.

May import typer and this package. Nothing slow at module level: `dlcloud --help` must answer at once. Nothing a
user typed gets a traceback.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import completing
from .commands import checkpoints, data, doctor, export, jobs, logs, plot, run, top
from .exits import EXIT_BROKEN_PIPE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_UNREACHABLE, EXIT_USAGE
from .jobs.errors import JobNotFound, JobsError, Unreachable
from .output import silence

_EPILOG = """Examples:

\b
  dlcloud validate job.yaml                  every mistake, with line and remedy
  dlcloud run job.yaml                       train here, with processes as pods
  dlcloud run job.yaml --detach              in the background
  dlcloud ls                                 what runs and what ran, also after a reboot
  dlcloud logs -f digits; dlcloud top; dlcloud plot digits
  dlcloud suspend digits; dlcloud resume digits
  dlcloud run job.yaml -n research           train in a cluster (also: kubectl dlcloud ...)

\b
Where the jobs are: in a cluster when --kubeconfig, --context, -n or $KUBECONFIG names one, else on this machine
(below $DLCLOUD_HOME [default: ~/.local/share/dlcloud]); --local wins.

\b
Exit codes of all commands:
  0    done; of a job that was followed: it succeeded
  1    failed; of a job that was followed: it failed
  2    wrong usage, a wrong manifest, or there is no such job
  3    the cluster or the store cannot be reached: the same may work later
  4    the job that was followed was suspended by `dlcloud suspend`
  130  Ctrl-C (143 SIGTERM, 129 SIGHUP, 141 nobody reads the output any more)
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


for _module in (run, jobs, logs, top, plot, checkpoints, data, export, doctor):
    _module.register(app)


def main() -> None:
    """Entry point of the console script; leaves with the exit code, never with a traceback for what a user did."""
    if completing.asked():
        completing.prepare()
    try:
        app(prog_name="dlcloud")
    except JobsError as error:
        typer.echo(str(error), err=True)
        codes = ((JobNotFound, EXIT_USAGE), (Unreachable, EXIT_UNREACHABLE))
        sys.exit(next((code for kind, code in codes if isinstance(error, kind)), EXIT_FAILED))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        silence(sys.stdout)
        sys.exit(EXIT_BROKEN_PIPE)


if __name__ == "__main__":
    main()
