"""`dlcloud ls|describe|suspend|resume|rm|completion`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from ..formats import Format
from ..output import Output
from ..place import Place
from .place import JobArgument, complete_job, on_place

OutputOption = Annotated[
    Format,
    typer.Option(
        "-o", "--output", metavar="text|wide|json|yaml", help="Output format [default: text].", show_default=False
    ),
]

_LS = """Examples:

\b
  dlcloud ls                        local runs, newest first
  dlcloud ls -o wide                with rate, time to go, checkpoint, folder and message
  dlcloud ls --all                  also those beyond the newest 20
  dlcloud ls -n research            TrainingJobs of a cluster's namespace
  dlcloud ls -o json | jq '.items[] | select(.status.phase == "Failed") | .metadata.name'

\b
A local run whose process is gone though it had not ended is Interrupted: `dlcloud resume ID` goes on with it.
Machine output (-o json, -o yaml) is a TrainingJobList of all jobs. Nothing is deleted by itself: see `dlcloud rm`.
"""

_DESCRIBE = """Examples:

\b
  dlcloud describe digits                     the newest run of the job digits
  dlcloud describe digits-20260102-030405
  dlcloud describe digits -o json | jq .status.progress
"""

_SUSPEND = """Examples:

\b
  dlcloud suspend digits
  dlcloud suspend digits --timeout 120
  dlcloud suspend digits -n research          a job of a cluster

\b
The workers save and leave; `dlcloud resume` goes on from there. Ctrl-C ends the waiting only: the job still stops.
Exit codes: 0 the job has stopped (or had already), 1 it has ended before or not stopped in time, 2 no such job.
"""

_RESUME = """Examples:

\b
  dlcloud resume digits                       go on here, and follow it
  dlcloud resume digits --detach              go on in the background
  dlcloud resume digits --workers 4           with another number of workers
  dlcloud resume digits --set restart.maxFailures=10
  dlcloud resume digits -n research           a job of a cluster

\b
A suspended, interrupted or failed run goes on in its folder, with its uid: from its last checkpoint, or from the
beginning when it has none. A failed one begins with a new budget of failures. Keys of your own S3 server are taken
from the environment again. What may not change (parameters, data, checkpoint.uri) is refused. Exit codes: as `run`.
"""

_RM = """Examples:

\b
  dlcloud rm digits-20260102-030405           its folder; its checkpoints stay
  dlcloud rm digits --objects                 what it stored, too (asks first)
  dlcloud rm --finished --objects --yes       everything of all jobs that have ended, for a script
  dlcloud rm --all --force                    all of them, running ones too

\b
A running job is refused without --force, which lets it save first (with --objects it is killed).
Exit codes: 0 all are gone, 1 something could not be deleted, 2 wrong usage or no such job.
"""

_COMPLETION = """Examples:

\b
  dlcloud completion bash > ~/.local/share/bash-completion/completions/dlcloud
  dlcloud completion zsh > "${fpath[1]}/_dlcloud"
  dlcloud completion fish > ~/.config/fish/completions/dlcloud.fish
  source <(dlcloud completion bash)           for this shell only
"""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("ls", epilog=_LS, help="List jobs, newest first.")(list_jobs)
    app.command(epilog=_DESCRIBE, help="Show all that is known of a job.")(describe)
    app.command(epilog=_SUSPEND, help="Have a job save and stop, and wait for it.")(suspend)
    app.command(epilog=_RESUME, help="Go on with a suspended, interrupted or failed job.")(resume)
    app.command("rm", epilog=_RM, help="Delete jobs, and on demand what they stored.")(remove)
    app.command(epilog=_COMPLETION, help="Print the completion script for a shell.")(completion)


@on_place()
def list_jobs(
    output: OutputOption = Format.TEXT,
    every: Annotated[bool, typer.Option("--all", help="Local runs: not only the newest 20.")] = False,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="A cluster: the jobs of all namespaces.")
    ] = False,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..managing import list_command

    out, err = Output(sys.stdout), Output(sys.stderr)
    raise typer.Exit(list_command(place, out, err, output, every=every, all_namespaces=all_namespaces))


@on_place()
def describe(
    job: JobArgument,
    output: OutputOption = Format.TEXT,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..managing import describe_command

    raise typer.Exit(describe_command(place, job, Output(sys.stdout), output))


@on_place()
def suspend(
    job: JobArgument,
    timeout: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="How long to wait for it; the job stops all the same.")
    ] = 900,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..managing import suspend_command

    raise typer.Exit(suspend_command(place, job, Output(sys.stdout), Output(sys.stderr), wait_s=timeout))


@on_place()
def resume(
    job: JobArgument,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not follow the job: return when it goes on.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, max=1024, help="Go on with this number of workers.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field below spec that may change."),
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
    if not place.in_cluster:
        from ..run import ResumeOptions, resume_command

        options = ResumeOptions(job, workers, tuple(settings or ()), plain, logs, detach)
        raise typer.Exit(resume_command(options))
    if workers is not None or settings:
        typer.echo(
            f"--workers, --set: change a job of a cluster with: kubectl edit trainingjob {job}; "
            "workers.count may change while it is suspended",
            err=True,
        )
        raise typer.Exit(EXIT_USAGE)
    from ..managing import resume_in_cluster

    out, err = Output(sys.stdout), Output(sys.stderr)
    raise typer.Exit(resume_in_cluster(place, job, out, err, plain=plain, logs=logs, detach=detach))


@on_place()
def remove(
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="JOB...", help="Jobs to delete.", autocompletion=complete_job)
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Delete what they stored as well: checkpoints, metrics, logs.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Stop those that run, then delete them.")] = False,
    finished: Annotated[bool, typer.Option("--finished", help="All that have succeeded or failed.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All jobs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before objects are deleted.")] = False,
    *,
    place: Place,
) -> None:
    """See `help`."""
    if sum((bool(jobs), finished, every)) != 1:
        typer.echo("give either jobs, --finished or --all; `dlcloud ls` shows what there is", err=True)
        raise typer.Exit(EXIT_USAGE)
    from ..removing import RemoveOptions, remove_command

    options = RemoveOptions(tuple(jobs or ()), finished=finished, every=every, objects=objects, force=force, yes=yes)
    raise typer.Exit(remove_command(place, options, Output(sys.stdout), Output(sys.stderr)))


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell it is for.")],
) -> None:
    """See `help`."""
    if shell not in ("bash", "zsh", "fish"):
        typer.echo(f"{shell!r} is no shell we know; give bash, zsh or fish", err=True)
        raise typer.Exit(EXIT_USAGE)
    from ..completing import script

    text = script(shell)
    typer.echo(text)
    raise typer.Exit(EXIT_OK if text else EXIT_FAILED)
