"""The objects of its namespace that a job's pods name. Pure. May import the API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dlcloud_operator.api import TrainingJobSpec

_NEEDED_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@dataclass(frozen=True)
class Reference:
    """An object of the namespace that a job's pods name, and the keys it must have."""

    kind: str
    name: str
    field: str
    keys: frozenset[str] = frozenset()


def references(spec: TrainingJobSpec) -> list[Reference]:
    """What the job's pods name in their namespace."""
    found = []
    if spec.object_store.credentials_secret:
        name = spec.object_store.credentials_secret
        found.append(Reference("Secret", name, "spec.objectStore.credentialsSecret", frozenset(_NEEDED_KEYS)))
    if spec.object_store.ca_config_map:
        name = spec.object_store.ca_config_map
        found.append(Reference("ConfigMap", name, "spec.objectStore.caConfigMap", frozenset({"ca.crt"})))
    return list(dict.fromkeys([*found, *_of_template(spec.pod_template.get("spec") or {})]))


def _of_template(pod: Mapping[str, Any]) -> Iterator[Reference]:
    """The objects named by a podTemplate; what is marked optional need not exist."""
    at = "spec.podTemplate.spec"
    if pod.get("serviceAccountName"):
        yield Reference("ServiceAccount", pod["serviceAccountName"], f"{at}.serviceAccountName")
    for secret in pod.get("imagePullSecrets") or []:
        yield Reference("Secret", secret["name"], f"{at}.imagePullSecrets")
    for volume in pod.get("volumes") or []:
        for kind, place, key in (
            ("Secret", "secret", "secretName"),
            ("ConfigMap", "configMap", "name"),
            ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
        ):
            found = volume.get(place) or {}
            if found.get(key) and not found.get("optional"):
                yield Reference(kind, found[key], f"{at}.volumes")
    for container in [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]:
        for entry in container.get("env") or []:
            source = entry.get("valueFrom") or {}
            for kind, word in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
                named = source.get(word) or {}
                if named.get("name") and not named.get("optional"):
                    yield Reference(kind, named["name"], f"{at}.containers.env", frozenset({named.get("key", "")}))
        for entry in container.get("envFrom") or []:
            for kind, word in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
                named = entry.get(word) or {}
                if named.get("name") and not named.get("optional"):
                    yield Reference(kind, named["name"], f"{at}.containers.envFrom")
