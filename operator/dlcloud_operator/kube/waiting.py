"""Why a pod does not start, from its object: the scheduler's and the kubelet's own words, made short.

May import the engine's reading of objects. Pure; whatever an object holds, nothing raises here. What stands only in
the pod's Events is found by `troubles`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dlcloud_operator.engine.reading import mapping, text

CREATING = "ContainerCreating"
IMAGE_PULL = "ImagePull"
UNSCHEDULABLE = "Unschedulable"
GATED = "SchedulingGated"

_IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
    | {"RegistryUnavailable", "SignatureValidationFailed"}
)
_ON_ITS_WAY = frozenset({"ContainerCreating", "PodInitializing", ""})
_VERDICT = re.compile(r"0/(\d+) nodes are available: (.*)", re.DOTALL)
_LACK = re.compile(r"(\d+) Insufficient ([A-Za-z0-9./_-]*[A-Za-z0-9])")
# What it would take to preempt others is the scheduler's second sentence, and repeats the first.
_PREEMPTION = re.compile(r"\.? (?:[a-z ]+, )?preemption: ")
_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*"(?:: (?:ErrImagePull: )?)?')
# Each layer of containerd names the image again; what went wrong stands behind them.
_LAYERS = re.compile(r'\bfailed to (?:pull and unpack image|resolve reference|resolve image|pull image) "[^"]*": ')
_RPC = re.compile(r"\brpc error: code = \w+ desc = ")


class Waiting(NamedTuple):
    """`reason` is CamelCase, and empty while all takes its course; `words` go into the job's message."""

    reason: str
    words: str


def waiting_of(raw: Mapping[str, Any]) -> Waiting:
    """What a pod that is Pending waits for."""
    status = mapping(raw.get("status"))
    scheduled = conditions_of(status).get("PodScheduled", {})
    if text(scheduled.get("status")) != "True" and not text(mapping(raw.get("spec")).get("nodeName")):
        return _unscheduled(raw, scheduled)
    found = None
    for name, init, state in _states(status):
        if "waiting" in state:
            reason = text(mapping(state["waiting"]).get("reason"))
            if reason not in _ON_ITS_WAY:
                return _trouble(raw, name, init, reason, text(mapping(state["waiting"]).get("message")))
            if found is None and (not init or reason == CREATING):
                found = Waiting(CREATING, "the container is being created")
        elif init and "running" in state:
            found = Waiting("", f"init container {name} runs")
    return found or Waiting("", "the pod waits to be started")


def conditions_of(status: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The conditions of a pod's status by type."""
    return {text(one.get("type")): one for one in maps(status.get("conditions"))}


def maps(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list, and nothing of what is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def one_line(words: str, limit: int = 300) -> str:
    """The words without line breaks, shortened."""
    line = " ".join(words.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _states(status: Mapping[str, Any]) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    """Name, whether it is an init container, and state, in the order in which they start."""
    for key in ("initContainerStatuses", "containerStatuses"):
        for one in maps(status.get(key)):
            yield text(one.get("name")), key == "initContainerStatuses", mapping(one.get("state"))


def _unscheduled(raw: Mapping[str, Any], scheduled: Mapping[str, Any]) -> Waiting:
    reason, said = text(scheduled.get("reason")), text(scheduled.get("message"))
    if reason == GATED:
        gates = ", ".join(text(gate.get("name")) for gate in maps(mapping(raw.get("spec")).get("schedulingGates")))
        return Waiting(GATED, f"held by scheduling gate {gates or 'of the pod'}"[:300])
    if not said:
        return Waiting("", "")  # nothing is said yet: the pod is still being created
    said = one_line(_PREEMPTION.split(said)[0].rstrip(". "), 2000)
    verdict = _VERDICT.fullmatch(said)
    if verdict is not None:
        nodes, why = verdict[1], verdict[2]
        lacks = _LACK.fullmatch(why)
        if lacks is not None and lacks[1] == nodes:
            amount = _asked(raw, lacks[2])
            said = f"0/{nodes} nodes have {amount or 'enough'} free {lacks[2]}"
        else:
            said = f"0/{nodes} nodes are available: {_LACK.sub(lambda lack: _lack(raw, lack), why)}"
    return Waiting(UNSCHEDULABLE if reason in ("", "Unschedulable") else camel(reason), one_line(said))


def _lack(raw: Mapping[str, Any], lack: re.Match[str]) -> str:
    amount = _asked(raw, lack[2])
    return f"{lack[1]} with too little {lack[2]}" + (f" (the pod asks for {amount})" if amount else "")


def _asked(raw: Mapping[str, Any], resource: str) -> str:
    """How much a pod asks for, when only one of its containers does: sums of quantities are the scheduler's."""
    found = []
    for container in maps(mapping(raw.get("spec")).get("containers")):
        resources = mapping(container.get("resources"))
        asked = {**mapping(resources.get("limits")), **mapping(resources.get("requests"))}.get(resource)
        if asked is not None:
            found.append(str(asked)[:32])
    return found[0] if len(found) == 1 else ""


def _trouble(raw: Mapping[str, Any], name: str, init: bool, reason: str, said: str) -> Waiting:
    if reason in _IMAGE:
        spec = mapping(raw.get("spec"))
        image = next(
            (
                text(container.get("image"))
                for container in maps(spec.get("initContainers" if init else "containers"))
                if container.get("name") == name
            ),
            "",
        )
        detail = _LAYERS.sub("", _RPC.sub("", _BACK_OFF.sub("", said))).strip()
        return Waiting(IMAGE_PULL, one_line(f"image {image!r} cannot be pulled: {detail or reason}"))
    who = f"init container {name}: " if init else f"container {name}: " if name != "trainer" else ""
    return Waiting(camel(reason), one_line(f"{who}{reason}: {said}" if said else f"{who}{reason}"))


def camel(reason: str) -> str:
    """A reason as a condition may have it."""
    return "".join(filter(str.isalnum, reason))[:63] or "Waiting"
