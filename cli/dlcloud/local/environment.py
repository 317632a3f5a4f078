"""A container's command and environment, as the kubelet would make them, for a process of this machine.

May import this package and the standard library. Reads the process environment only where it is passed in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .facts import Manifest, NotReady, Objects, PodFacts, resource_value
from .volumes import PathMap

_REFERENCE = re.compile(r"\$(\$|\(([^()\s]+)\))")
_ALWAYS = ("LANG", "LC_ALL", "TZ", "SSL_CERT_FILE")
_CACHE, _CACHE_BYTES = "DLCLOUD_CACHE", "DLCLOUD_CACHE_BYTES"  # of data from S3, see docs/data.md
_INTERPRETERS = ("python", "python3")


@dataclass(frozen=True)
class Launch:
    """What to execute: the full argument vector and the whole environment."""

    command: tuple[str, ...]
    env: Mapping[str, str]


def base_environment(own: Mapping[str, str], python: str, share_credentials: bool) -> dict[str, str]:
    """What a pod gets of this process's environment: little; the user's AWS settings only with `share_credentials`. The
    cache for data is the user's, for all runs: a pod's own folder would go with it."""
    env = {name: own[name] for name in (*_ALWAYS, _CACHE_BYTES) if name in own} | {_CACHE: str(_cache_folder(own))}
    # Not resolved: a virtual environment's interpreter is a link, and its programs lie beside the link.
    env["PATH"] = os.pathsep.join([str(Path(python).absolute().parent), own.get("PATH", os.defpath)])
    if share_credentials:
        env |= {name: value for name, value in own.items() if name.startswith("AWS_")}
    return env


def _cache_folder(own: Mapping[str, str]) -> Path:
    """`$DLCLOUD_CACHE`, else `$XDG_CACHE_HOME/dlcloud/data`, else `~/.cache/dlcloud/data`."""
    if own.get(_CACHE):
        return Path(own[_CACHE]).expanduser().absolute()
    given = own.get("XDG_CACHE_HOME") or ""
    home = Path(own.get("HOME") or Path.home())
    return (Path(given) if given.startswith("/") else home / ".cache") / "dlcloud" / "data"


def build_launch(
    container: Manifest, base: Mapping[str, str], paths: PathMap, facts: PodFacts, objects: Objects, python: str
) -> Launch:
    """Command, arguments and environment of `container`. Raises NotReady, in the kubelet's words."""
    try:
        declared = _declared(container, facts, objects)
    except NotReady as missing:
        word = "" if str(missing).startswith("CreateContainerConfigError") else "CreateContainerConfigError: "
        raise NotReady(f"{word}{missing}") from None
    command = [expand(str(part), declared) for part in [*container.get("command", ()), *container.get("args", ())]]
    if not container.get("command"):
        name = container.get("name")
        raise NotReady(f"container {name!r} has no command: its image's own is unknown here; give it a command")
    command = [paths.apply(part) for part in command]
    if command[0] in _INTERPRETERS:
        command[0] = python
    env = {**base, **{name: paths.apply(value) for name, value in declared.items()}}
    return Launch(tuple(command), env)


def _declared(container: Manifest, facts: PodFacts, objects: Objects) -> dict[str, str]:
    env: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        for kind, ref in (("secret", source.get("secretRef")), ("configmap", source.get("configMapRef"))):
            if ref is not None:
                data = objects.data(kind, str(ref.get("name", "")), bool(ref.get("optional")))
                env |= {source.get("prefix", "") + key: value for key, value in data.items()}
    for variable in container.get("env", ()):
        value = _value(variable, env, container, facts, objects)
        if value is not None:
            env[str(variable["name"])] = value
    return env


def _value(
    variable: Manifest, earlier: Mapping[str, str], container: Manifest, facts: PodFacts, objects: Objects
) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return expand(str(variable.get("value") or ""), earlier)
    if "fieldRef" in source:
        return facts.field(source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource_value(container, source["resourceFieldRef"])
    if "secretKeyRef" in source:
        return objects.value("secret", source["secretKeyRef"])
    if "configMapKeyRef" in source:
        return objects.value("configmap", source["configMapKeyRef"])
    raise NotReady(f"variable {variable['name']!r}: valueFrom {', '.join(source)} is unknown")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by its value; `$$` stands for `$`, and an unknown name stays as it is (the kubelet's rules)."""
    return _REFERENCE.sub(lambda match: "$" if match[1] == "$" else values.get(match[2], match[0]), text)
