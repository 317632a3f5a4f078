"""From YAML text to values, and from each value back to its place in the text.

May import PyYAML and the manifest's errors. It never guesses: what Kubernetes' own reader would take differently is
read its way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from dlcloud_operator.api import Problem
from dlcloud_operator.api.problems import path_text

from .manifest_errors import ManifestError, ManifestErrors, Place

_MAX_NODES = 100_000  # aliases of aliases grow without end
_SPECIAL_FLOAT = re.compile(r"\.(?=inf|nan)")
_LAST_STEP = re.compile(r'(\.[^.\["\]]+|\[[0-9]+\]|\["(?:[^"\\]|\\.)*"\]|^[^.\[]+)$')


class _Loader(yaml.CSafeLoader):
    """Scalars as Kubernetes' YAML reader takes them: 1e-3 is a number, y is true, 2026-01-01 and 1:30 are texts."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class's own form
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":int", ":float"))]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def documents(file: str, text: str) -> Iterator[yaml.Node]:
    """The documents that hold something. Raises ManifestErrors for what is no YAML."""
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            empty = isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null") and not node.value
            if node is not None and not empty:
                yield node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else None
        about = f"{error.problem or error.context}" + (f" ({error.context})" if error.problem and error.context else "")
        raise ManifestErrors([ManifestError(file, place, Problem("", f"is no YAML: {about}"))], text) from None
    except yaml.YAMLError as error:
        place = Place(text.count("\n", 0, getattr(error, "position", 0)) + 1, 1)
        reason = getattr(error, "reason", None) or str(error)
        raise ManifestErrors([ManifestError(file, place, Problem("", f"is no YAML: {reason}"))], text) from None
    except RecursionError:
        raise ManifestErrors([ManifestError(file, None, Problem("", "is nested too deeply"))]) from None


class NodeReader:
    """Turns one document's nodes into values, and remembers where each came from."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[ManifestError] = []
        self._places: dict[str, Place] = {}
        self._nodes = 0
        self._open: set[int] = set()
        self._scalars = yaml.SafeLoader("")

    def place_of(self, path: str) -> Place | None:
        """Where a value is; of a missing one, where the nearest thing around it is."""
        while path not in self._places and path:
            path = _LAST_STEP.sub("", path, count=1) if _LAST_STEP.search(path) else ""
        return self._places.get(path)

    def value(self, node: yaml.Node, path: tuple[str | int, ...], at: yaml.Node | None = None) -> Any:
        """The value of a node; `at` is the node whose place stands for it: a mapping's key."""
        self._places.setdefault(path_text(path), _place(at or node))
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            if self._nodes == _MAX_NODES + 1:
                self._fail(node, path, f"the document holds more than {_MAX_NODES} values")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            self._fail(node, path, "an alias stands inside of what it names")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        except RecursionError:
            self._fail(node, (), "is nested too deeply")
            return None
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, path: tuple[str | int, ...]) -> Any:
        if node.tag.endswith(":float"):
            return float(_SPECIAL_FLOAT.sub("", node.value.lower()))
        if node.tag.endswith(":bool"):
            return node.value.lower() in ("y", "yes", "true", "on")
        if node.tag.startswith("tag:yaml.org,2002:") and not node.tag.endswith((":binary", ":timestamp")):
            try:
                return self._scalars.construct_object(node)
            except (yaml.YAMLError, ValueError):
                pass
        self._fail(
            node, path, f"{node.value[:40]!r} has the tag {node.tag}, which manifests have not; write it without"
        )
        return None

    def _mapping(self, node: yaml.Node, path: tuple[str | int, ...]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, Place] = {}
        for key, item in node.value:
            if key.tag.endswith(":merge"):
                merged = {**self._merged(item, path), **merged}
                continue
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(":str"):
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                self._fail(key, path, f"the key {shown} is not text; write it in quotes")
            elif key.value in given:
                line = first[key.value].line
                self._fail(key, (*path, key.value), f"is given twice, first in line {line}; leave one")
            else:
                first[key.value] = _place(key)
                given[key.value] = self.value(item, (*path, key.value), at=key)
        return {**merged, **given}

    def _merged(self, node: yaml.Node, path: tuple[str | int, ...]) -> dict[str, Any]:
        """What `<<: *alias` brings in; of several, the first wins."""
        result: dict[str, Any] = {}
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            value = self.value(part, path)
            if isinstance(value, dict):
                result = {**value, **result}
            else:
                self._fail(part, path, "<< merges mappings only")
        return result

    def _fail(self, node: yaml.Node, path: tuple[str | int, ...], message: str) -> None:
        self.errors.append(ManifestError(self.file, _place(node), Problem(path_text(path), message)))


def _place(node: yaml.Node) -> Place:
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Place(start.line + 1, start.column + 1, max(1, length))
