"""Calls helm on the chart: rendered objects as plain dicts, releases on a cluster.

May import the rig and the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from ...rig.helm import CHART, helm

Object = dict[str, Any]


def render(
    values: Mapping[str, Any] | None = None, release: str = "dlcloud", namespace: str = "default"
) -> list[Object]:
    """Every object of the chart, hooks and test among them. Raises HelmError."""
    return [
        found for found in yaml.load_all(_text(json.dumps(values or {}), release, namespace), yaml.CSafeLoader) if found
    ]


@cache
def _text(values: str, release: str, namespace: str) -> str:
    kube = ("--kube-version", "1.36.0")  # helm built plainly takes itself for a very old one
    return helm("template", release, str(CHART), "--namespace", namespace, *kube, values=json.loads(values))


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def one(objects: Iterable[Object], kind: str, name: str = "") -> Object:
    """The only object of this kind, and of this name if one is given."""
    found = [each for each in of_kind(objects, kind) if name in ("", each["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name}: {[each['metadata']['name'] for each in found]}"
    return found[0]


def pods(objects: Iterable[Object]) -> Iterator[Object]:
    """Every pod that the objects are or make."""
    for found in objects:
        if found["kind"] == "Pod":
            yield found
        elif found["kind"] in ("Deployment", "StatefulSet", "Job"):
            template, spec = found["spec"]["template"], dict(found["spec"]["template"]["spec"])
            for claim in found["spec"].get("volumeClaimTemplates", []):
                name = claim["metadata"]["name"]
                spec["volumes"] = [*spec["volumes"], {"name": name, "persistentVolumeClaim": {"claimName": name}}]
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": spec}


def arguments(objects: Iterable[Object]) -> list[str]:
    """The operator's flags."""
    return list(one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"])
