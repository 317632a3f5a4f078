"""What can be wrong in a Dockerfile without a build telling: the long tests of the images are in tests/integration."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dlcloud_operator.engine.render import RenderSettings

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("operator", "trainer")
POD = (ROOT / "operator/dlcloud_operator/engine/templates/pod.yaml.j2").read_text()


def instructions(part: str) -> list[str]:
    """The instructions of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in (ROOT / part / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    return [line for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line]


def last_stage(part: str) -> list[str]:
    lines = instructions(part)
    return lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]


def sources(part: str) -> list[str]:
    """What a Dockerfile takes from the repository."""
    copies = [line.split()[1:-1] for line in instructions(part) if line.startswith("COPY ") and "--from" not in line]
    mounted = re.findall(r"--mount=type=bind,source=([^,]+),", "\n".join(instructions(part)))
    return [path for paths in copies for path in paths] + mounted


@pytest.mark.parametrize("part", PARTS)
def test_what_is_copied_exists_and_the_ignore_file_lets_it_through(part: str) -> None:
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    passed = [line[1:] for line in ignore if line.startswith("!")]
    assert sources(part)
    for source in sources(part):
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in passed), f"{source} is not in the build's context"


@pytest.mark.parametrize("part", PARTS)
def test_the_base_is_an_argument_and_the_user_the_number_that_pods_demand(part: str) -> None:
    lines = instructions(part)
    assert lines[0].startswith("ARG BASE_IMAGE=")
    assert last_stage(part)[0] == "FROM environment"
    assert "FROM ${BASE_IMAGE} AS environment" in lines
    (user,) = [line.split()[1] for line in last_stage(part) if line.startswith("USER ")]
    (demanded,) = set(re.findall(r"runAsUser: (\d+)", POD))
    assert user == f"{demanded}:{demanded}", "runAsNonRoot refuses a user by name"


@pytest.mark.parametrize("part", PARTS)
def test_both_images_have_the_same_base_and_name_no_registry(part: str) -> None:
    base = instructions(part)[0].removeprefix("ARG BASE_IMAGE=")
    assert base == instructions("operator")[0].removeprefix("ARG BASE_IMAGE=")
    assert "/" not in base


def test_pods_look_for_the_agent_where_the_trainer_image_has_it() -> None:
    (entry,) = [line for line in last_stage("trainer") if line.startswith("ENTRYPOINT ")]
    assert RenderSettings(rendezvous_url="").agent_path in entry
    assert "command: [python3, -S, -E, " in POD
    assert '["python3", "-S", "-E", ' in entry
