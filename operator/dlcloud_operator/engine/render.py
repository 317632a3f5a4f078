"""Makes the manifests of worker pods: a template read once per job, then a copy of it for each pod.

May import core, api and the engine's templates. It decides nothing: which pods there are is the plan's. A job's
podTemplate is merged over the rendered pod, but what the operator finds and trusts its pods by stays as rendered.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlcloud_operator.api import (
    API_VERSION,
    LABEL_INCARNATION,
    LABEL_INDEX,
    LABEL_JOB,
    EncryptionType,
    InvalidManifest,
    Problem,
    TrainingJobSpec,
    parse_duration,
    parse_quantity,
)
from dlcloud_operator.api.problems import path_text
from dlcloud_operator.core.model import JobView

from .filling import YamlTemplate
from .merge import MergeError, merge

TRAINER = "trainer"
AGENT_COPY = "/dlcloud/bin/agent.pyz"
UPLOAD_BYTES_PER_S = 20_000_000  # what a slow store still takes; the last checkpoint's upload must fit into the drain
MAX_UPLOAD_S = 600
STORE_CREDENTIALS = "/dlcloud/store-credentials"
_SCRATCH = "/dlcloud/scratch"
_SESSION_TOKEN = "AWS_SESSION_TOKEN"
_TOLERATION_S = 30
_OURS = "DLCLOUD_"
_THEIRS = {"DLCLOUD_CACHE", "DLCLOUD_CACHE_BYTES"}  # settings of the cache for data, docs/data.md


@dataclass(frozen=True)
class RenderSettings:
    """What is the same for all pods of an operator."""

    rendezvous_url: str  # as pods reach it, without a slash at the end
    trainer_image: str = "dlcloud-trainer:0.1.0"
    image_pull_policy: str = ""  # of the trainer image; empty: as Kubernetes chooses by the tag
    agent_path: str = "/opt/dlcloud/agent.pyz"  # in the trainer image
    ca: str = ""  # PEM text; empty: plain HTTP, or a certificate the image trusts
    token_audience: str = "dlcloud"


@dataclass(frozen=True)
class _Base:
    """A job's pod before it has a name, as JSON: loading that is the cheapest deep copy."""

    text: str
    trainer: int  # where the container is, and DLCLOUD_INDEX in its environment
    index_entry: int


class PodRenderer:
    """Renders the pods of jobs; keeps what it rendered for the last `cache_size` jobs."""

    def __init__(self, settings: RenderSettings, cache_size: int = 512) -> None:
        self._settings = settings
        self._cache: OrderedDict[tuple[str, int, int], _Base] = OrderedDict()
        self._cache_size = cache_size
        self._template = YamlTemplate(Path(__file__).with_name("templates") / "pod.yaml.j2")

    def trust(self, ca: str) -> None:
        """Give pods rendered from now on this CA (PEM text) for the rendezvous server."""
        if ca != self._settings.ca:
            self._settings = replace(self._settings, ca=ca)
            self._cache.clear()

    def render(self, job: JobView, index: int, incarnation: int) -> dict[str, Any]:
        """The manifest of one pod, the caller's own. Raises InvalidManifest for a podTemplate that cannot be merged."""
        base = self._base(job)
        pod: dict[str, Any] = json.loads(base.text)
        metadata = pod["metadata"]
        metadata["name"] = f"{job.key.name}-{index}-{incarnation}"
        metadata["labels"] |= {LABEL_INDEX: str(index), LABEL_INCARNATION: str(incarnation)}
        pod["spec"]["containers"][base.trainer]["env"][base.index_entry]["value"] = str(index)
        return pod

    def _base(self, job: JobView) -> _Base:
        if job.spec is None:
            raise InvalidManifest(job.problems or (Problem("spec", "does not parse"),))
        drain_s = _drain_s(job, job.spec)
        key = (job.uid, job.generation, drain_s)
        base = self._cache.get(key)
        if base is None:
            base = self._cache[key] = self._make_base(job, job.spec, drain_s)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return base

    def _make_base(self, job: JobView, spec: TrainingJobSpec, drain_s: int) -> _Base:
        rendered: dict[str, Any] = self._template.fill(_values(job, spec, drain_s, self._settings))
        pod = _merged(rendered, spec.pod_template)
        names = [container["name"] for container in pod["spec"]["containers"]]
        trainer = names.index(TRAINER)
        entries = [entry["name"] for entry in pod["spec"]["containers"][trainer]["env"]]
        return _Base(_json(pod), trainer, entries.index("DLCLOUD_INDEX"))


def _json(pod: dict[str, Any]) -> str:
    """The pod as text in which every character is one: half of a surrogate pair has no encoding."""
    text = json.dumps(pod, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _values(job: JobView, spec: TrainingJobSpec, drain_s: int, settings: RenderSettings) -> dict[str, Any]:
    """All that the template names."""
    own_image = spec.script is not None and bool(spec.script.image)
    agent_path = AGENT_COPY if own_image else settings.agent_path
    cpu_and_memory = {"cpu": spec.workers.cpu, "memory": spec.workers.memory}
    gpus = {"nvidia.com/gpu": str(spec.workers.gpus)} if spec.workers.gpus else {}
    return {
        "job": {"namespace": job.key.namespace, "name": job.key.name, "uid": job.uid, "api_version": API_VERSION},
        "labels": {"job": LABEL_JOB, "index": LABEL_INDEX, "incarnation": LABEL_INCARNATION},
        "scheduling": spec.scheduling,
        "tolerations": _tolerations(spec.scheduling.tolerations),
        "drain_s": drain_s,
        "copies_agent": own_image,
        "trainer_image": settings.trainer_image,
        "image_pull_policy": settings.image_pull_policy,
        "image": spec.script.image if spec.script is not None and own_image else settings.trainer_image,
        "agent_source": settings.agent_path,
        "agent_path": agent_path,
        "env": _environment(job, spec, drain_s, settings),
        "resources": cpu_and_memory | gpus,
        "cpu_and_memory": cpu_and_memory,
        "store_ca": spec.object_store.ca_config_map,
        "store_credentials": STORE_CREDENTIALS,
        "store_secret": spec.object_store.credentials_secret,
        "store_keys": [{"key": name, "path": name} for name in _secret_keys(spec)],
        "token_audience": settings.token_audience,
        # Half of the memory: what lies in /dev/shm counts against the container's limit.
        "shm_size": f"{max(1, int(parse_quantity(spec.workers.memory)) // 2**21)}Mi",
    }


def _environment(job: JobView, spec: TrainingJobSpec, drain_s: int, settings: RenderSettings) -> list[dict[str, Any]]:
    """docs/protocol.md, section 1."""
    plain = {
        "DLCLOUD_INDEX": "",
        "DLCLOUD_RENDEZVOUS_URL": settings.rendezvous_url,
        "DLCLOUD_TOKEN_FILE": "/dlcloud/token/token",
        **({"DLCLOUD_CA": settings.ca} if settings.ca else {}),
        "DLCLOUD_NAMESPACE": job.key.namespace,
        "DLCLOUD_JOB": job.key.name,
        "DLCLOUD_JOB_UID": job.uid,
        "DLCLOUD_WORKLOAD": spec.workload,
        "DLCLOUD_PROCESSES": str(spec.ranks_per_worker),
        "DLCLOUD_DRAIN_S": str(drain_s),
        "DLCLOUD_TERMINATION_LOG": "/dev/termination-log",
        **({"DLCLOUD_STORE_CREDENTIALS_DIR": STORE_CREDENTIALS} if spec.object_store.credentials_secret else {}),
        **({"DLCLOUD_STORE_CA_FILE": "/dlcloud/store-ca/ca.crt"} if spec.object_store.ca_config_map else {}),
        "HOME": _SCRATCH,
        "USER": "dlcloud",
        "LOGNAME": "dlcloud",
        "TMPDIR": _SCRATCH,
        "XDG_CACHE_HOME": f"{_SCRATCH}/.cache",
        "XDG_CONFIG_HOME": f"{_SCRATCH}/.config",
        "TORCH_HOME": f"{_SCRATCH}/.cache/torch",
        "TORCHINDUCTOR_CACHE_DIR": f"{_SCRATCH}/.cache/inductor",
        "TRITON_CACHE_DIR": f"{_SCRATCH}/.cache/triton",
        "HF_HOME": f"{_SCRATCH}/.cache/huggingface",
        "NUMBA_CACHE_DIR": f"{_SCRATCH}/.cache/numba",
        "MPLCONFIGDIR": f"{_SCRATCH}/.config/matplotlib",
        "PYTHONUNBUFFERED": "1",
    }
    entries: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    for name, field in (("POD", "metadata.name"), ("POD_UID", "metadata.uid"), ("POD_IP", "status.podIP")):
        entries.append({"name": f"DLCLOUD_{name}", "valueFrom": {"fieldRef": {"fieldPath": field}}})
    secret = spec.object_store.credentials_secret
    for name in _secret_keys(spec) if secret else ():
        reference: dict[str, Any] = {"name": secret, "key": name}
        if name == _SESSION_TOKEN:
            reference["optional"] = True
        entries.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    return entries


def _secret_keys(spec: TrainingJobSpec) -> tuple[str, ...]:
    """What a pod gets of the credentialsSecret, and nothing else of it."""
    asked = spec.object_store.encryption
    own = ("AWS_SSE_CUSTOMER_KEY_BASE64",) if asked is not None and asked.type is EncryptionType.SSE_C else ()
    return ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", _SESSION_TOKEN, *own)


def _drain_s(job: JobView, spec: TrainingJobSpec) -> int:
    """Seconds from SIGTERM to SIGKILL of the ranks: the job's limit, and the upload of a state as large as the last."""
    size_bytes = (job.status.checkpoint.size_bytes or 0) if job.status.checkpoint else 0
    upload_s = min(MAX_UPLOAD_S, math.ceil(max(0, size_bytes) / UPLOAD_BYTES_PER_S))
    return math.ceil(parse_duration(spec.limits.drain).total_seconds()) + upload_s


def _tolerations(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The user's, and 30 s on a lost node instead of Kubernetes' 5 minutes where the user says nothing about that."""
    told = {toleration.get("key") for toleration in own}
    lost = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return own + [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATION_S}
        for key in lost
        if key not in told
    ]


def _merged(rendered: dict[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """The rendered pod with the podTemplate over it. Raises InvalidManifest."""
    if not template:
        return rendered
    try:
        merged = merge(rendered, {key: template[key] for key in ("metadata", "spec") if template.get(key) is not None})
    except MergeError as error:
        raise InvalidManifest((Problem(path_text(("spec", "podTemplate", *error.path)), error.message),)) from None
    return _kept(rendered, merged)


def _kept(rendered: dict[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """What the operator's rules need is put back as rendered. Raises InvalidManifest when the container is gone."""
    labels = merged.get("metadata", {}).get("labels") or {}
    metadata = {
        **merged.get("metadata", {}),
        **{key: rendered["metadata"][key] for key in ("name", "namespace", "ownerReferences")},
        "labels": {**labels, **rendered["metadata"]["labels"]},
    }
    metadata.pop("generateName", None)
    spec = {**merged.get("spec", {}), "restartPolicy": rendered["spec"]["restartPolicy"]}
    ours = rendered["spec"]["containers"][0]
    containers = spec.get("containers") or []
    place = next((n for n, container in enumerate(containers) if container.get("name") == TRAINER), None)
    if place is None:
        text = f"deletes the container {TRAINER}, in which the job runs; leave it, and change its fields instead"
        raise InvalidManifest((Problem("spec.podTemplate.spec.containers", text),))
    theirs = {key: value for key, value in containers[place].items() if key != "args"}
    env = [entry for entry in ours["env"] if entry["name"].startswith(_OURS)]
    env += [entry for entry in theirs.get("env") or [] if _is_theirs(str(entry.get("name")))]
    trainer = {
        **theirs,
        "command": ours["command"],
        "env": env,
        "volumeMounts": _by_key("mountPath", _agents(ours["volumeMounts"]), theirs.get("volumeMounts") or []),
    }
    spec["containers"] = [trainer if n == place else container for n, container in enumerate(containers)]
    spec["volumes"] = _by_key("name", _agents(rendered["spec"]["volumes"]), spec.get("volumes") or [])
    return {**rendered, "metadata": metadata, "spec": spec}


def _is_theirs(variable: str) -> bool:
    return not variable.startswith(_OURS) or variable in _THEIRS


def _agents(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The volumes, or mounts, without which the agent cannot start or speak."""
    return [item for item in items if item["name"] in ("token", "bin")]


def _by_key(key: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our items in the place of theirs with the same key, and before the rest where there are none."""
    mine = {item[key]: item for item in ours}
    given = {item.get(key) for item in theirs}
    missing = [item for item in ours if item[key] not in given]
    return missing + [mine.get(str(item.get(key)), item) for item in theirs]
