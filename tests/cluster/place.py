"""Which cluster the end-to-end tests use, and how it comes to be: `current`, `up`.

May import this package. Chooses: a given KUBECONFIG > docker or podman with a registry (kind's own node image) >
everything built here. Never touches a cluster of another name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from .engine import ClusterError, Engine, cluster_folder, find_engine
from .images import PUBLIC, Images

Say = Callable[[str], None]
NAME = "DLCLOUD_CLUSTER_NAME"
DEFAULT_NAME = "dlcloud"
MADE = "made.json"
OURS = "ours"


@dataclass(frozen=True)
class Place:
    """A cluster for the tests. `kind`: "given" (not ours), "stock" (kind's node image) or "offline" (built here).

    `engine` is None where the nodes are not ours; `images` are named as pods name them.
    """

    kind: str
    kubeconfig: Path
    engine: Engine | None
    name: str
    images: Images


def cluster_name() -> str:
    """The name of our cluster: DLCLOUD_CLUSTER_NAME, else "dlcloud"."""
    return os.environ.get(NAME) or DEFAULT_NAME


def home(name: str) -> Path:
    """What is kept about the cluster of this name."""
    return cluster_folder() / "clusters" / name


def kubeconfig_of(name: str) -> Path:
    return home(name) / "kubeconfig"


def given_kubeconfig() -> Path | None:
    """The KUBECONFIG of the environment, unless a cluster of ours is asked for or it is one of ours."""
    given = os.environ.get("KUBECONFIG")
    if not given or os.environ.get(NAME):
        return None
    path = Path(given.split(os.pathsep)[0]).absolute()
    return None if path.is_relative_to(cluster_folder().absolute()) else path


def given_place(kubeconfig: Path) -> Place:
    """A cluster that is not ours. Raises ClusterError where its file or an image is missing."""
    if not kubeconfig.is_file():
        raise ClusterError(
            f"KUBECONFIG: there is no file {kubeconfig}; name the kubeconfig of your cluster, or unset it: "
            "one of ours is made then"
        )
    variables = {part: f"DLCLOUD_E2E_{part.upper()}_IMAGE" for part in ("operator", "trainer", "s3", "prometheus")}
    # A cluster that is not ours has a registry, or it could run nothing: what is public is pulled.
    names = PUBLIC | {part: os.environ[variable] for part, variable in variables.items() if os.environ.get(variable)}
    if missing := [variables[part] for part in ("operator", "trainer") if part not in names]:
        raise ClusterError(
            f"KUBECONFIG names a cluster of yours ({kubeconfig}), and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set: push the images that `make images` builds to a registry "
            "that the cluster can pull from, and name them"
        )
    return Place("given", kubeconfig, None, "given", Images(**names))


def current() -> Place:
    """The cluster that `up` made, or the given one. Raises ClusterError where there is none."""
    if (kubeconfig := given_kubeconfig()) is not None:
        return given_place(kubeconfig)
    name = cluster_name()
    made = read(name)
    if made is None:
        raise ClusterError(
            f"there is no cluster {name}: `make cluster-up` makes it, or KUBECONFIG names one of your own"
        )
    return Place(made.kind, kubeconfig_of(name), find_engine(), name, made.images)


@dataclass(frozen=True)
class Made:
    """What `up` wrote about a cluster of ours when it was complete; `node_image`: "" for kind's own."""

    kind: str
    node_image: str
    workers: int
    images: Images


def read(name: str) -> Made | None:
    """None where `up` wrote nothing about the cluster of this name, or another version of it did."""
    try:
        told = json.loads((home(name) / MADE).read_text())
        return Made(**{**told, "images": Images(**told["images"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(name: str, made: Made) -> None:
    """For `read`, in later processes too; appears at once."""
    path = home(name) / MADE
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(made), indent=2) + "\n")
    new.replace(path)


def forget(name: str) -> None:
    """The cluster of this name is not complete any more."""
    (home(name) / MADE).unlink(missing_ok=True)


def claim(name: str) -> None:
    """From here on a cluster of this name is ours, also when it is half made."""
    home(name).mkdir(parents=True, exist_ok=True)
    (home(name) / OURS).touch()


def refuse_others(name: str, nodes: list[str]) -> None:
    """Raises ClusterError where nodes of this cluster's name are there and were not made by us."""
    if nodes and not (home(name) / OURS).exists():
        raise ClusterError(
            f"there is a kind cluster {name} that was not made here (nodes: {', '.join(nodes)}); "
            f"give another name with {NAME}, or delete that one: kind delete cluster --name {name}"
        )


def release(name: str) -> None:
    """The cluster of this name is gone."""
    (home(name) / OURS).unlink(missing_ok=True)


def up(say: Say, *, workers: int | None = None) -> Place:
    """Make the cluster, or bring the one that is there up to date: minutes, or 2 s. Raises ClusterError.

    `workers`: as many as it has, two for a new one, when not given.
    """
    from . import making

    if (kubeconfig := given_kubeconfig()) is not None:
        say(f"using the cluster of KUBECONFIG, {kubeconfig}")
        return given_place(kubeconfig)
    making.make(cluster_name(), workers, say)
    return current()
