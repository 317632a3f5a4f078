"""What a kubelet writes about itself and reads out of a pod: Node, Lease, TokenRequest, names of Secrets. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .pod_status import ADDRESS, micro_stamp, stamp

Object = Mapping[str, Any]


def node(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """A Node as a kubelet registers it."""
    own = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {**own, **labels}}}


def node_status(capacity: Mapping[str, str], at: datetime) -> dict[str, Any]:
    """A patch that says: Ready, and this large."""
    told = {"status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    return {
        "status": {
            "capacity": dict(capacity),
            "allocatable": dict(capacity),
            "addresses": [{"type": "InternalIP", "address": ADDRESS}],
            "nodeInfo": {"kubeletVersion": "v1.36.3", "operatingSystem": "linux", "architecture": "amd64"},
            "conditions": [{"type": "Ready", **told, "lastHeartbeatTime": stamp(at), "lastTransitionTime": stamp(at)}],
        }
    }


def lease(name: str, at: datetime, duration_s: int) -> dict[str, Any]:
    """The node's heartbeat."""
    spec = {"holderIdentity": name, "leaseDurationSeconds": duration_s, "renewTime": micro_stamp(at)}
    metadata = {"name": name, "namespace": "kube-node-lease"}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def token_request(pod: Object) -> dict[str, Any] | None:
    """The request for the first token the pod projects, bound to it; None when it projects none."""
    for volume in pod["spec"].get("volumes", ()):
        for source in (volume.get("projected") or {}).get("sources", ()):
            if asked := source.get("serviceAccountToken"):
                bound = {key: pod["metadata"][key] for key in ("name", "uid")}
                spec = {
                    "audiences": [asked["audience"]] if asked.get("audience") else [],
                    "expirationSeconds": asked.get("expirationSeconds", 3600),
                    "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", **bound},
                }
                return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return None


def references(spec: Object) -> set[tuple[str, str]]:
    """The Secrets and ConfigMaps a pod names: ("secrets", name) and ("configmaps", name)."""
    found: set[tuple[str, str]] = set()
    for volume in spec.get("volumes", ()):
        parts = [volume, *(volume.get("projected") or {}).get("sources", ())]
        for part in parts:
            if secret := part.get("secret"):
                found.add(("secrets", secret.get("secretName") or secret.get("name", "")))
            if config_map := part.get("configMap"):
                found.add(("configmaps", config_map["name"]))
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        for source in container.get("envFrom", ()):
            found |= {("secrets", source["secretRef"]["name"])} if "secretRef" in source else set()
            found |= {("configmaps", source["configMapRef"]["name"])} if "configMapRef" in source else set()
        for entry in container.get("env", ()):
            value = entry.get("valueFrom") or {}
            found |= {("secrets", value["secretKeyRef"]["name"])} if "secretKeyRef" in value else set()
            found |= {("configmaps", value["configMapKeyRef"]["name"])} if "configMapKeyRef" in value else set()
    return found


def texts(found: Object) -> dict[str, str]:
    """The values of a Secret or a ConfigMap."""
    data = found.get("data") or {}
    if found.get("kind") == "Secret":
        return {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in data.items()}
    return dict(data)
