"""The images of the pods on a cluster that is made here: `build`.

May import the standard library and this package's engine, image_sources.py and image_builds.py. Without a registry
everything comes from Debian's packages and pip's index; with one, only the operator and the trainer are built.
An image's tag tells its content: what is there is not built again, and a chart that names it restarts what has changed.
"""

from __future__ import annotations

import fcntl
import os
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .engine import ClusterError, Engine, cluster_folder
from .image_builds import (
    BASE,
    BUILD_S,
    DEBIAN_PYTHON,
    ENVIRONMENTS,
    LABEL,
    Say,
    build_code,
    build_environment,
    build_program,
    ensure_base,
    megabytes,
    pip_settings,
    size,
)
from .image_sources import CPU_INDEX, PARTS, Torch, choose_torch, code_tag, default_base, environment_tag, program_tag

# Where there is a registry; the S3 server as the chart names it.
PUBLIC = {"s3": "docker.io/chrislusf/seaweedfs:4.48", "prometheus": "docker.io/prom/prometheus:v3.5.0"}
KEPT_S = 3600.0  # another checkout's run may be about to load what it has built
PROBE_S = 10.0


@dataclass(frozen=True)
class Images:
    """The images as pods name them, with tags."""

    operator: str
    trainer: str
    s3: str
    prometheus: str


def build(engine: Engine, say: Say, *, offline: bool) -> Images:
    """Make what is missing, minutes the first time and seconds after a change of code. Raises ClusterError."""
    base = BASE if offline else os.environ.get("BASE_IMAGE") or default_base()
    with locked(say):
        here = set(engine.run("images", "--format", "{{.Repository}}:{{.Tag}}").split())
        torch = find_torch(base, here)
        environments = {part: environment_of(part, base, torch.kind) for part in PARTS}
        names = {part: code_of(part, environments[part]) for part in PARTS} | PUBLIC
        if offline:
            names |= {part: f"localhost/dlcloud-test-{part}:{program_tag(part, base)}" for part in PUBLIC}
        missing = [part for part, name in names.items() if not is_here(name, here)]
        if missing:
            if offline:
                ensure_base(engine, say, here)
            settings = pip_settings() | {**torch.settings} | {"TORCH": torch.kind, "BASE_IMAGE": base}

            def make(part: str) -> None:
                started = time.monotonic()
                if part in PARTS:
                    if environments[part] not in here:
                        build_environment(engine, part, environments[part], settings, say)
                    build_code(engine, part, names[part], environments[part], settings)
                elif offline:
                    build_program(engine, part, names[part], settings)
                else:
                    engine.run("pull", names[part], timeout_s=BUILD_S)
                report(engine, part, names[part], base, time.monotonic() - started, say)

            # One waits for the network while the other unpacks; the trainer, which takes longest, comes first.
            with ThreadPoolExecutor(2) as pool:
                for done in [pool.submit(make, part) for part in sorted(missing, reverse=True)]:
                    done.result()
        remember({*names.values(), *environments.values()})
        if missing:
            remove_old(engine, {*names.values(), *environments.values()})
    return Images(**names)


def environment_of(part: str, base: str, torch: str) -> str:
    return f"{ENVIRONMENTS}{part}:{environment_tag(part, base, torch)}"


def code_of(part: str, environment: str) -> str:
    return f"localhost/dlcloud-{part}:{code_tag(part, environment)}"


def is_here(name: str, here: set[str]) -> bool:
    """docker lists images of its own registry without its name."""
    return name in here or name.removeprefix("docker.io/") in here


def find_torch(base: str, here: set[str]) -> Torch:
    """The build of torch for a base image; asks the network only when nothing on this machine tells."""
    known = {BASE: DEBIAN_PYTHON, "python:3.12-slim-bookworm": "312"}
    built = next((kind for kind in ("cpu", "cuda") if environment_of("trainer", base, kind) in here), None)
    return choose_torch(os.environ, known.get(base, "*"), built, cpu_index_answers)


def cpu_index_answers() -> bool:
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=PROBE_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def report(engine: Engine, part: str, name: str, base: str, took_s: float, say: Say) -> None:
    total = size(engine, name)
    above = f", {megabytes(total - size(engine, base))} above {base}" if part in PARTS else ""
    say(f"{name}: {megabytes(total)}{above}, {took_s:.0f} s")


def stamp(name: str) -> Path:
    return cluster_folder() / "images" / name.replace("/", "_")


def remember(names: set[str]) -> None:
    for name in names:
        stamp(name).parent.mkdir(parents=True, exist_ok=True)
        stamp(name).touch()


def remove_old(engine: Engine, used: set[str]) -> None:
    """Remove images of ours that no run has used for an hour, and those without a name."""
    listed = engine.run("images", "--filter", f"label={LABEL}", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
    for name, identifier in (line.split() for line in listed.splitlines()):
        path = stamp(name)
        recent = path.exists() and time.time() - path.stat().st_mtime < KEPT_S
        if name in used or recent:
            continue
        with suppress(ClusterError):  # a container has it
            engine.run("rmi", identifier if "<none>" in name else name)
            path.unlink(missing_ok=True)


@contextmanager
def locked(say: Say) -> Iterator[None]:
    """One build at a time; the lock goes with the process that holds it."""
    cluster_folder().mkdir(parents=True, exist_ok=True)
    with (cluster_folder() / "images.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("images: waiting for another build")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
