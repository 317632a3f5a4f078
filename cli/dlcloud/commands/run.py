"""`dlcloud run` and `dlcloud validate`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..exits import EXIT_USAGE
from ..formats import Format
from ..output import Output
from ..place import Place
from .place import on_place

_RUN_EPILOG = """Examples:

\b
  dlcloud run job.yaml                        here, with processes as pods
  dlcloud run job.yaml --workers 4 --set parameters.epochs=3
  dlcloud run job.yaml --detach               in the background; then: dlcloud top, dlcloud logs -f
  dlcloud run job.yaml --endpoint https://s3.eu-west-1.amazonaws.com
  dlcloud run job.yaml -n research            in a cluster: create the TrainingJob and follow it
  dlcloud run job.yaml --local | tee run.log

\b
Where: in a cluster when --kubeconfig, --context, -n or $KUBECONFIG names one and --local is not given, else on this
machine. There Ctrl-C saves and stops, and `dlcloud resume ID` goes on; in a cluster Ctrl-C only ends the following.

\b
Exit codes:
  0    the job succeeded            3    the cluster cannot be reached
  1    the job failed               4    the job was suspended by `dlcloud suspend`
  2    wrong manifest or option     130  stopped by Ctrl-C (143 by SIGTERM, 129 by SIGHUP, 141 by a closed pipe)

\b
Where s3:// leads on this machine: to the server of --endpoint, else to that of $AWS_ENDPOINT_URL (keys from
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), else to a small S3 server of this run, whose data stays in
$DLCLOUD_HOME/store. The objectStore of the manifest is for the cluster.
"""

_VALIDATE_EPILOG = """Examples:

\b
  dlcloud validate job.yaml
  dlcloud validate manifests/                 every .yaml, .yml and .json in it
  helm template ... | dlcloud validate -
  dlcloud validate job.yaml -o json           [{file, line, column, path, message}]; [] when all is right

\b
Exit codes: 0 all are right, 2 a mistake was found. Of several documents in a file (---) every TrainingJob is checked;
objects of other kinds are counted and left alone.
"""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog=_RUN_EPILOG, help="Train a job and follow it to its end.")(run)
    app.command(epilog=_VALIDATE_EPILOG, help="Check manifests: every mistake with its line, column and remedy.")(
        validate
    )


@on_place()
def run(
    given: typer.Context,
    manifest: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The manifest of a TrainingJob.")],
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the job is accepted; it goes on in the background.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Workers instead of the manifest's workers.count.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field below spec; may be given several times."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of a local run, new or empty [default: below $DLCLOUD_HOME/runs]."),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(metavar="URL", envvar="AWS_ENDPOINT_URL", show_envvar=False, help="S3 server of a local run.")
    ] = "",
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Data of a local run's own S3 server [default: $DLCLOUD_HOME/store]."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, also on a terminal.")] = False,
    logs: Annotated[
        bool | None,
        typer.Option("--logs/--no-logs", help="The ranks' output among the plain lines [default: for scripts]."),
    ] = None,
    *,
    place: Place,
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
        detach=detach,
    )
    if not place.in_cluster:
        if not place.local:
            typer.echo("no cluster is named (--kubeconfig, --context, -n, $KUBECONFIG): running on this machine")
        raise typer.Exit(run_command(options))
    names = {"run_dir": "--run-dir", "store": "--store", "endpoint": "--endpoint"}
    local_only = [
        option for name, option in names.items() if str(given.get_parameter_source(name)).endswith("COMMANDLINE")
    ]
    if local_only:
        typer.echo(f"{', '.join(local_only)}: for runs on this machine; add --local, or leave it out", err=True)
        raise typer.Exit(EXIT_USAGE)
    from ..run import run_in_cluster

    raise typer.Exit(run_in_cluster(place, options))


def validate(
    manifests: Annotated[
        list[Path],
        typer.Argument(
            metavar="JOB.yaml...", help="Files, folders of files, or - for standard input.", allow_dash=True
        ),
    ],
    output: Annotated[
        Format, typer.Option("-o", "--output", metavar="json|yaml", help="All mistakes as one list for machines.")
    ] = Format.TEXT,
) -> None:
    """See `help`."""
    from ..validate import validate_command

    raise typer.Exit(validate_command(manifests, Output(sys.stdout), Output(sys.stderr), output))
