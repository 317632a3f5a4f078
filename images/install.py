"""Fill /opt/venv and /opt/dlcloud of an image: runs as root in the build stages of Dockerfiles, nowhere else.

May import the standard library only (3.11 or newer). It leaves nothing in the image that tells of the machine it was
built on: indexes, credentials and certificates come in as secrets of the build (docs/images.md).
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

VENV = Path("/opt/venv")
PYTHON = VENV / "bin" / "python3"
HOME = Path("/opt/dlcloud")
LIB = HOME / "lib"
WHEELS = Path("/wheels")
SECRETS = Path("/run/secrets")
FILES = ("PIP_CERT", "PIP_CONFIG_FILE")  # pip is told where these are; of other secrets, what is in them
EPOCH_S = 315532800  # 1980-01-01, the earliest a zip can hold: the same sources make the same layer at any time
# What nothing imports; programs and modules that test the packages themselves are 200 MB beside torch.
UNUSED = (
    *("torch/test", "torch/bin/test_*", "torch/bin/*Test", "torch/bin/protoc*", "**/tests", "onnx/backend/test"),
    # Of Arrow, Parquet alone is read: no headers, no RPC, no S3 client beside ours.
    *("pyarrow/include", "pyarrow/src", "pyarrow/libarrow_flight*", "pyarrow/_flight*"),
    *("pyarrow/libarrow_s3*", "pyarrow/_s3fs*"),
)
# Imported late and by name, and the operator never does but for the three that kopf asks for: 50 MB of bytecode for
# 1,800 generated modules.
USED_MODELS = "__init__|v1_object_meta|v1_owner_reference|v1_managed_fields_entry"
UNCOMPILED = re.compile(rf"/kubernetes/(aio/)?client/(api|models)/(?!({USED_MODELS})\.py)")
NO_TORCH = (
    "\nTORCH=cpu needs a wheel of torch=={0}+cpu, which pip found neither in the folder of wheels nor in its index: "
    "give WHEELS=<folder that holds it>, or PIP_EXTRA_INDEX_URL=<an index of CPU builds>, or TORCH=cuda.\n"
)


def main() -> None:
    """`install.py dependencies --extra NAME`, `code PACKAGE` or `wheel NAME`; exits with pip's status."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dependencies = commands.add_parser("dependencies")
    dependencies.add_argument("--extra", required=True)
    dependencies.add_argument("--leave-out", action="append", default=[])
    dependencies.add_argument("--torch", choices=("cpu", "cuda"))
    code = commands.add_parser("code")
    code.add_argument("package")
    code.add_argument("--agent", action="store_true")
    wheel = commands.add_parser("wheel")
    wheel.add_argument("name")
    given = parser.parse_args()
    if given.command == "dependencies":
        install_dependencies(given.extra, given.leave_out, given.torch)
    elif given.command == "code":
        install_code(given.package, given.agent)
    else:
        sys.exit(install([given.name]))


def install_dependencies(extra: str, leave_out: list[str], torch: str | None) -> None:
    """Make the virtual environment with what `extra` of pyproject.toml needs, in the versions of requirements.lock."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    wanted = [line for line in wanted if re.split(r"[\[<>=!~ ;]", line, maxsplit=1)[0] not in leave_out]
    locked = dict(line.split("==") for line in Path("requirements.lock").read_text("utf-8").split() if "==" in line)
    if torch == "cpu":
        wanted.append(f"torch=={locked['torch']}+cpu")
    status = install(wanted)
    if status:
        if torch == "cpu":
            sys.stderr.write(NO_TORCH.format(locked["torch"]))
        sys.exit(status)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(VENV), "installed_base": str(VENV)}))
    (packages / "dlcloud.pth").write_text(f"{LIB}\n", "utf-8")
    for path in [path for pattern in UNUSED for path in packages.glob(pattern)]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    finish(VENV)


def install(wanted: list[str]) -> int:
    """Make the virtual environment and put these and what they need into it, in the versions of requirements.lock."""
    venv.create(VENV, with_pip=False, symlinks=True)
    # No source distribution: it would need a compiler, and would not be the same everywhere.
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check", "install"]
    pip += ["--no-compile", "--no-warn-script-location", "--only-binary", ":all:", "-c", "requirements.lock"]
    return subprocess.call([*pip, "--find-links", str(WHEELS), *wanted], env={**os.environ, **secrets()})


def install_code(package: str, agent: bool) -> None:
    """Put `package` of the working folder where the virtual environment looks for it; with `agent`, agent.pyz too."""
    LIB.mkdir(parents=True)
    shutil.copytree(package, LIB / package)
    write_metadata()
    shutil.copy("LICENSE", HOME)
    if agent:
        module = [str(PYTHON), "-B", "-m", f"{package}.agent_build", str(HOME / "agent.pyz")]
        subprocess.run(module, check=True)
    finish(HOME)


def write_metadata() -> None:
    """Say what importlib.metadata is asked for: the version of the distribution that the package belongs to."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    folder = LIB / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir()
    said = f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(said, "utf-8")


def secrets() -> dict[str, str]:
    """What pip is told of this machine."""
    given = {path.name.upper(): path for path in SECRETS.glob("pip_*")}
    files = {name: str(path) for name, path in given.items() if name in FILES}
    return files | {name: path.read_text("utf-8").strip() for name, path in given.items() if name not in FILES}


def finish(folder: Path) -> None:
    """Compile for a fast start on a read-only file system, and make times and modes the same in every build."""
    # Unchecked: no look at the source at each import. Quiet: some packages hold files for other versions of Python.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, workers=0, rx=UNCOMPILED, invalidation_mode=unchecked)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (EPOCH_S, EPOCH_S), follow_symlinks=False)


if __name__ == "__main__":
    main()
