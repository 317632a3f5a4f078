"""`dlcloud checkpoints ls|verify|get|pin|unpin|rm`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..formats import Format
from ..output import Output
from ..place import Place
from .place import complete_job, on_place

if TYPE_CHECKING:
    from ..target import Target

_EPILOG = """Examples:

\b
  dlcloud checkpoints ls cnn-digits                       the newest run of a job of this name
  dlcloud checkpoints verify cnn-digits latest
  dlcloud checkpoints get cnn-digits best --only model --out model.safetensors
  dlcloud checkpoints ls s3://bucket/default/cnn/1b2c.../ --endpoint http://127.0.0.1:9000

\b
JOB is an ID as `dlcloud ls` prints it, or the URI of what a job saved (its prefix, its head.json or a manifest): the
job itself may be gone. For a URI the keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""
_VERIFY_EPILOG = """Examples:

\b
  dlcloud checkpoints verify cnn-digits              every checkpoint
  dlcloud checkpoints verify cnn-digits latest
  dlcloud checkpoints verify cnn-digits 300 -o json

\b
Reads every byte and compares it with its CRC. Exit codes: 0 all are sound, 1 one is damaged.
"""
_GET_EPILOG = """Examples:

\b
  dlcloud checkpoints get cnn-digits                                   the newest, in the folder RUN-latest
  dlcloud checkpoints get cnn-digits best --out model.safetensors --only model
      >>> model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

\b
Every tensor of the state is in the file, by its name (model.conv1.weight, optimizer.state.0.exp_avg ...); with --only
those of one part, without its name before theirs. All that is no tensor goes to state.json (FILE.state.json). An
interrupted download goes on with the same command, and is checked before the file gets its name.
"""
_PIN_EPILOG = """Examples:

\b
  dlcloud checkpoints pin cnn-digits 300
  dlcloud checkpoints pin cnn-digits best

\b
A pinned checkpoint stays, whatever keepLast and keepBest say. It may be done while the job trains.
"""
_RM_EPILOG = """Examples:

\b
  dlcloud checkpoints rm cnn-digits 100 200
  dlcloud checkpoints rm cnn-digits 300 --force             also when it is pinned, or the newest

\b
While the job is not finished its own next commit frees what they occupy; else it is freed at once.
"""

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A job's ID, or the URI of what it saved.", show_default=False, autocompletion=complete_job
    ),
]
StepArgument = Annotated[str, typer.Argument(metavar="STEP|best|latest", help="Which one.", show_default=False)]
StepsArgument = Annotated[list[str], typer.Argument(metavar="STEP...", help="Steps, best or latest.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="What a job saved: list, check, download, keep, remove.",
        epilog=_EPILOG,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    group.command("ls", help="List them, newest first, and why each is kept.", epilog=_EPILOG)(ls)
    group.command(help="Read every byte of them and compare it with its CRC.", epilog=_VERIFY_EPILOG)(verify)
    group.command(help="Download one as a safetensors file.", epilog=_GET_EPILOG)(get)
    group.command(help="Keep some, whatever keepLast and keepBest say.", epilog=_PIN_EPILOG)(pin)
    group.command(help="Take pins away.", epilog=_PIN_EPILOG)(unpin)
    group.command(help="Remove some.", epilog=_RM_EPILOG)(rm)
    app.add_typer(group, name="checkpoints")


@on_place(endpoint=True)
def ls(
    job: TargetArgument,
    output: Annotated[Format, typer.Option("-o", "--output", help="wide adds times and URIs.")] = Format.TEXT,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..checkpoints.listing import list_checkpoints

    with opened(job, place) as target:
        list_checkpoints(target, output, Output(sys.stdout))


@on_place(endpoint=True)
def verify(
    job: TargetArgument,
    steps: Annotated[
        list[str] | None,
        typer.Argument(metavar="STEP|best|latest|all...", help="Which ones [default: all].", show_default=False),
    ] = None,
    output: Annotated[
        Format, typer.Option("-o", "--output", metavar="json|yaml", help="A list for machines.")
    ] = Format.TEXT,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..checkpoints import actions

    with opened(job, place) as target:
        code = actions.verify(target, steps or ["all"], output, Output(sys.stdout))
    raise typer.Exit(code)


@on_place(endpoint=True)
def get(
    job: TargetArgument,
    step: StepArgument = "latest",
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A folder, or a file that ends in .safetensors [default: JOB-STEP/]."),
    ] = None,
    only: Annotated[str, typer.Option(metavar="PART", help="One part of the state: model, optimizer ...")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..checkpoints import actions

    with opened(job, place) as target:
        actions.get(target, step, out, only=only, force=force, out=Output(sys.stdout), err=Output(sys.stderr))


@on_place(endpoint=True)
def pin(
    job: TargetArgument,
    steps: StepsArgument,
    *,
    place: Place,
) -> None:
    """See `help`."""
    _set_pins(job, steps, True, place)


@on_place(endpoint=True)
def unpin(
    job: TargetArgument,
    steps: StepsArgument,
    *,
    place: Place,
) -> None:
    """See `help`."""
    _set_pins(job, steps, False, place)


def _set_pins(job: str, steps: list[str], pinned: bool, place: Place) -> None:
    from ..checkpoints import actions

    with opened(job, place) as target:
        actions.pin(target, steps, pinned, Output(sys.stdout))


@on_place(endpoint=True)
def rm(
    job: TargetArgument,
    steps: StepsArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Also pinned ones and the newest, without a question.")
    ] = False,
    stopped: Annotated[bool, typer.Option("--stopped", help="With a URI: no job works there any more.")] = False,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..checkpoints import actions

    ask = (lambda why: typer.confirm(f"{why}. Remove it?", err=True)) if sys.stdin.isatty() else None
    with opened(job, place) as target:
        code = actions.remove(
            target, steps, force=force, stopped=stopped, ask=ask, out=Output(sys.stdout), err=Output(sys.stderr)
        )
    raise typer.Exit(code)


@contextlib.contextmanager
def opened(job: str, place: Place) -> Iterator[Target]:
    """What the argument names; wrong requests and Ctrl-C end with their exit codes."""
    from ..checkpoints.running import Refused
    from ..exits import EXIT_USAGE
    from ..target import open_target

    try:
        with open_target(job, place) as target:
            yield target
    except Refused as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_USAGE) from None
