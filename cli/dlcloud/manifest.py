"""Reads TrainingJobs from YAML files, and says of every mistake in which line and column it is.

May import the operator's api package and PyYAML. It never guesses: what Kubernetes' own reader would take differently
is read its way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dlcloud_operator.api import API_VERSION, InvalidManifest, Problem, TrainingJob
from dlcloud_operator.api.problems import path_text
from dlcloud_operator.api.validation import parse_job

MAX_SIZE_BYTES = 1024 * 1024  # the API server takes 1.5 MiB in all
_MAX_NODES = 100_000  # aliases of aliases grow without end
_SPECIAL_FLOAT = re.compile(r"\.(?=inf|nan)")
_LAST_STEP = re.compile(r'(\.[^.\["\]]+|\[[0-9]+\]|\["(?:[^"\\]|\\.)*"\]|^[^.\[]+)$')


@dataclass(frozen=True)
class Place:
    """A line and a column of a file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class ManifestError:
    """One mistake. `place` is None when it is about the whole file."""

    file: str
    place: Place | None
    problem: Problem

    def __str__(self) -> str:
        where = f"{self.file}:{self.place.line}:{self.place.column}" if self.place else self.file
        return f"{where}: {self.problem}" if self.problem.path else f"{where}: {self.problem.message}"


class ManifestErrors(Exception):
    """A file is no TrainingJob; all its mistakes, in the order of their lines."""

    def __init__(self, errors: list[ManifestError]) -> None:
        self.errors = tuple(sorted(errors, key=lambda e: (e.place.line, e.place.column) if e.place else (0, 0)))
        super().__init__("\n".join(map(str, self.errors)))


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


def load_manifest(path: str | Path) -> TrainingJob:
    """The one TrainingJob of a file. Raises ManifestErrors with all mistakes, also when the file holds several jobs."""
    jobs = load_manifests(path)
    if len(jobs) > 1:
        names = ", ".join(job.metadata.name for job in jobs)
        text = f"holds {len(jobs)} TrainingJobs ({names}); give a file with one"
        raise ManifestErrors([ManifestError(str(path), None, Problem("", text))])
    return jobs[0]


def load_manifests(path: str | Path) -> tuple[TrainingJob, ...]:
    """All TrainingJobs of a file, at least one; objects of other kinds are left out. Raises ManifestErrors."""
    file, jobs = str(path), []
    errors: list[ManifestError] = []
    others: list[ManifestError] = []  # about objects of other kinds
    documents = list(_documents(file, _read(Path(path), file)))
    for root in documents:
        reader = _Reader(file)
        value = reader.value(root, ())
        found = [*reader.errors]
        if not found:
            try:
                jobs.append(parse_job(value))
            except InvalidManifest as invalid:
                found = [ManifestError(file, reader.place_of(problem.path), problem) for problem in invalid.problems]
        foreign = isinstance(value, dict) and (value.get("kind"), value.get("apiVersion")) != (
            "TrainingJob",
            API_VERSION,
        )
        (others if foreign and not reader.errors else errors).extend(found)
    if not documents:
        errors.append(ManifestError(file, None, Problem("", "is empty; write a TrainingJob into it")))
    if errors or not jobs:
        raise ManifestErrors(errors or others)
    return tuple(jobs)


def _read(path: Path, file: str) -> str:
    def fail(message: str) -> ManifestErrors:
        return ManifestErrors([ManifestError(file, None, Problem("", message))])

    try:
        if path.is_dir():
            raise fail("is a directory; give a YAML file")
        with path.open("rb") as stream:
            content = stream.read(MAX_SIZE_BYTES + 1)
    except FileNotFoundError:
        raise fail("there is no such file") from None
    except (OSError, ValueError) as error:
        raise fail(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_SIZE_BYTES:
        raise fail(f"is larger than {MAX_SIZE_BYTES // 1024} KiB; a manifest is a few lines of YAML")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fail(f"is no text in UTF-8 (byte {error.start}); give a YAML file") from None


def _documents(file: str, text: str) -> Iterator[yaml.Node]:
    """The documents that hold something."""
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
        raise ManifestErrors([ManifestError(file, place, Problem("", f"is no YAML: {about}"))]) from None
    except yaml.YAMLError as error:
        place = Place(text.count("\n", 0, getattr(error, "position", 0)) + 1, 1)
        reason = getattr(error, "reason", None) or str(error)
        raise ManifestErrors([ManifestError(file, place, Problem("", f"is no YAML: {reason}"))]) from None
    except RecursionError:
        raise ManifestErrors([ManifestError(file, None, Problem("", "is nested too deeply"))]) from None


class _Reader:
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
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
