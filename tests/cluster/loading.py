"""Images from the engine into the nodes' containerd: `load`.

May import this package's engine. Five times as fast as `kind load`, which goes through containerd's transfer service:
an archive is written once and read by all nodes while it is written, without a file. What a node has is not sent again.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from .engine import ClusterError, Engine
from .layers import send_top_layer

NAMESPACE = "k8s.io"
NOTES = "/var/lib/containerd/loaded-images"  # on the node: "name id" for each; containerd's own ids are others
CHUNK_BYTES = 4 << 20
IMPORT = ("ctr", "--namespace", NAMESPACE, "images", "import", "--local", "--discard-unpacked-layers", "-")


def load(engine: Engine, nodes: Sequence[str], images: Sequence[str], say: Callable[[str], None]) -> None:
    """Bring these images into these nodes. Raises ClusterError."""
    ids = {image: image_id(engine, image) for image in images}
    lacking = {node: missing(ids, *contents(engine, node)) for node in nodes}
    wanted = sorted({image for each in lacking.values() for image in each})
    targets = [node for node in nodes if lacking[node]]
    if not wanted:
        return
    started = time.monotonic()
    sent = {image: send_top_layer(engine, targets, image) for image in wanted}
    whole = [image for image, size in sent.items() if size is None]
    size_mb = (sum(size or 0 for size in sent.values()) + (send(engine, whole, targets) if whole else 0)) / 1e6
    for node in targets:
        note(engine, node, {image: ids[image] for image in wanted})
    say(f"loaded {', '.join(wanted)} into {', '.join(targets)}: {size_mb:.0f} MB in {time.monotonic() - started:.0f} s")


def is_ready(engine: Engine, node: str) -> bool:
    """Whether the node's containerd answers."""
    try:
        engine.run("exec", node, "ctr", "--namespace", NAMESPACE, "images", "ls", "-q", timeout_s=30)
    except ClusterError:
        return False
    return True


def image_id(engine: Engine, image: str) -> str:
    """Raises ClusterError where there is no such image."""
    try:
        return (
            engine.run("image", "inspect", "--format", "{{.Id}}", image, timeout_s=60).strip().removeprefix("sha256:")
        )
    except ClusterError as error:
        raise ClusterError(f"{engine.name} has no image {image}; build or pull it first") from error


def contents(engine: Engine, node: str) -> tuple[dict[str, str], set[str]]:
    """What was noted on the node (name -> id), and the names that its containerd has."""
    command = f"cat {NOTES} 2>/dev/null; echo; ctr --namespace {NAMESPACE} images ls -q"
    noted, _, names = engine.run("exec", node, "sh", "-c", command, timeout_s=60).rpartition("\n\n")
    return dict(line.split() for line in noted.splitlines() if line), set(names.split())


def missing(ids: dict[str, str], noted: dict[str, str], names: set[str]) -> list[str]:
    """Those images that a node lacks, or has another one of."""
    return [image for image, one in ids.items() if noted.get(image) != one or full_name(image) not in names]


def full_name(image: str) -> str:
    """As containerd names it: "redis:8" is docker.io/library/redis:8."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def send(engine: Engine, images: Sequence[str], nodes: Sequence[str]) -> int:
    """Write one archive of the images to all nodes at once; returns its bytes."""
    save = ["save", *images] if engine.name == "docker" else ["save", "--quiet", "--format", "docker-archive"]
    if engine.name == "podman":
        save += ["--multi-image-archive", *images] if len(images) > 1 else [*images]
    environment, sent = dict(engine.environment), 0
    with ExitStack() as stack:
        pipe = subprocess.PIPE
        source = stack.enter_context(
            subprocess.Popen([engine.program, *save], env=environment, stdout=pipe, stderr=subprocess.PIPE)
        )
        sinks = [
            stack.enter_context(
                subprocess.Popen(
                    [engine.program, "exec", "-i", node, *IMPORT],
                    env=environment,
                    stdin=pipe,
                    stdout=subprocess.DEVNULL,
                    stderr=pipe,
                )
            )
            for node in nodes
        ]
        assert source.stdout is not None
        broken = False
        while not broken and (chunk := source.stdout.read(CHUNK_BYTES)):
            sent += len(chunk)
            for sink in sinks:
                assert sink.stdin is not None
                try:
                    sink.stdin.write(chunk)
                except BrokenPipeError:
                    broken = True
        if broken:
            source.kill()
        failures = [finish(f"{engine.name} exec {node}", sink) for node, sink in zip(nodes, sinks, strict=True)]
        failures.insert(0, None if broken else finish(f"{engine.name} save", source))
    if told := [failure for failure in failures if failure]:
        raise ClusterError("images were not loaded: " + "; ".join(told))
    return sent


def finish(what: str, popen: subprocess.Popen[bytes]) -> str | None:
    """Wait for a process; what it said when it failed."""
    if popen.stdin is not None:
        with suppress(BrokenPipeError):
            popen.stdin.close()
        popen.stdin = None
    assert popen.stderr is not None
    told = popen.stderr.read().decode(errors="replace").strip()[-1000:]
    return None if popen.wait() == 0 else f"{what}: exit code {popen.returncode} {told}"


def note(engine: Engine, node: str, ids: dict[str, str]) -> None:
    """Write down on the node what it has now."""
    noted, _ = contents(engine, node)
    text = "".join(f"{image} {one}\n" for image, one in {**noted, **ids}.items())
    engine.run("exec", "-i", node, "sh", "-c", f"cat >{NOTES}", given=text.encode(), timeout_s=60)
