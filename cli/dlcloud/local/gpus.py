"""The GPUs of this machine, handed out to pods as a device plugin would.

May import this package and the standard library. Looks at device files only: it never opens a GPU and needs no driver.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .facts import Manifest, NotReady

RESOURCE = "nvidia.com/gpu"


def visible_gpus(own: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> tuple[str, ...]:
    """The GPUs this process may use: CUDA_VISIBLE_DEVICES when set, else all of the machine."""
    if (chosen := own.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1"))
    return tuple(str(number) for number in range(sum(1 for _ in devices.glob("nvidia[0-9]*"))))


class GpuPool:
    """Which pod holds which GPU."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self._free = list(gpus)
        self._held: dict[str, list[str]] = {}

    def take(self, uid: str, container: Manifest) -> str:
        """CUDA_VISIBLE_DEVICES for a container: as many GPUs as its limits ask for, often none. Raises NotReady."""
        wanted = int(container.get("resources", {}).get("limits", {}).get(RESOURCE, 0))
        held = self._held.setdefault(uid, [])
        if wanted - len(held) > len(self._free):
            raise NotReady(
                f"0/1 nodes are available: 1 Insufficient {RESOURCE} ({wanted} wanted, {len(self._free)} free)"
            )
        while len(held) < wanted:
            held.append(self._free.pop(0))
        return ",".join(held)

    def give_back(self, uid: str) -> None:
        """The pod is gone."""
        self._free += self._held.pop(uid, [])
