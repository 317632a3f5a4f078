"""A port to offer as the next round's master port.

May import the standard library only.
"""

from __future__ import annotations

import socket


def free_port(avoid: int) -> int:
    """A TCP port nobody listens on now, other than `avoid`."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        if port != avoid:
            return port
