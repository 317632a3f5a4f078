"""Which cluster is meant: from kubeconfig files to an address, a way to log in and a namespace.

May import the kubernetes library (it costs 0.2 s) and PyYAML. Starts the user's login plugin; prints nothing, and no
message holds a token.
"""

from __future__ import annotations

import difflib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import JobsError

DEFAULT_FILE = "~/.kube/config"
_POD_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True)
class Connection:
    """How the API server is reached. `configuration` is the library's, with addresses, certificates and login."""

    configuration: Any
    context: str
    user: str
    namespace: str
    source: str  # the files, for messages


class _Heard(logging.Handler):
    """The library logs why a login failed, and goes on without one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def connect(kubeconfig: Path | None, context: str, namespace: str, environ: Mapping[str, str]) -> Connection:
    """The cluster these options, else $KUBECONFIG, else ~/.kube/config mean. Raises JobsError."""
    if find_spec("kubernetes") is None:
        raise JobsError("kubernetes is not installed, so no cluster can be reached; run: pip install 'dlcloud[local]'")
    wanted = [str(kubeconfig)] if kubeconfig else environ.get("KUBECONFIG", "").split(os.pathsep)
    files = [str(Path(name).expanduser()) for name in [n for n in wanted if n] or [DEFAULT_FILE]]
    there = [name for name in files if Path(name).exists()]
    if not there and kubeconfig is None and environ.get("KUBERNETES_SERVICE_HOST") and _POD_TOKEN.exists():
        return _from_inside(namespace)
    if not there:
        what = "there is no such file" if len(files) == 1 else "none of these files exists"
        raise JobsError(
            f"kubeconfig {', '.join(files)}: {what}; give --kubeconfig FILE or set KUBECONFIG, or --local for the runs "
            "of this machine"
        )
    documents = [_read(name) for name in there]
    source = os.pathsep.join(there)
    chosen = _choose_context(documents, context, source)
    user = _named(documents, "users", str(chosen.get("user") or ""))
    if _named(documents, "clusters", str(chosen.get("cluster") or "")) is None:
        raise JobsError(f"kubeconfig {source}: context {chosen['name']!r} names no cluster that is in it; correct it")
    plugin = _check_plugin(user or {}, str(chosen.get("user")), source, environ)
    configuration = _load(source, chosen["name"], plugin)
    return Connection(
        configuration,
        context=chosen["name"],
        user=str(chosen.get("user") or ""),
        namespace=namespace or str(chosen.get("namespace") or "") or "default",
        source=source,
    )


def _from_inside(namespace: str) -> Connection:
    """In a pod: its service account."""
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        load_in_cluster: Any = config.load_incluster_config
        load_in_cluster(client_configuration=configuration)
        own = _POD_TOKEN.with_name("namespace").read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as error:
        raise JobsError(f"this pod's service account cannot be used: {error}; give --kubeconfig FILE") from None
    return Connection(configuration, "in this pod", "the pod's service account", namespace or own, str(_POD_TOKEN))


def _read(name: str) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.load(Path(name).read_bytes(), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise JobsError(f"kubeconfig {name}: {error.strerror}; give --kubeconfig FILE that can be read") from None
    except (yaml.YAMLError, UnicodeDecodeError):  # its text may quote a token
        raise JobsError(f"kubeconfig {name}: is no YAML; write it again, for example with kubectl config") from None
    if not isinstance(content, Mapping):
        what = "is empty" if content is None else "is no mapping"
        raise JobsError(f"kubeconfig {name}: {what}; give a file with clusters, users and contexts")
    for key in ("clusters", "users", "contexts"):
        items = content.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, Mapping) and "name" in item for item in items):
            raise JobsError(f"kubeconfig {name}: {key} is no list of named entries; correct the file")
    return content


def _choose_context(documents: Sequence[Mapping[str, Any]], context: str, source: str) -> dict[str, Any]:
    """The context's fields, with its name. As kubectl does: of two of the same name the first file's counts."""
    names = list(dict.fromkeys(str(item["name"]) for d in documents for item in d.get("contexts") or []))
    # The library lets the last file's current-context win, kubectl the first one's; kubectl is what people know.
    chosen = context or next((str(d["current-context"]) for d in documents if d.get("current-context")), "")
    there = f"there are {', '.join(names)}" if names else "it has none"
    if not chosen:
        raise JobsError(f"kubeconfig {source}: names no current-context; give --context NAME: {there}")
    fields = _named(documents, "contexts", chosen)
    if fields is None:
        near = difflib.get_close_matches(chosen, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise JobsError(f"--context: {chosen!r} is not in kubeconfig {source}{hint} ({there})")
    return {**fields, "name": chosen}


def _named(documents: Sequence[Mapping[str, Any]], kind: str, name: str) -> Mapping[str, Any] | None:
    for document in documents:
        for item in document.get(kind) or []:
            if item["name"] == name:
                found = item.get(kind[:-1])
                return found if isinstance(found, Mapping) else {}
    return None


def _check_plugin(user: Mapping[str, Any], name: str, source: str, environ: Mapping[str, str]) -> str:
    """The user's login program, empty without one. Raises JobsError when it is not there: the library only logs it."""
    plugin = user.get("exec")
    if not isinstance(plugin, Mapping) or user.get("token") or user.get("tokenFile"):
        return ""
    command = str(plugin.get("command") or "")
    own = {str(item.get("name")): str(item.get("value")) for item in plugin.get("env") or []}
    beside = [str(Path(file).parent / command) for file in source.split(os.pathsep)] if os.sep in command else [command]
    if not any(shutil.which(place, path=own.get("PATH", environ.get("PATH"))) for place in beside):
        hint = " ".join(str(plugin.get("installHint") or "").split()) or "install it, or correct PATH"
        raise JobsError(
            f"kubeconfig {source}: user {name!r} logs in with the program {command!r}, which is not there; {hint}"
        )
    return command


def _load(source: str, context: str, plugin: str) -> Any:
    from kubernetes import client, config

    configuration = client.Configuration()
    heard, root = _Heard(), logging.getLogger()
    root.addHandler(heard)
    try:
        load: Any = config.load_kube_config
        load(config_file=source, context=context, client_configuration=configuration)
    except config.ConfigException as error:
        raise JobsError(f"kubeconfig {source}, context {context!r}: {error}; correct the file") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else type(error).__name__
        raise JobsError(f"kubeconfig {source}, context {context!r}: cannot be read ({what}); write it again") from None
    finally:
        root.removeHandler(heard)
    if plugin and heard.messages and not configuration.api_key and not configuration.cert_file:
        # With a terminal the plugin has spoken for itself, and the library stumbles over its missing words.
        said = heard.messages[-1] if "NoneType" not in heard.messages[-1] else "it ended with an error"
        said = " ".join(said.removeprefix("exec: ").split())[:300].rstrip(" .")
        raise JobsError(f"the login program {plugin!r} of context {context!r} failed: {said}; log in again with it")
    return configuration
