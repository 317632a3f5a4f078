"""What `spec.podTemplate` must not hold: nothing in the CRD can look into it.

May import this package only. The form that merging needs and the refusals live here; the rest is the API server's to
judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .parameters import nearest
from .problems import Problem, path_text

TRAINER = "trainer"
_TOP = ("metadata", "spec", "$patch", "$retainKeys")
_CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")
_HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC")
_HARMLESS_CAPABILITIES = ("NET_BIND_SERVICE",)  # the one the restricted Pod Security Standard lets a container add
_ASK = "jobs may not have it, unless the operator was installed to allow privileged pods"

Path = tuple[str | int, ...]


def check_pod_template(template: Mapping[str, Any], allow_privileged: bool = False) -> tuple[Problem, ...]:
    """What is wrong with a podTemplate; `allow_privileged` admits host namespaces, hostPath and privilege."""
    problems = list(_form(template))
    if not allow_privileged and isinstance(template.get("spec"), Mapping):
        problems += _refusals(template["spec"])
    return tuple(problems)


def _problem(path: Path, message: str) -> Problem:
    return Problem(path_text(("spec", "podTemplate", *path)), message)


def _form(template: Mapping[str, Any]) -> Iterator[Problem]:
    for key in template:
        if key not in _TOP:
            yield _problem((key,), f"is not a field here{nearest(key, _TOP[:2])}; give metadata and spec, as of a pod")
    for key in ("metadata", "spec"):
        if template.get(key) is not None and not isinstance(template[key], Mapping):
            yield _problem((key,), f"is no mapping; give the {key} of a pod")
    spec = template.get("spec")
    if not isinstance(spec, Mapping):
        return
    for name in (*_CONTAINER_LISTS, "volumes"):
        items = spec.get(name)
        if items is None:
            continue
        if not isinstance(items, list):
            yield _problem(("spec", name), "is no list; give a list of mappings, each with a name")
            continue
        for index, item in enumerate(items):
            if not isinstance(item, Mapping):
                yield _problem(("spec", name, index), "is no mapping; give a mapping with a name")
            elif not isinstance(item.get("name"), str) and item.get("$patch") != "replace":
                yield _problem(
                    ("spec", name, index), f"has no name; give one (the job's own container is named {TRAINER})"
                )
    for path, container in _containers(spec):
        if container.get("name") == TRAINER and path[1] == "containers":
            if container.get("$patch") == "delete":
                text = (
                    f"deletes the container {TRAINER}, in which the job runs; leave it, and change its fields instead"
                )
                yield _problem(("spec", "containers"), text)
            for key in ("command", "args"):
                if key in container:
                    text = "cannot change: this container runs the agent; give the program in spec.script.command"
                    yield _problem((*path, key), text)


def _refusals(spec: Mapping[str, Any]) -> Iterator[Problem]:
    for field in _HOST_FIELDS:
        if spec.get(field):
            yield _problem(("spec", field), f"shares a namespace of the node; {_ASK}")
    yield from _windows(("spec",), spec)
    volumes = spec.get("volumes")
    for index, volume in enumerate(volumes if isinstance(volumes, list) else ()):
        if isinstance(volume, Mapping) and volume.get("hostPath") is not None:
            yield _problem(("spec", "volumes", index, "hostPath"), f"opens the node's files; {_ASK}")
    for path, container in _containers(spec):
        ports = container.get("ports")
        for index, port in enumerate(ports if isinstance(ports, list) else ()):
            if isinstance(port, Mapping) and port.get("hostPort"):
                yield _problem((*path, "ports", index, "hostPort"), f"takes a port of the node; {_ASK}")
        yield from _windows(path, container)
        security = container.get("securityContext")
        if not isinstance(security, Mapping):
            continue
        for field in ("privileged", "allowPrivilegeEscalation"):
            if security.get(field):
                yield _problem((*path, "securityContext", field), f"gives rights over the node; {_ASK}")
        capabilities = security.get("capabilities")
        added = capabilities.get("add") if isinstance(capabilities, Mapping) else None
        for index, name in enumerate(added if isinstance(added, list) else ()):
            if name not in _HARMLESS_CAPABILITIES:
                where = (*path, "securityContext", "capabilities", "add", index)
                yield _problem(where, f"gives a right of root; {_ASK}")


def _windows(path: Path, holder: Mapping[str, Any]) -> Iterator[Problem]:
    security = holder.get("securityContext")
    options = security.get("windowsOptions") if isinstance(security, Mapping) else None
    if isinstance(options, Mapping) and options.get("hostProcess"):
        where = (*path, "securityContext", "windowsOptions", "hostProcess")
        yield _problem(where, f"runs on the node itself; {_ASK}")


def _containers(spec: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for name in _CONTAINER_LISTS:
        items = spec.get(name)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, Mapping):
                yield ("spec", name, index), item
