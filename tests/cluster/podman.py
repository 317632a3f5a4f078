"""podman's configuration for nodes: `configuration` decides, `write_configuration` looks at the machine and writes.

May import the standard library only. The user's own configuration in /etc/containers is neither read nor changed:
CONTAINERS_CONF takes its place.
"""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

# What podman needs to run nodes on Debian; recommended packages are left out
PACKAGES = ("podman", "runc", "netavark", "aardvark-dns", "iptables")
CAP_SYS_RESOURCE = 24
OPEN_FILES = 65_536
# podman lowers its own limit to 62,987 or less before it starts the runtime, which can then set no higher one.
PROCESSES = 30_000


@dataclass(frozen=True)
class Host:
    """What decides about podman's settings. Limits: the hard ones, None where there is none."""

    cgroup_v2: bool
    systemd: bool
    may_raise_limits: bool
    open_files: int | None
    processes: int | None
    has_runc: bool


def configuration(host: Host) -> str:
    """The text of containers.conf; each setting with its reason."""
    lines = ["[containers]", "# podman's 2048 is for one application; a node holds many pods", "pids_limit = 0"]
    if not host.may_raise_limits:
        files = min(OPEN_FILES, host.open_files or OPEN_FILES)
        processes = min(PROCESSES, host.processes or PROCESSES)
        lines += [
            "# podman asks for more than the hard limits, and this root may not raise them (no CAP_SYS_RESOURCE)",
            f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]',
        ]
    lines += ["[engine]"]
    if not host.cgroup_v2 and host.has_runc:
        lines += ["# crun, Debian's default, refuses hybrid cgroups", 'runtime = "runc"']
    if not host.systemd:
        lines += [
            "# there is no systemd here to ask for cgroups, and no journal for events",
            'cgroup_manager = "cgroupfs"',
            'events_logger = "file"',
        ]
    lines += [
        "[network]",
        "# nodes find each other by name; podman's older networks have no DNS",
        'network_backend = "netavark"',
    ]
    return "\n".join(lines) + "\n"


def may_install() -> bool:
    """Whether podman can be installed: root, on a Debian."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def this_host() -> Host:
    return Host(
        cgroup_v2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        systemd=Path("/run/systemd/system").exists(),
        may_raise_limits=has_capability(Path("/proc/self/status").read_text(), CAP_SYS_RESOURCE),
        open_files=hard_limit(resource.RLIMIT_NOFILE),
        processes=hard_limit(resource.RLIMIT_NPROC),
        has_runc=shutil.which("runc") is not None,
    )


def has_capability(status: str, number: int) -> bool:
    """Whether /proc/PID/status tells of this effective capability."""
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(mask, 16) >> number & 1)


def hard_limit(which: int) -> int | None:
    limit = resource.getrlimit(which)[1]
    return None if limit == resource.RLIM_INFINITY else limit


def write_configuration(path: Path) -> Path:
    """Write what this machine needs to `path`, which appears at once."""
    text = configuration(this_host())
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)
    return path
