"""Of an image only its topmost layer, for nodes that have the others: 1 MB instead of 1 GB after a change of code.

May import the standard library and this package's engine. For podman: docker writes no archive without all
layers. One in OCI's layout may lack a layer where containerd has unpacked it already (it looks for the snapshot first).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .engine import Engine

CTR = ("ctr", "--namespace", "k8s.io")
IMPORT = (*CTR, "images", "import", "--local", "--discard-unpacked-layers", "-")


def send_top_layer(engine: Engine, nodes: Sequence[str], image: str) -> int | None:
    """Bring `image` into nodes; bytes sent, or None where one lacks more than the top layer. Raises ClusterError."""
    if engine.name != "podman":
        return None
    layers = json.loads(engine.run("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    count = min(common(layers, snapshots(engine, node)) for node in nodes)
    if count == 0 or count < len(layers) - 1:
        return None
    archive = without(engine, image, layers[:count])
    with ThreadPoolExecutor(len(nodes)) as pool:
        for done in [pool.submit(engine.run, "exec", "-i", node, *IMPORT, given=archive) for node in nodes]:
            done.result()
    return len(archive)


def snapshots(engine: Engine, node: str) -> set[str]:
    """The keys of what containerd on the node has unpacked."""
    lines = engine.run("exec", node, *CTR, "snapshots", "list", timeout_s=60).splitlines()
    return {line.split()[0] for line in lines if line.strip()}


def common(layers: Sequence[str], there: set[str]) -> int:
    """How many of an image's lower layers are among a node's snapshots."""
    chains = chain_ids(layers)
    return next((count for count in range(len(chains), 0, -1) if chains[count - 1] in there), 0)


def chain_ids(layers: Sequence[str]) -> list[str]:
    """What names each layer upon those below it (OCI image specification, "Layer ChainID")."""
    chains: list[str] = []
    for layer in layers:
        above = layer if not chains else f"sha256:{hashlib.sha256(f'{chains[-1]} {layer}'.encode()).hexdigest()}"
        chains.append(above)
    return chains


def without(engine: Engine, image: str, layers: Sequence[str]) -> bytes:
    """An archive of `image` in OCI's layout that lacks these layers. Raises ClusterError."""
    with tempfile.TemporaryDirectory(prefix="dlcloud-layers-") as scratch:
        blobs = Path(scratch) / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for layer in layers:  # podman writes no layer whose file is there
            (blobs / layer.removeprefix("sha256:")).touch()
        engine.run("save", "--quiet", "--format", "oci-dir", "--uncompressed", "--output", scratch, image)
        for layer in layers:
            (blobs / layer.removeprefix("sha256:")).unlink()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(scratch, arcname=".")
        return archive.getvalue()
