"""`dlcloud run` and `dlcloud validate`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..exits import EXIT_USAGE
from ..output import Output

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


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog=_RUN_EPILOG, help="Train a job and follow it to its end.")(run)
    app.command(help="Check manifests: every mistake with its line, column and remedy.")(validate)


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
    from ..run import RunOptions, run_command

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


def validate(
    manifests: Annotated[list[Path], typer.Argument(metavar="JOB.yaml...", help="Manifests to check.")],
) -> None:
    """See `help`."""
    from ..validate import validate_command

    raise typer.Exit(validate_command(manifests, Output(sys.stdout), Output(sys.stderr)))
