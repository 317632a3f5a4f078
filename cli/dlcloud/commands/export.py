"""`dlcloud export`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..output import Output
from ..place import Place
from .checkpoints import StepArgument, TargetArgument, opened
from .place import on_place

_EPILOG = """Examples:

\b
  dlcloud export digits                                    the newest checkpoint, to the folder RUN-export
  dlcloud export digits best --out model --quantize static
  dlcloud export s3://bucket/default/cnn/1b2c.../ --data s3://bucket/mnist

\b
Writes model.onnx (normalisation and softmax inside; labels, vocabulary and inputs in its metadata), its weights as
model.safetensors, and model-card.json and .md, the card last. The file is compared with torch before. The training data
is read for that, for the card's hash and for --quantize static; where it cannot be read the rest is done without it.
A job with `export` in its manifest has all this below export/ of its prefix.
"""
_MANIFEST = re.compile(r"/manifests/(\d+)-\d+\.json$")


class _Quantize(StrEnum):
    NONE = "none"
    DYNAMIC = "dynamic"
    STATIC = "static"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(epilog=_EPILOG, help="Write a job's model as ONNX and safetensors, with a model card.")(export)


@on_place(endpoint=True)
def export(
    job: TargetArgument,
    step: StepArgument = "",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to [default: JOB-export/].")] = None,
    quantize: Annotated[
        _Quantize,
        typer.Option(
            metavar="none|dynamic|static", help="An int8 file as well: static for convolutions, dynamic LSTM."
        ),
    ] = _Quantize.NONE,
    data: Annotated[str, typer.Option(metavar="URI", help="The training data [default: where the job had it].")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    *,
    place: Place,
) -> None:
    """See `help`."""
    from ..checkpoints import actions

    named = _MANIFEST.search(job)
    word = step or (str(int(named[1])) if named else "latest")
    with opened(job, place) as target:
        actions.export(
            target, word, out, quantize=quantize.value, data=data, force=force, out=Output(sys.stdout),
            err=Output(sys.stderr),
        )  # fmt: skip
