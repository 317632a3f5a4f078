"""What a pod can ask about itself and its surroundings, with the kubelet's words for what is missing.

May import the API's value types. Pure: no file, no process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlcloud_operator.api import parse_quantity

NODE = "localhost"
ADDRESS = "127.0.0.1"
_KEYED_FIELD = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")

Manifest = Mapping[str, Any]


class NotReady(Exception):
    """Something the pod names does not exist here; the message is what `waiting` shows."""


@dataclass(frozen=True)
class PodFacts:
    """A pod's own data, as the downward API gives it."""

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"

    def field(self, path: str) -> str:
        """The value of a `fieldRef`. Raises NotReady for a field the downward API does not have."""
        if keyed := _KEYED_FIELD.fullmatch(path):
            return (self.labels if keyed[1] == "labels" else self.annotations).get(keyed[2], "")
        values = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self.uid,
            "metadata.labels": _as_lines(self.labels),
            "metadata.annotations": _as_lines(self.annotations),
            "spec.nodeName": NODE,
            "spec.serviceAccountName": self.service_account,
            "status.podIP": ADDRESS,
            "status.podIPs": ADDRESS,
            "status.hostIP": ADDRESS,
            "status.hostIPs": ADDRESS,
        }
        if path not in values:
            raise NotReady(f"CreateContainerConfigError: fieldRef {path!r} is unknown; one of {', '.join(values)}")
        return values[path]


@dataclass(frozen=True)
class Objects:
    """The Secrets and ConfigMaps of this run: name -> key -> text. Read at every use, so they may be added later."""

    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def data(self, kind: str, name: str, optional: bool) -> Mapping[str, str]:
        """All of a Secret or ConfigMap (`kind`); empty when it is optional and missing. Raises NotReady."""
        found = (self.secrets if kind == "secret" else self.config_maps).get(name)
        if found is None and not optional:
            raise NotReady(f'{kind} "{name}" not found')
        return found or {}

    def value(self, kind: str, ref: Manifest) -> str | None:
        """What a `secretKeyRef` or `configMapKeyRef` names, None when it is optional and missing. Raises NotReady."""
        optional = bool(ref.get("optional"))
        data = self.data(kind, str(ref.get("name", "")), optional)
        if ref["key"] not in data and not optional:
            raise NotReady(f'couldn\'t find key {ref["key"]} in {kind} "{ref["name"]}"')
        return data.get(ref["key"])


def resource_value(container: Manifest, ref: Manifest) -> str:
    """The value of a `resourceFieldRef`: the container's limit or request in units of the divisor, rounded up."""
    section, _, name = str(ref["resource"]).partition(".")
    amount = container.get("resources", {}).get(section, {}).get(name, "0")
    divisor = parse_quantity(str(ref.get("divisor", "1"))) or 1.0
    return str(math.ceil(parse_quantity(str(amount)) / divisor))


def _as_lines(values: Mapping[str, str]) -> str:
    return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
