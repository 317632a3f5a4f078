"""What is kept of a test that failed: everything somebody would ask for, in one folder.

May import the rigs. Collecting never fails a test by itself: what cannot be had is said in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from ..rig.cluster import Cluster
from .release import SYSTEM

KEPT_RUNS = 5
_KINDS = (
    "/apis/dlcloud.dev/v1/namespaces/{}/trainingjobs",
    "/api/v1/namespaces/{}/pods",
    "/api/v1/namespaces/{}/events",
    "/api/v1/namespaces/{}/resourcequotas",
    "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
)


@cache
def run_folder() -> Path:
    """This run's, the same for all its workers; the oldest runs' are removed."""
    if given := os.environ.get("DLCLOUD_E2E_EVIDENCE"):
        folder = Path(given)
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlcloud" / "e2e"
        home.mkdir(parents=True, exist_ok=True)
        folder = home / time.strftime("run-%Y%m%d-%H%M%S")
        for old in sorted(home.glob("run-*"))[: -(KEPT_RUNS - 1)]:
            shutil.rmtree(old, ignore_errors=True)
        os.environ["DLCLOUD_E2E_EVIDENCE"] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def collect(cluster: Cluster, namespaces: list[str], name: str) -> Path:
    """Jobs, pods, events and logs of these namespaces and of dlcloud itself, the nodes; the folder they are in."""
    folder = run_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "nodes.yaml", lambda: yaml.safe_dump_all(cluster.api.items("/api/v1/nodes")))
    for namespace in [*namespaces, SYSTEM]:
        there = folder / namespace
        there.mkdir(exist_ok=True)
        for path in _KINDS:
            kind = path.rpartition("/")[2]
            _write(there / f"{kind}.yaml", partial(_dump, cluster, path.format(namespace)))
        with contextlib.suppress(Exception):
            for pod in cluster.api.items(_KINDS[1].format(namespace)):
                _logs(cluster, pod, there)
    return folder


def _logs(cluster: Cluster, pod: Any, folder: Path) -> None:
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    spec = pod["spec"]
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"
        for previous in (False, True):
            query = {"container": container["name"], **({"previous": "true"} if previous else {})}
            suffix = ".previous.log" if previous else ".log"
            with contextlib.suppress(Exception):
                text = cluster.api.text(path, **query)
                (folder / f"{name}.{container['name']}{suffix}").write_text(text)


def _dump(cluster: Cluster, path: str) -> str:
    items = cluster.api.items(path)
    for item in items:
        item["metadata"].pop("managedFields", None)
    return yaml.safe_dump_all(items, sort_keys=False)


def _write(path: Path, text: Callable[[], str]) -> None:
    try:
        path.write_text(text())
    except Exception as error:
        path.write_text(f"could not be had: {error}\n")


def note(kind: str, **facts: Any) -> None:
    """Add a line to this run's notes, which are printed when it ends: what a fault cost, what a user saw."""
    with (run_folder() / "notes.jsonl").open("a") as notes:
        notes.write(json.dumps({"kind": kind, **facts}, default=str) + "\n")


def notes() -> list[dict[str, Any]]:
    """All notes of this run, in the order they were made."""
    path = run_folder() / "notes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
