"""`dlcloud doctor`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..formats import Format
from ..place import Place
from .place import on_place

_EPILOG = """Examples:

\b
  dlcloud doctor                        can this machine run jobs?
  dlcloud doctor job.yaml               ... this one, with its store and its data?
  dlcloud doctor -n team-a job.yaml     ... in the cluster of the kubeconfig?
  dlcloud doctor --endpoint https://s3.example.org job.yaml
  dlcloud doctor -o json | jq '.checks[] | select(.state == "fail")'

\b
Exit codes:
  0    nothing is in the way of a run (there may be warnings)
  1    at least one check failed        2    wrong manifest or option

It writes nothing that stays: objects below doctor-RANDOM/ of the checkpoint's prefix are removed again, and an API
server is asked with dry runs.
"""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog=_EPILOG, help="Check what a run needs, here or in a cluster, and say how to mend it.")(doctor)


@on_place()
def doctor(
    manifest: Annotated[
        Path | None, typer.Argument(metavar="[JOB.yaml]", help="A manifest to check for as well.")
    ] = None,
    *,
    place: Place,
    endpoint: Annotated[
        str, typer.Option(metavar="URL", envvar="AWS_ENDPOINT_URL", show_envvar=False, help="S3 server to use.")
    ] = "",
    output: Annotated[Format, typer.Option("--output", "-o", help="Form of the answer.")] = Format.TEXT,
    limit: Annotated[float, typer.Option(min=1, max=600, metavar="SECONDS", help="Longest time for one check.")] = 10,
) -> None:
    """See `help`."""
    from ..doctor.command import DoctorOptions, doctor_command

    raise typer.Exit(doctor_command(DoctorOptions(place, manifest, endpoint, output, limit)))
