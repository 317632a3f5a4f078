"""Kubernetes' strategic merge patch, for what lies under a PodTemplateSpec.

May import the standard library only. The merge keys come from `merge_keys.json`, written by `merge_keys_generate` from
the API's OpenAPI document; nothing about a field is written here. Rules:
https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

KEYS_FILE = Path(__file__).with_name("merge_keys.json")
ROOT = "PodTemplateSpec"

_PATCH = "$patch"
_RETAIN = "$retainKeys"
_DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"

Patch = Mapping[str, Any]
Fields = Mapping[str, Mapping[str, Any]]


class MergeError(ValueError):
    """A patch that cannot be merged. `path` leads to the place in the patch."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


@cache
def load_merge_keys() -> Mapping[str, Fields]:
    """Type -> field -> {type?, mergeKey?, merge?, retainKeys?}; fields without any of these are not listed."""
    types: Mapping[str, Fields] = json.loads(KEYS_FILE.read_text(encoding="utf-8"))["types"]
    return types


def merge(base: Mapping[str, Any], patch: Patch, kind: str = ROOT) -> dict[str, Any]:
    """`base` with `patch` merged over it strategically; both stay as they are. `kind` is the type of both.

    An item of a list whose strategy is retainKeys (volumes) keeps only the fields the patch names, as `kubectl apply`
    asks for: a volume changes its source by naming another. Raises MergeError.
    """
    merged = _map(base, patch, kind, ())
    return {} if merged is None else merged


def _map(base: Mapping[str, Any], patch: Patch, kind: str, path: tuple[str | int, ...]) -> dict[str, Any] | None:
    """The merged mapping; None when the patch deletes it."""
    directive = patch.get(_PATCH, "merge")
    if directive == "delete":
        return None
    if directive == "replace":
        plain: dict[str, Any] = _plain(patch)
        return plain
    if directive != "merge":
        raise MergeError((*path, _PATCH), f"{directive!r} is no directive; give delete, replace or merge")
    result = _retained(base, patch, path)
    fields = load_merge_keys().get(kind, {})
    for key, value in patch.items():
        if key in (_PATCH, _RETAIN) or key.startswith(_ORDER):
            continue
        if key.startswith(_DELETE_PRIMITIVES):
            name = key.removeprefix(_DELETE_PRIMITIVES)
            gone = _list(value, (*path, key))
            result[name] = [item for item in _list(result.get(name) or [], (*path, name)) if item not in gone]
            continue
        merged = _value(result.get(key), value, fields.get(key, {}), (*path, key))
        if merged is None:
            result.pop(key, None)
        else:
            result[key] = merged
    return result


def _value(old: Any, new: Any, field: Mapping[str, Any], path: tuple[str | int, ...]) -> Any:
    """The merged value of one field; None when it goes."""
    if isinstance(new, Mapping):
        return _map(old if isinstance(old, Mapping) else {}, new, field.get("type", ""), path)
    if isinstance(new, list):
        if "mergeKey" in field:
            return _list_of_maps(_list([] if old is None else old, path), new, field, path)
        if field.get("merge"):
            kept = list(_list([] if old is None else old, path))
            return kept + [item for item in new if item not in kept]
        return _plain(new)
    if "mergeKey" in field and new is not None:
        raise MergeError(path, f"{new!r} is no list; give a list of mappings, each with {field['mergeKey']}")
    return new


def _list_of_maps(old: list[Any], new: list[Any], field: Mapping[str, Any], path: tuple[str | int, ...]) -> list[Any]:
    """Items with the same key are merged in their place, others follow in the patch's order."""
    key, kind = field["mergeKey"], field.get("type", "")
    patches, replace = [], False
    for index, patch in enumerate(new):
        if not isinstance(patch, Mapping):
            raise MergeError((*path, index), f"is no mapping; give a mapping with {key}")
        if patch.get(_PATCH) == "replace":
            replace = True  # the list as a whole, by the other items
            if set(patch) != {_PATCH}:
                raise MergeError(
                    (*path, index), "$patch: replace stands alone in its item; give the new items beside it"
                )
        elif patch.get(key) is None:
            raise MergeError((*path, index), f"has no {key}, by which items of this list are told apart; give one")
        else:
            patches.append((index, patch))
    result = [] if replace else list(old)
    for index, patch in patches:
        place = next(
            (n for n, item in enumerate(result) if isinstance(item, Mapping) and item.get(key) == patch[key]), None
        )
        base = {} if place is None else result[place]
        if field.get("retainKeys") and _RETAIN not in patch:
            patch = {**patch, _RETAIN: [name for name in patch if name != _PATCH]}
        merged = _map(base, patch, kind, (*path, index))
        if place is None:
            result += [] if merged is None else [merged]
        elif merged is None:
            del result[place]
        else:
            result[place] = merged
    return result


def _retained(base: Mapping[str, Any], patch: Patch, path: tuple[str | int, ...]) -> dict[str, Any]:
    if _RETAIN not in patch:
        return dict(base)
    keep = _list(patch[_RETAIN], (*path, _RETAIN))
    for key, value in patch.items():
        if not key.startswith("$") and value is not None and key not in keep:
            raise MergeError((*path, _RETAIN), f"does not name {key}, which the patch sets; add it")
    return {key: value for key, value in base.items() if key in keep}


def _list(value: Any, path: tuple[str | int, ...]) -> list[Any]:
    if not isinstance(value, list):
        raise MergeError(path, "is no list; give a list")
    return value


def _plain(value: Any) -> Any:
    """A value taken over whole: without empty fields and directives."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None and not key.startswith("$")}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
