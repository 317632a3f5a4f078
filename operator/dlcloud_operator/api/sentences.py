"""Turns pydantic's errors into one sentence each: what was given, what is allowed, what to do.

May import this package and pydantic's types only. What is allowed is read from the structural schema: it is said once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from .parameters import nearest
from .problems import Problem, path_text
from .trainingjob import HINTS

_KINDS = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
_TYPES = {"string": "text", "boolean": "true or false", "number": "a number", "array": "a list", "object": "a mapping"}


def shown(value: Any) -> str:
    """A value as in YAML, shortened."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return str(value)


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def kind_of(value: Any) -> str:
    """The type of a value in words."""
    return "empty" if value is None else _KINDS.get(type(value), type(value).__name__)


def allowed(node: Mapping[str, Any]) -> str:
    """What a node of the schema admits, in words."""
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    if node.get("pattern") in HINTS:
        return HINTS[node["pattern"]]
    kind = node.get("type", "")
    if kind in ("integer", "number"):
        low, high = node.get("minimum"), node.get("maximum")
        word = "a whole number" if kind == "integer" else "a number"
        return word + (f" from {_plain(low)} to {_plain(high)}" if low is not None and high is not None else "")
    if kind == "object" and "properties" in node:
        return "a mapping with " + ", ".join(node["properties"])
    if kind == "array":
        return "a list" + (f" of at most {node['maxItems']} items" if "maxItems" in node else "")
    if kind == "string" and "maxLength" in node:
        return f"text of at most {node['maxLength']} characters"
    return _TYPES.get(kind, "another value")


def node_at(schema: Mapping[str, Any], path: Sequence[str | int]) -> Mapping[str, Any]:
    """The node of a structural schema that describes a path; empty where the schema says nothing."""
    node = schema
    for step in path:
        if isinstance(step, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(step) or node.get("additionalProperties", {})
    return node


def problem_of(error: ErrorDetails, schema: Mapping[str, Any], prefix: Sequence[str | int]) -> Problem:
    """One of pydantic's errors as a problem; `prefix` is the path of the model in the document."""
    path = [step for step in error["loc"] if step != "[key]"]
    return Problem(path_text([*prefix, *path]), _sentence(error, schema, path))


def _sentence(error: ErrorDetails, schema: Mapping[str, Any], path: list[str | int]) -> str:
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    node = node_at(schema, path)
    if kind == "extra_forbidden":
        fields = list(node_at(schema, path[:-1]).get("properties", {}))
        return f"is not a field here{nearest(str(path[-1]), fields)}; there are {', '.join(fields)}"
    if kind == "missing":
        text = node.get("description", "").rstrip(".")
        return f"is missing; give {allowed(node)}" + (f" ({text})" if text and allowed(node) not in text else "")
    if kind in ("string_too_long", "too_long"):
        unit = "characters" if kind == "string_too_long" else "items"
        return f"has {len(given)} {unit}; at most {context['max_length']} are allowed"
    if kind in ("string_too_short", "too_short"):
        unit = "character" if kind == "string_too_short" else "item"
        return f"has {len(given)} {unit}s; give at least {context['min_length']} {unit}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        return f"{shown(given)} is out of range; give {allowed(node)}"
    if kind in ("enum", "literal_error"):
        like = nearest(given, list(map(str, node.get("enum", ())))) if isinstance(given, str) else ""
        return f"{shown(given)} is not allowed{like}; give {allowed(node)}"
    if kind == "string_pattern_mismatch":
        return f"{shown(given)} is not allowed; give {allowed(node)}"
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return _wrong_type(kind, given, node)
    return f"{shown(given)} is not allowed: {error['msg']}"


def _wrong_type(kind: str, given: Any, node: Mapping[str, Any]) -> str:
    what = "" if given is None or isinstance(given, list | Mapping) else f"{shown(given)} is "
    text = f"{what or 'is '}{kind_of(given)}; give {allowed(node)}"
    if kind == "string_type" and isinstance(given, int | float):
        return text + ", in quotes"
    if isinstance(given, str) and node.get("type") in ("integer", "boolean", "number"):
        return text + ", without quotes"
    return text
