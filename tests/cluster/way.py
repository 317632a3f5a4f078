"""Whether the nodes' image is kind's own or built here: `choose`.

May import this package's engine. Asks the registry for a description of the image only; the answer is good for a day:
a machine without a registry is not to wait for one each time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from . import versions
from .engine import ClusterError, Engine, cluster_folder

OFFLINE = "offline"
STOCK = "stock"
CHOICE = "DLCLOUD_CLUSTER_NODES"
ASK_S = 20.0
GOOD_S = 24 * 3600.0


def choose(engine: Engine, say: Callable[[str], None]) -> str:
    """STOCK where a registry has kind's node image, else OFFLINE. DLCLOUD_CLUSTER_NODES decides itself."""
    if chosen := os.environ.get(CHOICE):
        if chosen not in (OFFLINE, STOCK):
            raise ClusterError(
                f"{CHOICE}: '{chosen}' is not known; give {STOCK} (kind's node image) or {OFFLINE} (built here)"
            )
        return chosen
    path = cluster_folder() / f"nodes-{engine.name}"
    try:
        told = path.read_text().split()
        if told[0] in (OFFLINE, STOCK) and told[1] == versions.KIND and time.time() - path.stat().st_mtime < GOOD_S:
            return told[0]
    except (OSError, IndexError):
        pass
    found = STOCK if registry_has(engine, versions.STOCK_NODE) else OFFLINE
    say(
        "kind's node image can be pulled"
        if found == STOCK
        else "no registry is reached: the nodes' image is built here"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{found} {versions.KIND}\n")
    return found


def registry_has(engine: Engine, image: str) -> bool:
    """Whether the image is here or a registry describes it."""
    if engine.has_image(image):
        return True
    try:
        engine.run("manifest", "inspect", f"docker.io/{image}", timeout_s=ASK_S)
    except ClusterError:
        return False
    return True
