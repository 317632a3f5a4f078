"""A control plane for one measurement: fresh, on free ports, gone afterwards, whatever happens to this process.

May import tests.rig.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.rig.control_plane import ControlPlane
from tests.rig.keys import admin_token


@dataclass(frozen=True)
class Plane:
    """Where the API server is and what its administrator needs."""

    url: str
    ca: Path
    token: str
    kubeconfig: Path
    signing_key: Path  # of service accounts' tokens
    processes: ControlPlane


@contextlib.contextmanager
def started(folder: Path, nodes: int = 0) -> Iterator[Plane]:
    """A control plane with `nodes` simulated nodes, ended at the exit. Raises ProgramsMissing."""
    with ControlPlane(folder / "plane", kwok_nodes=nodes) as plane:
        pki = folder / "plane" / "pki"
        yield Plane(plane.url, pki / "ca.crt", admin_token(pki), plane.kubeconfig, plane.signing_key, plane)
