"""The command `dlcloud`: its options, their help and its exit codes. All work is done elsewhere, imported when needed.

May import typer and this package. Nothing slow at module level: `dlcloud --help` must answer at once. Nothing a
user typed gets a traceback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .exits import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USAGE
from .output import Output, silence

_EPILOG = """Examples:

\b
  dlcloud validate job.yaml                              every mistake, with line and remedy
  dlcloud run job.yaml --local                           train here, with processes as pods
  dlcloud run job.yaml --local --workers 4 --set parameters.epochs=3
  kubectl apply -f job.yaml                              train in a cluster
"""

_RUN_EPILOG = """Examples:

\b
  dlcloud run job.yaml --local
  dlcloud run job.yaml --local --workers 4 --set parameters.epochs=3
  dlcloud run job.yaml --local --endpoint https://s3.eu-west-1.amazonaws.com
  dlcloud run job.yaml --local | tee run.log

\b
Exit codes:
  0    the job succeeded            2    wrong manifest or option, or a part is missing
  1    the job failed               130  stopped by Ctrl-C (143 by SIGTERM, 129 by SIGHUP, 141 by a closed pipe)

\b
Where s3:// leads: to the server of --endpoint, else to that of $AWS_ENDPOINT_URL (keys from AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY), else to a small S3 server of this run, whose data stays in $DLCLOUD_HOME/store. The objectStore
of the manifest is for the cluster.
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


@app.command(epilog=_RUN_EPILOG, help="Train a job and follow it to its end.")
def run(
    manifest: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The manifest of a TrainingJob.")],
    local: Annotated[bool, typer.Option("--local", help="Run the pods as processes of this machine.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Workers instead of the manifest's workers.count.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field below spec; may be given several times."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of this run, new or empty [default: below $DLCLOUD_HOME/runs]."),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(metavar="URL", envvar="AWS_ENDPOINT_URL", show_envvar=False, help="S3 server to use.")
    ] = "",
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Data of the run's own S3 server [default: $DLCLOUD_HOME/store]."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, also on a terminal.")] = False,
    logs: Annotated[
        bool | None,
        typer.Option("--logs/--no-logs", help="The ranks' output among the plain lines [default: for scripts]."),
    ] = None,
) -> None:
    """See `help`."""
    from .run import RunOptions, run_command

    options = RunOptions(
        manifest=manifest,
        workers=workers,
        settings=tuple(settings or ()),
        run_dir=run_dir,
        endpoint=endpoint,
        store=store,
        plain=plain,
        logs=logs,
    )
    if not local:
        typer.echo(
            f"dlcloud run works with --local so far. In a cluster: kubectl apply -f {manifest}\n"
            f"On this machine: dlcloud run {manifest} --local",
            err=True,
        )
        raise typer.Exit(EXIT_USAGE)
    raise typer.Exit(run_command(options))


@app.command(help="Check manifests: every mistake with its line, column and remedy.")
def validate(
    manifests: Annotated[list[Path], typer.Argument(metavar="JOB.yaml...", help="Manifests to check.")],
) -> None:
    """See `help`."""
    from .validate import validate_command

    raise typer.Exit(validate_command(manifests, Output(sys.stdout), Output(sys.stderr)))


def main() -> None:
    """Entry point of the console script; leaves with the exit code, never with a traceback for what a user did."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        silence(sys.stdout)
        sys.exit(EXIT_BROKEN_PIPE)


if __name__ == "__main__":
    main()
