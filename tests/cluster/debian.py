"""The Debian that a node starts from, made of packages: `ensure`.

May import this package's versions and folder. What is made is kept in the user's home: it takes a mirror and a minute.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import versions
from .engine import ClusterError, cluster_folder

Say = Callable[[str], None]
HOOK = versions.HERE / "node" / "debian.sh"
PACKAGES = (
    "systemd,systemd-sysv,iptables,nftables,conntrack,iproute2,ethtool,kmod,mount,util-linux,procps,ca-certificates,"
    "runc,busybox-static"
)
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")


@dataclass(frozen=True)
class Base:
    """Layers: the node's own, and two for images in the node that need more than one program."""

    node: Path
    busybox: Path
    iptables: Path


def ensure(say: Say) -> Base:
    """The layers, made unless they are there; one run at a time. Raises ClusterError with mmdebstrap's last words."""
    folder = cluster_folder() / "debian" / tag()
    if not folder.is_dir():
        make(folder, say)
    return Base(*(folder / f"{layer}.tar" for layer in ("node", "busybox", "iptables")))


def tag() -> str:
    """Changes with what the layers are made of, except for Debian's own updates."""
    packages = hashlib.sha256(" ".join((PACKAGES, *LEFT_OUT)).encode()).hexdigest()
    return f"{versions.DEBIAN}-{packages[:6]}{versions.digest([HOOK])[:6]}"


def make(folder: Path, say: Say) -> None:
    """Make the layers in `folder`, which appears when all are complete."""
    program = shutil.which("mmdebstrap")
    if program is None:
        raise ClusterError(
            "mmdebstrap is missing: where no image registry is reached, nodes are made of Debian's packages; "
            "apt-get install mmdebstrap, or make a registry reachable"
        )
    started = time.monotonic()
    say(f"installing Debian {versions.DEBIAN} for the nodes: once, about a minute")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        command = [
            program,
            "--variant=minbase",
            "--skip=output/dev",  # the engine brings its own; making them needs a capability
            '--aptopt=Apt::Install-Recommends "false"',
            *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
            f"--include={PACKAGES}",
            f"--customize-hook={HOOK}",
            *(f"--customize-hook=download /layers/{layer}.tar {made}/{layer}.tar" for layer in ("busybox", "iptables")),
            '--customize-hook=rm -r "$1/layers"',
            versions.DEBIAN,
            str(made / "node.tar"),
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"mmdebstrap failed:\n{done.stderr.decode(errors='replace').strip()[-2000:]}")
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    for other in folder.parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other, ignore_errors=True)
    size_mb = (folder / "node.tar").stat().st_size / 1e6
    say(f"Debian for the nodes: {size_mb:.0f} MB, made in {time.monotonic() - started:.0f} s")
