"""What one field alone cannot say: one table for the API server (CEL) and for this program (predicates).

May import this package only. A rule is added here and nowhere else, so that both give the same answer: `crd.py` writes
its CEL, `validation.py` asks its predicate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .base import MAX_NAME_LENGTH, parse_quantity
from .problems import Problem
from .status import Phase
from .trainingjob import EncryptionType, Quantize, TrainingJobSpec

MIN_MEMORY = "64Mi"
_RESIZABLE = (Phase.QUEUED, Phase.SUSPENDED)
_ENCRYPTED = "(has(self.objectStore) && has(self.objectStore.encryption))"
_TYPE = "self.objectStore.encryption.type"


@dataclass(frozen=True)
class Rule:
    """Holds at any time. `cel` sees the spec as `self`; `reads` are the fields it looks at, by Python's names."""

    path: str
    reads: tuple[str, ...]
    cel: str
    holds: Callable[[TrainingJobSpec], bool]
    message: str


@dataclass(frozen=True)
class ObjectRule:
    """About the object's name: `cel` sees the object as `self`, `holds` the name. Manifests are held to it by the
    Metadata model."""

    path: str
    cel: str
    holds: Callable[[str], bool]
    message: str


@dataclass(frozen=True)
class ChangeRule:
    """Holds between the old and the new spec. `cel` sees these, or the objects if `on_object`."""

    path: str
    cel: str
    holds: Callable[[TrainingJobSpec, TrainingJobSpec, Phase | None], bool]
    message: str
    on_object: bool = False


SPEC_RULES = (
    Rule(
        "spec.workload",
        ("workload", "script"),
        "(has(self.workload) && self.workload != '') != has(self.script)",
        lambda spec: bool(spec.workload) != (spec.script is not None),
        "give exactly one of workload (built in, for example cnn) and script (your own program)",
    ),
    Rule(
        "spec.parameters",
        ("parameters", "script"),
        # CEL sees no field of `parameters`, but it can tell an empty one.
        "!has(self.script) || !has(self.parameters) || dyn(self.parameters) == dyn({})",
        lambda spec: spec.script is None or not spec.parameters,
        "parameters belong to a workload; give a script its settings in script.args, or in env of podTemplate",
    ),
    Rule(
        "spec.data",
        ("data", "workload"),
        "!has(self.workload) || self.workload == '' || has(self.data)",
        lambda spec: not spec.workload or spec.data is not None,
        "a workload needs data; give data.uri: s3://bucket/prefix, file:///path or builtin://digits",
    ),
    Rule(
        "spec.export",
        ("export", "workload"),
        "!has(self.export) || (has(self.workload) && self.workload != '')",
        lambda spec: spec.export is None or bool(spec.workload),
        "only a built-in workload is exported; a script writes its own model, leave export out",
    ),
    Rule(
        "spec.export",
        ("export", "checkpoint"),
        "!has(self.export) || has(self.checkpoint)",
        lambda spec: spec.export is None or spec.checkpoint is not None,
        "the model is written below the job's prefix; give checkpoint.uri: s3://bucket/prefix or file:///path",
    ),
    Rule(
        "spec.export.quantize",
        ("export",),
        "!has(self.export) || !has(self.export.onnx) || self.export.onnx || !has(self.export.quantize)"
        " || self.export.quantize == 'none'",
        lambda spec: spec.export is None or spec.export.onnx or spec.export.quantize is Quantize.NONE,
        "what is quantised is the ONNX file; give onnx: true, or quantize: none",
    ),
    Rule(
        "spec.workers.cpu",
        ("workers",),
        "quantity(string(self.workers.cpu)).isGreaterThan(quantity('0'))",
        lambda spec: parse_quantity(spec.workers.cpu) > 0,
        "give more than 0 CPU, for example 500m, 1 or 4",
    ),
    Rule(
        "spec.workers.memory",
        ("workers",),
        f"!quantity(string(self.workers.memory)).isLessThan(quantity('{MIN_MEMORY}'))",
        lambda spec: parse_quantity(spec.workers.memory) >= parse_quantity(MIN_MEMORY),
        f"is less than {MIN_MEMORY}; give a unit, for example 2Gi (a number alone is bytes, m are thousandths)",
    ),
    Rule(
        "spec.objectStore.encryption",
        ("object_store", "checkpoint"),
        f"!{_ENCRYPTED} || !has(self.checkpoint) || self.checkpoint.uri.startsWith('s3://')",
        lambda spec: (
            spec.object_store.encryption is None or spec.checkpoint is None or spec.checkpoint.uri.startswith("s3://")
        ),
        "a server encrypts objects, and checkpoint.uri is a folder; give s3://bucket/prefix, or leave encryption out",
    ),
    Rule(
        "spec.objectStore.encryption.kmsKeyId",
        ("object_store",),
        f"!{_ENCRYPTED} || {_TYPE} == 'SSE-KMS' || !has(self.objectStore.encryption.kmsKeyId)"
        " || self.objectStore.encryption.kmsKeyId == ''",
        lambda spec: (
            (asked := spec.object_store.encryption) is None
            or asked.type is EncryptionType.SSE_KMS
            or not asked.kms_key_id
        ),
        "only SSE-KMS uses a key of the key service; give type: SSE-KMS, or leave kmsKeyId out",
    ),
    Rule(
        "spec.objectStore.endpoint",
        ("object_store",),
        f"!{_ENCRYPTED} || {_TYPE} != 'SSE-C' || !has(self.objectStore.endpoint)"
        " || !self.objectStore.endpoint.startsWith('http://')",
        lambda spec: (
            (asked := spec.object_store.encryption) is None
            or asked.type is not EncryptionType.SSE_C
            or not spec.object_store.endpoint.startswith("http://")
        ),
        "SSE-C sends its key with every request, and http:// shows it to the network; give https://host",
    ),
)

OBJECT_RULES = (
    ObjectRule(
        "metadata.name",
        f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
        lambda name: len(name) <= MAX_NAME_LENGTH,
        f"give a name of at most {MAX_NAME_LENGTH} characters: names of pods are made from it",
    ),
    ObjectRule(
        "metadata.name",
        "!self.metadata.name.contains('.')",
        lambda name: "." not in name,
        "give a name of lower-case letters, digits and '-', without '.': labels and names of pods are made from it",
    ),
)


def _same_text(*path: str) -> str:
    """CEL: a text field is unchanged; absent (it, or what it is in) is the same as empty."""

    def value(root: str) -> str:
        has = " && ".join(f"has({root}.{'.'.join(path[: n + 1])})" for n in range(len(path)))
        return f"({has} ? {root}.{'.'.join(path)} : '')"

    return f"{value('self')} == {value('oldSelf')}"


_NEW_JOB = "cannot change once the job exists; delete the job, or create one of another name"
_NEW_JOB_RESUMED = _NEW_JOB + ", with resumeFrom if it shall go on from this one's checkpoints"


_COUNT_CEL = (
    "self.spec.workers.count == oldSelf.spec.workers.count || !has(oldSelf.status) || !has(oldSelf.status.phase)"
    f" || oldSelf.status.phase in [{', '.join(repr(phase.value) for phase in _RESIZABLE)}]"
)

CHANGE_RULES = (
    ChangeRule("spec.workload", _same_text("workload"), lambda a, b, _: a.workload == b.workload, _NEW_JOB),
    ChangeRule(
        "spec.script",
        "has(self.script) == has(oldSelf.script) && (!has(self.script) || self.script == oldSelf.script)",
        lambda a, b, _: a.script == b.script,
        _NEW_JOB_RESUMED,
    ),
    ChangeRule(
        "spec.parameters",
        "(has(self.parameters) ? dyn(self.parameters) : dyn({}))"
        " == (has(oldSelf.parameters) ? dyn(oldSelf.parameters) : dyn({}))",
        lambda a, b, _: a.parameters == b.parameters,
        _NEW_JOB_RESUMED,
    ),
    ChangeRule(
        "spec.export",
        "has(self.export) == has(oldSelf.export) && (!has(self.export) || self.export == oldSelf.export)",
        lambda a, b, _: a.export == b.export,
        _NEW_JOB_RESUMED,
    ),
    ChangeRule("spec.data.uri", _same_text("data", "uri"), lambda a, b, _: a.data == b.data, _NEW_JOB),
    ChangeRule(
        "spec.checkpoint.uri",
        _same_text("checkpoint", "uri"),
        lambda a, b, _: (a.checkpoint and a.checkpoint.uri) == (b.checkpoint and b.checkpoint.uri),
        "cannot change once the job exists: its state lies there; create a job of another name with resumeFrom",
    ),
    ChangeRule(
        "spec.resumeFrom",
        _same_text("resumeFrom"),
        lambda a, b, _: a.resume_from == b.resume_from,
        _NEW_JOB,
    ),
    ChangeRule(
        "spec.objectStore.endpoint",
        _same_text("objectStore", "endpoint"),
        lambda a, b, _: a.object_store.endpoint == b.object_store.endpoint,
        "cannot change once the job exists: its state lies there; create a job of another name",
    ),
    ChangeRule(
        "spec.objectStore.encryption",
        f"{_ENCRYPTED} == {_ENCRYPTED.replace('self.', 'oldSelf.')}"
        f" && (!{_ENCRYPTED} || self.objectStore.encryption == oldSelf.objectStore.encryption)",
        lambda a, b, _: a.object_store.encryption == b.object_store.encryption,
        _NEW_JOB_RESUMED,
    ),
    ChangeRule(
        "spec.workers.gpus",
        "self.workers.gpus == oldSelf.workers.gpus",
        lambda a, b, _: a.workers.gpus == b.workers.gpus,
        _NEW_JOB_RESUMED,
    ),
    ChangeRule(
        "spec.workers.count",
        _COUNT_CEL,
        lambda a, b, phase: a.workers.count == b.workers.count or phase is None or phase in _RESIZABLE,
        "can change only while the job is suspended or queued; set suspend: true, wait for phase"
        " Suspended, change the count, then set suspend: false",
        on_object=True,
    ),
)


def check_spec(spec: TrainingJobSpec) -> tuple[Problem, ...]:
    """The rules this spec breaks."""
    return tuple(Problem(rule.path, rule.message) for rule in SPEC_RULES if not rule.holds(spec))


def check_change(old: TrainingJobSpec, new: TrainingJobSpec, phase: Phase | None) -> tuple[Problem, ...]:
    """The rules a change of a job in `phase` (None: no status yet) breaks; the API server asks the same."""
    return tuple(Problem(rule.path, rule.message) for rule in CHANGE_RULES if not rule.holds(old, new, phase))
