"""Compares the TrainingJob definition of a cluster with this program's. Pure.

May import the API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dlcloud_operator.api import VERSION

_WORDS = ("description", "message")  # how something is said is no difference


@dataclass(frozen=True)
class Difference:
    """Fields only one side has, and fields both have with other rules."""

    missing: tuple[str, ...]  # in the cluster
    surplus: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def none(self) -> bool:
        """Whether both say the same."""
        return not (self.missing or self.surplus or self.changed)


def compare(installed: Mapping[str, Any], own: Mapping[str, Any]) -> Difference:
    """Both are CustomResourceDefinitions. A version that is not served counts as one without fields."""
    there, here = _fields(installed), _fields(own)
    missing = _tops(here.keys() - there.keys())
    surplus = _tops(there.keys() - here.keys())
    changed = tuple(sorted(path for path in here.keys() & there.keys() if here[path] != there[path]))
    return Difference(missing, surplus, changed)


def _fields(crd: Mapping[str, Any]) -> dict[str, Any]:
    versions = [
        v for v in (crd.get("spec") or {}).get("versions") or [] if v.get("name") == VERSION and v.get("served")
    ]
    if not versions:
        return {}
    root = (versions[0].get("schema") or {}).get("openAPIV3Schema") or {}
    fields = dict(_walk(root, ""))
    fields["subresources"] = versions[0].get("subresources") or {}
    return fields


def _walk(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Each field's path, and what is said of it but for its parts and its words."""
    yield path, {key: _plain(value) for key, value in node.items() if key not in ("properties", "items", *_WORDS)}
    for name, below in (node.get("properties") or {}).items():
        if path or name not in ("apiVersion", "kind", "metadata"):  # the server's own
            yield from _walk(below, f"{path}.{name}".lstrip("."))
    if isinstance(node.get("items"), Mapping):
        yield from _walk(node["items"], f"{path}[]")


def _plain(value: Any) -> Any:
    """Without words, and lists of rules in any order."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if key not in _WORDS}
    if isinstance(value, list):
        return sorted((_plain(item) for item in value), key=repr)
    return value


def _tops(paths: set[str]) -> tuple[str, ...]:
    """Of a field and its parts, the field alone."""
    return tuple(sorted(path for path in paths if not any(path.startswith((f"{p}.", f"{p}[")) for p in paths if p)))
