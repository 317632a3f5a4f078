"""`dlcloud data put|ls|verify`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..exits import EXIT_INTERRUPTED, EXIT_USAGE
from ..formats import Format
from ..output import Output
from .place import EndpointOption

if TYPE_CHECKING:
    from ..target import Target

_EPILOG = """Examples:

\b
  dlcloud data put cifar-10-batches-bin s3://data/cifar-10 --endpoint http://127.0.0.1:9000
  dlcloud data ls s3://data/cifar-10
  dlcloud data verify s3://data/cifar-10

\b
The keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Without --endpoint and $AWS_ENDPOINT_URL the S3 server
of local runs is meant, where a bucket is made when it is not there. What formats can be read: docs/data.md.
"""
_PUT_EPILOG = """Examples:

\b
  dlcloud data put ~/mnist s3://data/mnist
  dlcloud data put train.parquet s3://data/flowers --endpoint https://s3.example.com

\b
What is there already, with the same SHA-256, is not sent again: the same command goes on with an upload that was broken
off. dlcloud-data.json, which lists all files with size and SHA-256, is written last. Hidden files stay here.
"""
_VERIFY_EPILOG = """Examples:

\b
  dlcloud data verify s3://data/mnist
  dlcloud data verify s3://data/mnist -o json

\b
Reads every byte and compares it with dlcloud-data.json. Exit codes: 0 all is as uploaded, 1 a file is missing or
different, or there is no dlcloud-data.json.
"""

UriArgument = Annotated[
    str, typer.Argument(metavar="URI", help="s3://bucket/prefix or file:///folder.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="Data sets on a store: upload, list, check.",
        epilog=_EPILOG,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    group.command(help="Upload a file or a folder; goes on where it was broken off.", epilog=_PUT_EPILOG)(put)
    group.command("ls", help="List the files of a data set.", epilog=_EPILOG)(ls)
    group.command(help="Read every byte and compare it with what was uploaded.", epilog=_VERIFY_EPILOG)(verify)
    app.add_typer(group, name="data")


def put(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A file or a folder.", show_default=False)],
    uri: UriArgument,
    endpoint: EndpointOption = "",
) -> None:
    """See `help`."""
    from ..data import actions

    with _target(uri, endpoint, writes=True) as target:
        actions.put(target, source.expanduser(), Output(sys.stdout), Output(sys.stderr))


def ls(
    uri: UriArgument,
    endpoint: EndpointOption = "",
    output: Annotated[Format, typer.Option("-o", "--output", help="wide adds the SHA-256.")] = Format.TEXT,
) -> None:
    """See `help`."""
    from ..data import actions

    with _target(uri, endpoint) as target:
        actions.ls(target, output, Output(sys.stdout), Output(sys.stderr))


def verify(
    uri: UriArgument,
    endpoint: EndpointOption = "",
    output: Annotated[
        Format, typer.Option("-o", "--output", metavar="json|yaml", help="A list for machines.")
    ] = Format.TEXT,
) -> None:
    """See `help`."""
    from ..data import actions

    with _target(uri, endpoint) as target:
        code = actions.verify(target, output, Output(sys.stdout))
    raise typer.Exit(code)


@contextlib.contextmanager
def _target(uri: str, endpoint: str, *, writes: bool = False) -> Iterator[Target]:
    """What the argument names; wrong requests and Ctrl-C end with their exit codes."""
    from ..checkpoints.running import Refused
    from ..data.actions import open_place

    try:
        with open_place(uri, endpoint, writes=writes) as target:
            yield target
    except Refused as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
