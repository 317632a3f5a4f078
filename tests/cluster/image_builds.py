"""How each image of the tests' cluster is made: by images/build.sh, by an engine, by mmdebstrap.

May import the standard library and this package's engine and image_sources.py. Decides nothing: images.py says what is
missing.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .engine import ClusterError, Engine, cluster_folder
from .image_sources import DOCKERFILES, ROOT, code_dockerfile, digest

DEBIAN = "bookworm"
DEBIAN_PYTHON = "311"
BASE = f"localhost/debian-python:{DEBIAN}"
BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
ENVIRONMENTS = "localhost/dlcloud-environment-"
LABEL = "dev.dlcloud.test"
EPOCH_S = "315532800"  # of every image: the same sources give the same image, which nodes then have already
BUILD_S = 1800.0
Say = Callable[[str], None]


def ensure_base(engine: Engine, say: Say, here: set[str]) -> None:
    """Debian with python3 and pip as image BASE, from packages. Raises ClusterError."""
    if BASE in here:
        return
    archive = cluster_folder() / f"base-{DEBIAN}-{digest(BASE_PACKAGES)}.tar"
    if archive.exists():
        try:
            engine.run("import", str(archive), BASE)
            return
        except ClusterError as error:
            say(f"{archive} is made again: {str(error).splitlines()[-1]}")
    program = shutil.which("mmdebstrap")
    if program is None:
        raise ClusterError(f"the image {BASE} is made by mmdebstrap, which is missing: apt-get install mmdebstrap")
    started = time.monotonic()
    say(f"{BASE}: from Debian's packages, about a minute")
    with tempfile.TemporaryDirectory(prefix=".base-", dir=cluster_folder()) as scratch:
        new = Path(scratch) / "base.tar"
        command = [program, "--variant=minbase", f"--include={BASE_PACKAGES}", DEBIAN, str(new)]
        run(command, os.environ)
        new.replace(archive)
    engine.run("import", str(archive), BASE)
    say(f"{BASE}: {megabytes(size(engine, BASE))}, made in {time.monotonic() - started:.0f} s")


def build_environment(engine: Engine, part: str, name: str, settings: Mapping[str, str], say: Say) -> None:
    """What the code of `part` needs, by images/build.sh: once for each requirements.lock. Raises ClusterError."""
    if part == "trainer" and settings["TORCH"] == "cuda":
        say("trainer: no CPU build of torch here, so 5.6 GB; PIP_FIND_LINKS or WHEELS may name a folder with its wheel")
    say(f"{part}: installing its packages")
    flags = f"--label {LABEL}=environment" + (" --layers=false" if engine.name == "podman" else "")
    own = {"CONTAINER": str(engine.program), "IMAGE_PREFIX": ENVIRONMENTS, "VERSION": name.rpartition(":")[2]}
    stage = {"STAGE": "environment", "BUILD_FLAGS": flags, "SOURCE_DATE_EPOCH": EPOCH_S}
    run([str(ROOT / "images" / "build.sh"), part], {**engine.environment, **settings, **own, **stage})


def build_code(engine: Engine, part: str, name: str, environment: str, settings: Mapping[str, str]) -> None:
    """The image of `part`: a layer of 1 MB upon its environment. Raises ClusterError."""
    given = {"ENVIRONMENT": environment, "VERSION": name.rpartition(":")[2], "BASE_IMAGE": settings["BASE_IMAGE"]}
    given |= {"TORCH": settings["TORCH"]} if part == "trainer" else {}
    words = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
    text = code_dockerfile(part).encode()
    engine.run("build", *once(engine, part), *words, "-f", "-", "-t", name, str(ROOT), given=text, timeout_s=BUILD_S)


def build_program(engine: Engine, part: str, name: str, settings: Mapping[str, str]) -> None:
    """The image of a program that others publish. Raises ClusterError."""
    words = ["--build-arg", f"BASE_IMAGE={settings['BASE_IMAGE']}"]
    for key in ("PIP_CERT", "PIP_CONFIG_FILE"):
        words += ["--secret", f"id={key.lower()},type=file,src={settings[key]}"] if settings.get(key) else []
    for key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        words += ["--secret", f"id={key.lower()},env={key}"] if settings.get(key) else []
    knowing = Engine(engine.program, {**engine.environment, **settings})
    file = str(DOCKERFILES / f"{part}.Dockerfile")
    knowing.run("build", *once(engine, part), *words, "-f", file, "-t", name, str(ROOT), timeout_s=BUILD_S)


def once(engine: Engine, part: str) -> list[str]:
    """Options of a build that nobody repeats: its tag tells when it is needed again, so no steps are kept."""
    if engine.name == "podman":
        return ["--label", f"{LABEL}={part}", "--layers=false", "--timestamp", EPOCH_S]
    return ["--label", f"{LABEL}={part}", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH_S}"]


def pip_settings() -> dict[str, str]:
    """What pip is told of this machine, by variables or by files: its index and its certificates, as variables."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    names = {"cert": "PIP_CERT", "index-url": "PIP_INDEX_URL", "extra-index-url": "PIP_EXTRA_INDEX_URL"}
    told = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        if (name := names.get(key.rpartition(".")[2])) is not None and (key.startswith(":env:") or name not in told):
            told[name] = " ".join(str(ast.literal_eval(value)).split())
    for name in ("PIP_CONFIG_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if (value := os.environ.get(name, "")) and Path(value).is_file():
            told.setdefault("PIP_CONFIG_FILE" if name == "PIP_CONFIG_FILE" else "PIP_CERT", value)
    return told


def size(engine: Engine, name: str) -> int:
    return int(engine.run("image", "inspect", "--format", "{{.Size}}", name))


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"


def run(command: list[str], environment: Mapping[str, str]) -> None:
    """Raises ClusterError with the end of its output."""
    done = subprocess.run(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        end = done.stdout.decode(errors="replace").strip()[-2000:]
        raise ClusterError(f"{' '.join(command)}: exit code {done.returncode}\n{end}")
