"""200 TrainingJobs, each wrong in one or two ways, always the same: what people type, and what nobody gets by with.

A manifest that the API server lets through (`by_operator`) holds mistakes in parameters, in a podTemplate or between
the workload and its data, which no schema can see; the operator has to fail such a job as InvalidSpec. All others the
API server has to refuse, with the field checks that kubectl asks for (`fieldValidation=Strict`). Either way the answer
names one of `fields`.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SEED = 20260102
NUM_MANIFESTS = 200

Json = dict[str, Any]
Breaker = Callable[[Json, random.Random], str]  # breaks a manifest, answers with the path of the field


@dataclass(frozen=True)
class BadManifest:
    """`fields`: the answer must name one of these paths, or what lies below it. `unknown`: all that is wrong is fields
    that an API server which nobody asks to be strict would drop without a word."""

    name: str
    manifest: Json
    fields: tuple[str, ...]
    by_operator: bool
    unknown: bool

    def names_a_field(self, answer: str) -> bool:
        """Whether an answer tells where one of the mistakes is; a field that is not there may go by its parent."""
        paths = [*self.fields, *(path.rpartition(".")[0] for path in self.fields if path.count(".") > 1)]
        return any(path in answer for path in paths)

    def __str__(self) -> str:
        return f"{self.name}-{'-'.join(self.fields)}"[:120]


def bad_manifests() -> list[BadManifest]:
    """All of them; names are unique and fit Kubernetes, whatever else is wrong."""
    chance = random.Random(SEED)
    breakers = [(one, by_operator) for table, by_operator in ((_SCHEMA, False), (_OPERATOR, True)) for one in table]
    found: list[BadManifest] = []
    number = 0
    while len(found) < NUM_MANIFESTS:
        first = breakers[number % len(breakers)]
        number += 1
        # Once round the table with one mistake each, then two at a time.
        chosen = [first] if number <= len(breakers) else [first, chance.choice(breakers)]
        name = f"bad-{number:03d}"
        manifest = _good(name, chance)
        kinds = {breaker.__name__ for breaker, _ in chosen}
        if len(kinds) < len(chosen):
            continue
        try:
            fields = tuple(breaker(manifest, chance) for breaker, _ in chosen)
        except (KeyError, TypeError, AttributeError):
            continue  # the first mistake took away what the second would have broken
        operators = all(by_operator for _, by_operator in chosen)
        found.append(BadManifest(name, manifest, fields, operators, kinds <= _UNKNOWN))
    return found


def _good(name: str, chance: random.Random) -> Json:
    spec: Json = {
        "workload": "cnn",
        "parameters": {"epochs": chance.randint(1, 20), "batchSize": chance.choice([16, 32, 64])},
        "data": {"uri": "builtin://digits"},
        "workers": {"count": chance.randint(1, 4), "cpu": "1", "memory": "1Gi"},
        "checkpoint": {"uri": "s3://checkpoints/", "everySeconds": 60},
        "objectStore": {"endpoint": "https://s3.example:9000", "credentialsSecret": "s3"},
        "restart": {"maxFailures": 3, "window": "1h"},
        "limits": {"start": "10m", "step": "auto"},
        "scheduling": {"gang": "auto", "nodeSelector": {"zone": "a"}},
        "podTemplate": {"metadata": {"labels": {"team": "a"}}, "spec": {"containers": [{"name": "trainer"}]}},
    }
    return {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}


def _put(path: str, *values: Any) -> Breaker:
    """Put one of the values where the path leads."""

    def breaker(manifest: Json, chance: random.Random) -> str:
        *way, last = path.split(".")
        at = manifest
        for step in way:
            at = at.setdefault(step, {})
        at[last] = copy.deepcopy(chance.choice(values))
        return path

    breaker.__name__ = f"put {path} {values!r}"
    return breaker


def _rename(path: str, *names: str) -> Breaker:
    """Misspell the last field of the path."""

    def breaker(manifest: Json, chance: random.Random) -> str:
        *way, last = path.split(".")
        at = manifest
        for step in way:
            at = at[step]
        name = chance.choice(names)
        at[name] = at.pop(last)
        return ".".join([*way, name])

    breaker.__name__ = f"rename {path}"
    return breaker


def _without(path: str) -> Breaker:
    """Leave a field out."""

    def breaker(manifest: Json, chance: random.Random) -> str:
        *way, last = path.split(".")
        at = manifest
        for step in way:
            at = at[step]
        del at[last]
        return path

    breaker.__name__ = f"without {path}"
    return breaker


def _script(manifest: Json, **fields: Any) -> None:
    """Make it a script's job, with these fields of the script."""
    spec = manifest["spec"]
    for key in ("workload", "parameters", "data"):
        del spec[key]
    spec["script"] = {"command": ["python", "train.py"], **fields}


def _script_without_command(manifest: Json, chance: random.Random) -> str:
    _script(manifest)
    del manifest["spec"]["script"]["command"]
    return "spec.script.command"


def _script_with_empty_command(manifest: Json, chance: random.Random) -> str:
    _script(manifest, command=[])
    return "spec.script.command"


def _script_with_text_as_command(manifest: Json, chance: random.Random) -> str:
    _script(manifest, command="python train.py")
    return "spec.script.command"


def _script_with_numbers_as_args(manifest: Json, chance: random.Random) -> str:
    _script(manifest, args=["--lr", 0.1])
    return "spec.script.args[1]"


def _script_with_parameters(manifest: Json, chance: random.Random) -> str:
    _script(manifest)
    manifest["spec"]["parameters"] = {"epochs": 1}
    return "spec.parameters"


def _both_programs(manifest: Json, chance: random.Random) -> str:
    manifest["spec"]["script"] = {"command": ["python"]}
    del manifest["spec"]["parameters"]
    return "spec.workload"


def _no_program(manifest: Json, chance: random.Random) -> str:
    for key in ("workload", "parameters"):
        del manifest["spec"][key]
    return "spec.workload"


def _encrypted_folder(manifest: Json, chance: random.Random) -> str:
    manifest["spec"]["checkpoint"]["uri"] = "file:///data"
    manifest["spec"]["objectStore"]["encryption"] = {"type": "SSE-S3"}
    return "spec.objectStore.encryption"


def _key_in_the_clear(manifest: Json, chance: random.Random) -> str:
    manifest["spec"]["objectStore"] = {"endpoint": "http://s3:9000", "encryption": {"type": "SSE-C"}}
    return "spec.objectStore.endpoint"


def _key_id_without_service(manifest: Json, chance: random.Random) -> str:
    manifest["spec"]["objectStore"]["encryption"] = {"type": "SSE-S3", "kmsKeyId": "k"}
    return "spec.objectStore.encryption.kmsKeyId"


def _container(manifest: Json) -> Json:
    return manifest["spec"]["podTemplate"]["spec"]["containers"][0]  # type: ignore[no-any-return]


def _in_container(path: str, field: str, value: Any) -> Breaker:
    """Put a value into the trainer container of the podTemplate; `field` is what the answer names."""

    def breaker(manifest: Json, chance: random.Random) -> str:
        at = _container(manifest)
        *way, last = path.split(".")
        for step in way:
            at = at.setdefault(step, {})
        at[last] = copy.deepcopy(value)
        return f"spec.podTemplate.spec.containers[0].{field}"

    breaker.__name__ = f"container {path}"
    return breaker


def _nameless_container(manifest: Json, chance: random.Random) -> str:
    del _container(manifest)["name"]
    return "spec.podTemplate.spec.containers[0]"


def _no_trainer(manifest: Json, chance: random.Random) -> str:
    _container(manifest)["$patch"] = "delete"
    return "spec.podTemplate.spec.containers"


def _host_path(manifest: Json, chance: random.Random) -> str:
    volumes = [{"name": "node", "hostPath": {"path": chance.choice(["/", "/etc", "/var/run/docker.sock"])}}]
    manifest["spec"]["podTemplate"]["spec"]["volumes"] = volumes
    return "spec.podTemplate.spec.volumes[0].hostPath"


_SCHEMA: tuple[Breaker, ...] = (
    # types
    _put("spec.workers.count", "2", 1.5, [1], True),
    _put("spec.workers.gpus", "1", 0.5),
    _put("spec.workers.cpu", 1.5, "two", "-1", True),
    _put("spec.workers.memory", "2 GB", "1gb", "lots"),
    _put("spec.workers", 4, "4", [4]),
    _put("spec.data", "builtin://digits", ["builtin://digits"]),
    _put("spec.checkpoint", "s3://checkpoints/"),
    _put("spec.checkpoint.everySeconds", "60", "60s", 0.5),
    _put("spec.suspend", "yes", "false", 1),
    _put("spec.parameters", [1], "epochs=3", 3),
    _put("spec.podTemplate", "x", [{}]),
    _put("spec.limits", "10m", 10),
    _put("spec.limits.step", 30, True),
    _put("spec.restart", 3, "never"),
    _put("spec.scheduling.tolerations", {"key": "a"}, "a"),
    _put("spec.scheduling.tolerations", ["a"]),
    _put("spec.scheduling.affinity", ["a"], "a"),
    _put("spec.scheduling.nodeSelector", ["a"], "zone=a"),
    _put("spec.scheduling.nodeSelector.zone", 1, True),
    _put("spec.objectStore", "https://s3.example", ["s3"]),
    _put("spec.activeDeadlineSeconds", "1h", "60"),
    _put("spec.ttlSecondsAfterFinished", "1d", 0.5),
    _put("spec.workload", 1, ["cnn"]),
    _put("spec", "cnn", ["cnn"]),
    # ranges
    _put("spec.workers.count", 0, -1, 1025, 10**9),
    _put("spec.workers.gpus", -1, 17),
    _put("spec.checkpoint.everySeconds", 0, -5, 86401),
    _put("spec.checkpoint.keepLast", 0, 1001),
    _put("spec.checkpoint.keepBest", -1, 101),
    _put("spec.restart.maxFailures", -1, 1001),
    _put("spec.activeDeadlineSeconds", 0, -60),
    _put("spec.ttlSecondsAfterFinished", -1),
    # forms
    _put("spec.workload", "CNN", "my_cnn", "cnn!"),
    _put("spec.data.uri", "mnist", "gs://bucket/x", "s3:/bucket", "builtin://Digits!"),
    _put("spec.checkpoint.uri", "checkpoints", "gs://bucket/x", "s3://A", "file://data"),
    _put("spec.resumeFrom", "other-job", "http://host/x"),
    _put("spec.objectStore.endpoint", "s3:8333", "ftp://s3", "http://"),
    _put("spec.objectStore.credentialsSecret", "My_Secret", "-a", "a/b"),
    _put("spec.objectStore.caConfigMap", "CA", "a b"),
    _put("spec.objectStore.encryption", {"type": "AES256"}),
    _put("spec.objectStore.encryption", {"type": "SSE-KMS", "kmsKeyId": "a b"}),
    _put("spec.objectStore.encryption", {"kmsKeyId": "k"}),
    _put("spec.restart.window", "0s", "1 hour", "9000h", "60"),
    _put("spec.limits.start", "10", "ten minutes", "0s"),
    _put("spec.limits.init", "99999h", "2min"),
    _put("spec.limits.step", "never", "-5s"),
    _put("spec.limits.checkpoint", "5 m", ""),
    _put("spec.limits.drain", "auto", "1d"),
    _put("spec.cleanPods", "Never", "running", True),
    _put("spec.scheduling.gang", "always", True),
    _put("spec.scheduling.queue", "Team_A", "a b"),
    _put("spec.scheduling.priorityClassName", "High", "a b"),
    _put("metadata.name", "Upper", "under_score", "a.b", "a" * 51, "-a"),
    # fields that are not there, and misspelled ones
    _without("spec.data.uri"),
    _without("spec.data"),
    _without("spec.checkpoint.uri"),
    _rename("spec.workers", "worker", "wokers"),
    _rename("spec.workers.count", "replicas", "counts"),
    _rename("spec.checkpoint.everySeconds", "every", "everySecond"),
    _rename("spec.restart.maxFailures", "maxFailure", "backoffLimit"),
    _rename("spec.limits.start", "startup", "starts"),
    _rename("spec.objectStore.credentialsSecret", "secret", "credentialSecret"),
    _rename("spec.scheduling.nodeSelector", "nodeselector", "nodeSelectors"),
    _rename("spec.parameters", "params", "parameter"),
    _put("spec.gpus", 1),
    _put("spec.image", "x:1"),
    # rules over several fields
    _script_without_command,
    _script_with_empty_command,
    _script_with_text_as_command,
    _script_with_numbers_as_args,
    _script_with_parameters,
    _both_programs,
    _no_program,
    _encrypted_folder,
    _key_in_the_clear,
    _key_id_without_service,
    _put("spec.workers.cpu", "0", 0, "0m"),
    _put("spec.workers.memory", "2", "512m", "63Mi"),
)

_OPERATOR: tuple[Breaker, ...] = (
    _put("spec.workload", "resnet", "cn", "mlp"),
    _put("spec.parameters.epochs", "10", 1.5, 0, -3, True, [1]),
    _put("spec.parameters.batchSize", 0, 70000, "64", 0.5),
    _put("spec.parameters.learningRate", "0.001", 0, -0.1, 11, True),
    _put("spec.parameters.architecture", "conv64", "resnet", 1, "conv3264"),
    _put("spec.parameters.schedule", "step", "cos", 0),
    _put("spec.parameters.seed", -1, 4294967296, "a"),
    _put("spec.parameters.augment", "true", 1),
    _put("spec.parameters.weightDecay", 2, -1, "0"),
    _put("spec.parameters.learning_rte", 0.1),
    _put("spec.parameters.epoch", 3),
    _put("spec.parameters.nesterovMomentum", 0.9),
    _put("spec.data.uri", "builtin://mnist", "builtin://cifar10"),
    _put("spec.podTemplate.metadta", {"labels": {}}),
    _put("spec.podTemplate.metadata", "x", ["x"]),
    _put("spec.podTemplate.spec", "x", ["x"]),
    _put("spec.podTemplate.spec.containers", {"name": "trainer"}, "trainer"),
    _put("spec.podTemplate.spec.hostNetwork", True),
    _put("spec.podTemplate.spec.hostPID", True),
    _put("spec.podTemplate.spec.hostIPC", True),
    _put("spec.podTemplate.spec.volumes", "x", {"name": "x"}),
    _in_container("command", "command", ["sh"]),
    _in_container("args", "args", ["-c"]),
    _in_container("securityContext.privileged", "securityContext.privileged", True),
    _in_container("securityContext.allowPrivilegeEscalation", "securityContext.allowPrivilegeEscalation", True),
    _in_container(
        "securityContext.capabilities.add", "securityContext.capabilities.add[0]", ["SYS_ADMIN", "NET_BIND_SERVICE"]
    ),
    _in_container("ports", "ports[0].hostPort", [{"containerPort": 80, "hostPort": 80}]),
    _nameless_container,
    _no_trainer,
    _host_path,
)

_UNKNOWN = {breaker.__name__ for breaker in _SCHEMA if breaker.__name__.startswith("rename ")} | {
    _put("spec.gpus", 1).__name__,
    _put("spec.image", "x:1").__name__,
}
