"""The two images, built with the docker or podman of this machine from a base image that is here, and run as pods run
them: another user, a read-only root, no network, no capabilities. Needs BASE_IMAGE, or one of `BASES` to be here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.workloads import find_workload

from .agent.conftest import JOB_UID, Rendezvous, round_of, script_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
BASES = ("python:3.12-slim-bookworm", "localhost/debian-python:bookworm")
PREFIX = "localhost/dlcloud-test-"  # stays on the machine: its layers make the next run quick
USER = "65532:65532"
AS_A_POD = ["--rm", "--read-only", "--user", USER, "--cap-drop", "all", "--security-opt", "no-new-privileges"]
OPERATOR_LIMIT_BYTES = 150e6


@dataclass(frozen=True)
class Container:
    """A container program that works, and a base image it has."""

    program: str
    base: str
    python: str  # "311": what the base has

    def call(self, *args: str, limit_s: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **more}
        return subprocess.run([self.program, *args], capture_output=True, text=True, timeout=limit_s, env=env)

    def run(self, image: str, command: str, *args: str, options: tuple[str, ...] = ()) -> str:
        """What a command in a container as a pod's wrote to standard output; fails when it does not exit with 0."""
        done = self.call("run", *AS_A_POD, "--network", "none", *options, "--entrypoint", command, image, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inspect(self, image: str) -> dict[str, object]:
        return dict(json.loads(self.call("image", "inspect", image).stdout)[0])

    def size(self, image: str) -> int:
        return int(str(self.inspect(image)["Size"]))

    def build(self, part: str, **settings: str) -> str:
        env = {
            "CONTAINER": self.program,
            "BASE_IMAGE": self.base,
            "IMAGE_PREFIX": PREFIX,
            "VERSION": "test",
            **settings,
        }
        done = subprocess.run(
            ["images/build.sh", part], cwd=ROOT, capture_output=True, text=True, timeout=840, env={**os.environ, **env}
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return f"{PREFIX}{part}:test"


@pytest.fixture(scope="module")
def container() -> Container:
    programs = [os.environ["CONTAINER"]] if os.environ.get("CONTAINER") else ["docker", "podman"]
    reasons = []
    for program in programs:
        if shutil.which(program) is None:
            reasons.append(f"{program} is not on the PATH")
            continue
        bases = [os.environ["BASE_IMAGE"]] if os.environ.get("BASE_IMAGE") else BASES
        for base in bases:
            ask = [program, "run", "--rm", "--pull", "never", "--entrypoint", "python3", base, "-c"]
            tell = "import sys; print(*sys.version_info[:2], sep='')"
            done = subprocess.run([*ask, tell], capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return Container(program, base, done.stdout.strip())
            said = [line for line in done.stderr.splitlines() if line and not line.startswith("Run ")]
            reasons.append(f"{program}, {base}: {(said or ['no reason given'])[-1]}")
    return pytest.skip("no container program with a base image works here: " + "; ".join(reasons))


@pytest.fixture(scope="module")
def operator_image(container: Container) -> str:
    return container.build("operator")


@pytest.fixture(scope="module")
def trainer_image(container: Container) -> str:
    folders = [os.environ.get("WHEELS", ""), *os.environ.get("PIP_FIND_LINKS", "").split()]
    pattern = f"torch-*+cpu-cp{container.python}-*.whl"
    wheels = next((folder for folder in folders if folder and list(Path(folder).glob(pattern))), "")
    if not wheels:
        pytest.skip(f"no {pattern} in WHEELS or PIP_FIND_LINKS; the default build of torch would be 5.6 GB")
    return container.build("trainer", WHEELS=wheels)


@pytest.fixture(params=["operator", "trainer"])
def image(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_image"))


def test_the_operator_adds_at_most_150_mb_to_its_base(container: Container, operator_image: str) -> None:
    assert container.size(operator_image) - container.size(container.base) <= OPERATOR_LIMIT_BYTES


def test_the_operator_starts_without_a_place_to_write(container: Container, operator_image: str) -> None:
    done = container.call("run", *AS_A_POD, "--network", "none", operator_image, "--help")
    assert done.returncode == 0, done.stderr
    assert "--watch-namespace" in done.stdout


def test_the_operator_tells_the_version_that_it_was_built_from(container: Container, operator_image: str) -> None:
    told = container.run(
        operator_image, "python3", "-c", "from importlib.metadata import version; print(version('dlcloud'))"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert told.strip() == project["version"]


def test_the_operators_own_modules_and_what_they_import_are_compiled(container: Container, operator_image: str) -> None:
    program = (
        "import importlib, os, pkgutil, sys, dlcloud_operator as package\n"
        "for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "found = [module for module in list(sys.modules.values()) if getattr(module, '__cached__', None)]\n"
        "found = [module.__cached__ for module in found if module.__file__.startswith('/opt/')]\n"
        "print(len(found), *[path for path in found if not os.path.exists(path)])\n"
    )
    number, *without = container.run(operator_image, "python3", "-c", program).split()
    assert int(number) > 100
    assert without == []


def test_a_pod_that_demands_a_user_by_number_gets_it(container: Container, image: str) -> None:
    assert dict(container.inspect(image)["Config"])["User"] == USER  # type: ignore[call-overload]
    assert container.run(image, "python3", "-c", "import os; print(os.getuid(), os.getgid())").split() == ["65532"] * 2


def test_no_compiler_and_no_pip_is_left(container: Container, image: str) -> None:
    names = ["gcc", "cc", "c++", "g++", "clang", "ld", "as", "make", "pip", "pip3"]
    program = (
        f"import shutil, subprocess; print(*[name for name in {names} if shutil.which(name)])\n"
        "import sys; base = sys._base_executable\n"
        "for python in (sys.executable, base):\n"
        "    print(subprocess.call([python, '-c', 'import pip'], stderr=subprocess.DEVNULL))\n"
    )
    assert container.run(image, "python3", "-c", program).split() == ["1", "1"]


def test_labels_say_what_the_image_is_and_of_which_sources(container: Container, image: str) -> None:
    labels = dict(dict(container.inspect(image)["Config"])["Labels"])  # type: ignore[call-overload]
    told = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert told["title"] in image.replace("test-", "")
    assert told["version"] == "test"
    assert told["licenses"] == "Apache-2.0"
    assert told["base.name"] == container.base
    assert re.fullmatch("[0-9a-f]{40}|unknown", told["revision"])
    assert {"description", "source"} <= told.keys()


def test_the_build_leaves_no_trace_of_this_machines_settings_of_pip(container: Container, image: str) -> None:
    told = json.dumps(container.inspect(image)) + container.call("history", "--no-trunc", image).stdout
    assert os.environ.get("PIP_INDEX_URL", "no index of its own") not in told
    program = (
        "import os, pathlib\n"
        "print(*[n for n in os.environ if n.startswith('PIP_')], *pathlib.Path('/').glob('run/secrets/*'),\n"
        "    *pathlib.Path('/').glob('wheels/*'), *pathlib.Path('/').glob('root/.cache/*'))\n"
    )
    assert container.run(image, "python3", "-c", program, options=("--user", "0")).split() == []


def test_the_agent_is_copied_out_by_an_init_container_and_runs_elsewhere(
    container: Container, trainer_image: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    container.run(
        trainer_image,
        "cp",
        "/opt/dlcloud/agent.pyz",
        "/bin-volume/agent.pyz",
        options=("-v", f"{tmp_path}:/bin-volume"),
    )
    done = subprocess.run(
        ["python3", "-S", "-E", str(tmp_path / "agent.pyz")],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 64
    assert "DLCLOUD_RENDEZVOUS_URL is not set" in done.stderr


def test_the_trainer_trains_with_its_own_agent_on_a_read_only_root(
    container: Container, trainer_image: str, rendezvous: Rendezvous, tmp_path: Path
) -> None:
    name = "job-0-1"
    (tmp_path / "token").write_text(f"token-of-{name}\n")
    tmp_path.chmod(0o755)
    scratch = "/dlcloud/scratch"
    env = {
        "DLCLOUD_RENDEZVOUS_URL": rendezvous.url, "DLCLOUD_TOKEN_FILE": "/dlcloud/token/token", "DLCLOUD_POD": name,
        "DLCLOUD_NAMESPACE": "default", "DLCLOUD_JOB": "job", "DLCLOUD_JOB_UID": JOB_UID, "DLCLOUD_INDEX": "0",
        "DLCLOUD_POD_UID": "uid", "DLCLOUD_POD_IP": "127.0.0.1", "DLCLOUD_WORKLOAD": "cnn", "DLCLOUD_DRAIN_S": "1",
        "HOME": scratch, "USER": "dlcloud", "TMPDIR": "/tmp",
    }  # fmt: skip
    options = [f"--env={key}={value}" for key, value in env.items()]
    options += ["-v", f"{tmp_path}:/dlcloud/token:ro", "--network", "host", "--name", f"dlcloud-test-{os.getpid()}"]
    options += [f"--tmpfs={folder}:mode=1777" for folder in (scratch, "/tmp")]
    given = parse_parameters(find_workload("cnn"), {"epochs": 1, "architecture": "conv8"}).model_dump(by_alias=True)
    job = script_job(
        [], workload="cnn", script=None, parameters=given, data={"uri": "builtin://digits"}, objectStore=None
    )
    command = ["python3", "-S", "-E", "/opt/dlcloud/agent.pyz"]
    agent = subprocess.Popen(
        [container.program, "run", *AS_A_POD, *options, "--entrypoint", command[0], trainer_image, *command[1:]]
    )
    try:
        first = rendezvous.report(name, lambda report: report["port"])
        rendezvous.tell(name, round_of(1, job, masterPort=first["port"]))
        result = rendezvous.result(name, 1, limit_s=60)
        assert result["outcome"] == "Succeeded", result["message"]
        rendezvous.tell(name, {"kind": "finished", "phase": "Succeeded"})
        assert agent.wait(30) == 0
    finally:
        container.call("rm", "-f", f"dlcloud-test-{os.getpid()}")
        agent.wait(30)


@pytest.fixture
def rendezvous() -> Iterator[Rendezvous]:
    server = Rendezvous()
    yield server
    server.close()
