"""What lies under a job's prefix: keys, the manifest of a checkpoint, and the head that commits it (docs/protocol.md,
section 4).

May import the standard library and errors. Pure: no clock, no I/O, no torch.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .errors import Damaged, NewerFormat
from .fields import Fields

VERSION = 1
HEAD = "head.json"
MANIFESTS = "manifests"
ATTEMPTS = "attempts"
_MANIFEST_KEY = re.compile(rf"{MANIFESTS}/(\d{{12,}})-(\d{{6,}})\.json")
_ATTEMPT_KEY = re.compile(rf"({ATTEMPTS}/(\d{{6,}})-[^/]+)/.+")


def manifest_key(step: int, round: int) -> str:
    return f"{MANIFESTS}/{step:012d}-{round:06d}.json"


def attempt_folder(round: int, random: str) -> str:
    return f"{ATTEMPTS}/{round:06d}-{random}"


def slice_key(folder: str, index: int) -> str:
    return f"{folder}/{index:05d}.bin"


def step_and_round(key: str) -> tuple[int, int] | None:
    """Step and round of a manifest's key, None for another key."""
    found = _MANIFEST_KEY.fullmatch(key)
    return (int(found[1]), int(found[2])) if found else None


def attempt_of(key: str) -> tuple[str, int] | None:
    """Folder and round of the attempt a key belongs to, None for another key."""
    found = _ATTEMPT_KEY.fullmatch(key)
    return (found[1], int(found[2])) if found else None


@dataclass(frozen=True)
class TensorSpec:
    """Where one tensor lies in the flat buffer; `offset` and `size_bytes` in bytes, row-major, little-endian."""

    dtype: str  # as in safetensors: F32, BF16, BOOL ...
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "shape": list(self.shape), "offset": self.offset, "sizeBytes": self.size_bytes}

    @staticmethod
    def parse(fields: Fields) -> TensorSpec:
        shape = tuple(fields.items("shape", Fields.natural))
        return TensorSpec(fields.text("dtype"), shape, fields.natural("offset"), fields.natural("sizeBytes"))


@dataclass(frozen=True)
class Slice:
    """A piece of the flat buffer; the pieces follow one another without gaps."""

    key: str
    size_bytes: int
    crc32: int

    def as_json(self) -> dict[str, Any]:
        return {"key": self.key, "sizeBytes": self.size_bytes, "crc32": self.crc32}

    @staticmethod
    def parse(fields: Fields) -> Slice:
        return Slice(fields.text("key"), fields.natural("sizeBytes"), fields.natural("crc32"))


@dataclass(frozen=True)
class Manifest:
    """What one checkpoint consists of. `state` is the JSON part, as `plain.encode` made it."""

    step: int
    samples: int
    round: int
    parent: str | None
    created_at: datetime
    world_size: int
    threads: int
    seed: int
    size_bytes: int
    metric: float | None
    workload: str
    parameters: Mapping[str, Any]
    slices: tuple[Slice, ...]
    tensors: Mapping[str, TensorSpec]
    state: Any

    def dump(self) -> bytes:
        return seal(
            {
                "version": VERSION,
                "step": self.step,
                "samples": self.samples,
                "round": self.round,
                "parent": self.parent,
                "createdAt": time_text(self.created_at),
                "worldSize": self.world_size,
                "threads": self.threads,
                "seed": self.seed,
                "sizeBytes": self.size_bytes,
                "metric": self.metric,
                "workload": self.workload,
                "parameters": dict(self.parameters),
                "slices": [piece.as_json() for piece in self.slices],
                "tensors": {name: spec.as_json() for name, spec in self.tensors.items()},
                "state": self.state,
            }
        )

    @staticmethod
    def parse(data: bytes, where: str) -> Manifest:
        """Raises `Damaged`, naming `where` and the field."""
        fields = unseal(data, where)
        manifest = Manifest(
            step=fields.natural("step"),
            samples=fields.natural("samples"),
            round=fields.natural("round"),
            parent=fields.optional("parent", Fields.text),
            created_at=fields.time("createdAt"),
            world_size=fields.natural("worldSize"),
            threads=fields.natural("threads"),
            seed=fields.integer("seed"),
            size_bytes=fields.natural("sizeBytes"),
            metric=fields.optional("metric", Fields.number),
            workload=fields.text("workload"),
            parameters=fields.mapping("parameters").values,
            slices=tuple(Slice.parse(piece) for piece in fields.items("slices", Fields.mapping)),
            tensors={name: TensorSpec.parse(spec) for name, spec in fields.mapping("tensors").members()},
            state=fields.any("state"),
        )
        if sum(piece.size_bytes for piece in manifest.slices) != manifest.size_bytes:
            raise Damaged(f"{where}: its slices do not add up to sizeBytes {manifest.size_bytes}")
        for name, spec in manifest.tensors.items():
            if spec.offset + spec.size_bytes > manifest.size_bytes:
                raise Damaged(f"{where}: tensor {name} lies beyond sizeBytes {manifest.size_bytes}")
        return manifest


@dataclass(frozen=True)
class Entry:
    """One committed checkpoint, as the head lists it. A higher `metric` is better."""

    manifest: str
    step: int
    round: int
    metric: float | None = None
    pinned: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "manifest": self.manifest,
            "step": self.step,
            "round": self.round,
            "metric": self.metric,
            "pinned": self.pinned,
        }

    @staticmethod
    def parse(fields: Fields) -> Entry:
        metric = fields.optional("metric", Fields.number)
        return Entry(
            fields.text("manifest"), fields.natural("step"), fields.natural("round"), metric, fields.flag("pinned")
        )


@dataclass(frozen=True)
class Head:
    """The only commit point: which round owns the prefix, and its checkpoints, newest first.

    `write` is random for every write: it tells a lost reply from a conflict, and keeps two writes of the same content
    apart
    (an S3 etag is a hash of the content).
    """

    round: int
    nonce: str
    write: str
    committed_at: datetime
    checkpoints: tuple[Entry, ...] = ()

    def dump(self) -> bytes:
        return seal(
            {
                "version": VERSION,
                "round": self.round,
                "nonce": self.nonce,
                "write": self.write,
                "committedAt": time_text(self.committed_at),
                "checkpoints": [entry.as_json() for entry in self.checkpoints],
            }
        )

    @staticmethod
    def parse(data: bytes, where: str) -> Head:
        """Raises `Damaged`, naming `where` and the field."""
        fields = unseal(data, where)
        return Head(
            round=fields.natural("round"),
            nonce=fields.text("nonce"),
            write=fields.text("write"),
            committed_at=fields.time("committedAt"),
            checkpoints=tuple(Entry.parse(entry) for entry in fields.items("checkpoints", Fields.mapping)),
        )


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def seal(body: dict[str, Any]) -> bytes:
    """JSON in the order given (dictionaries of a state keep theirs), with the CRC of the canonical text."""
    sealed = body | {"crc32": zlib.crc32(canonical(body))}
    return json.dumps(sealed, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def unseal(data: bytes, where: str) -> Fields:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise Damaged(f"{where}: not JSON ({len(data)} bytes)") from None
    if not isinstance(body, dict):
        raise Damaged(f"{where}: not a JSON object")
    crc = body.pop("crc32", None)
    try:
        text = canonical(body)
    except ValueError:
        raise Damaged(f"{where}: holds a number that is not finite") from None
    if crc != zlib.crc32(text):
        raise Damaged(f"{where}: its CRC does not match")
    version = body.get("version")
    if isinstance(version, int) and version > VERSION:
        raise NewerFormat(f"{where}: version {version}, this program reads {VERSION}; use the image that wrote it")
    if version != VERSION:
        raise Damaged(f"{where}: version is {version!r}, not {VERSION}")
    return Fields(body, where)


def time_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
