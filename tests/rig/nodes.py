"""Simulated nodes: kwok plays their kubelets by stages.yaml, for those that carry its annotation.

May import this package's client.
"""

from __future__ import annotations

from typing import Any

from .client import KubeClient

ANNOTATION = "kwok.x-k8s.io/node"
SELECTOR = f"{ANNOTATION}=fake"  # nodes of others, with kubelets of their own, stay theirs
NODES = "/api/v1/nodes"
SIZE = {"cpu": "64", "memory": "512Gi", "pods": "250", "nvidia.com/gpu": "8"}


def make_nodes(api: KubeClient, count: int) -> None:
    """Nodes fake-0000, fake-0001 and so on, those that are missing."""
    there = {node["metadata"]["name"] for node in api.items(NODES)}
    for name in (f"fake-{number:04d}" for number in range(count)):
        if name not in there:
            api.create(NODES, node_object(name))
            api.merge(f"{NODES}/{name}/status", {"status": {"allocatable": SIZE, "capacity": SIZE}})


def ready(api: KubeClient) -> int:
    """How many simulated nodes are ready."""
    return sum(
        any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions") or ())
        for node in api.items(NODES)
        if node["metadata"].get("annotations", {}).get(ANNOTATION)
    )


def node_object(name: str) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"}
    annotations = {ANNOTATION: "fake", "node.alpha.kubernetes.io/ttl": "0"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
    }
