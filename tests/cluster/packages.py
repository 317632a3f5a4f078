"""Debian packages that are needed on this machine: `ensure_packages`.

May import the standard library and this package's errors. Installs nothing where it is not root on a Debian.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from .engine import ClusterError

# package -> any of these shows that it is there, however it came
FILES = {
    "podman": ("podman",),
    "runc": ("runc",),
    "iptables": ("iptables",),
    "netavark": ("/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"),
    "aardvark-dns": ("/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns"),
    "mmdebstrap": ("mmdebstrap",),
}


def missing(packages: Sequence[str]) -> list[str]:
    """Those that are not installed here."""
    return [each for each in packages if not any(shutil.which(file) or Path(file).exists() for file in FILES[each])]


def ensure_packages(packages: Sequence[str], say: Callable[[str], None]) -> None:
    """Install what is missing. Raises ClusterError that names it where that is not ours to do."""
    wanted = missing(packages)
    if not wanted:
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise ClusterError(
            f"missing on this machine: {', '.join(wanted)}; install them (apt-get install {' '.join(wanted)})"
        )
    say(f"installing Debian packages: {' '.join(wanted)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        [apt, "update", "-qq"],
        [apt, "install", "-qq", "-y", "--no-install-recommends", *wanted],
    ):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command)} failed:\n{done.stderr.decode(errors='replace').strip()[-1500:]}")
