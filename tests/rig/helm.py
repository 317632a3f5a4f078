"""helm as a program: `helm("upgrade", ...)`, `CHART`.

May import this package and the standard library.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .binaries import ProgramsMissing, candidates, find, is_program

CHART = Path(__file__).parents[2] / "charts"


class HelmError(Exception):
    """helm ended with an error; the message is what it said."""


@cache
def program() -> Path:
    """The helm of the rig, or any other one. Raises ProgramsMissing."""
    if (found := find("helm") or next(filter(is_program, candidates("helm")), None)) is None:
        raise ProgramsMissing(("helm",))
    return found


def helm(
    *arguments: str,
    values: Mapping[str, Any] | None = None,
    kubeconfig: Path | None = None,
    timeout_s: float = 100,
) -> str:
    """The output of helm; `values` as with -f. Raises HelmError."""
    command = [str(program()), *arguments, *(["-f", "-"] if values is not None else [])]
    if kubeconfig is not None:
        command += ["--kubeconfig", str(kubeconfig)]
    given = json.dumps(values) if values is not None else None
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise HelmError(done.stdout + done.stderr)
    return done.stdout
