"""What is executed for a container: variables, references, interpreter, GPUs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dlcloud.local.environment import Launch, base_environment, build_launch, expand
from dlcloud.local.facts import NotReady, Objects, PodFacts
from dlcloud.local.gpus import GpuPool, visible_gpus
from dlcloud.local.tokens import LocalTokens
from dlcloud.local.volumes import PathMap
from dlcloud_operator.engine.rendezvous.auth import PodIdentity, Unauthorized

FACTS = PodFacts("default", "demo-0-1", "uid")


def launch(container: dict[str, Any]) -> Launch:
    return build_launch({"name": "trainer", **container}, {}, PathMap({}), FACTS, Objects(), "/venv/bin/python")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$", "$"),
        ("$A ${A}", "$A ${A}"),
        ("$(A", "$(A"),
    ],
)
def test_references_follow_the_kubelets_rules(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


@pytest.mark.parametrize(
    ("program", "expected"), [("python3", "/venv/bin/python"), ("python", "/venv/bin/python"), ("bash", "bash")]
)
def test_python_means_the_given_interpreter(program: str, expected: str) -> None:
    assert launch({"command": [program, "-S"], "args": ["python"]}).command == (expected, "-S", "python")


def test_resources_are_given_in_units_of_the_divisor_and_rounded_up() -> None:
    def ref(resource: str, divisor: str) -> dict[str, Any]:
        return {"valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}

    env = [{"name": "CPUS", **ref("limits.cpu", "1")}, {"name": "MIB", **ref("limits.memory", "1Mi")}]
    limits = {"limits": {"cpu": "1500m", "memory": "2Gi"}}
    assert launch({"command": ["x"], "env": env, "resources": limits}).env == {"CPUS": "2", "MIB": "2048"}


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    env = [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.hostname"}}}]
    with pytest.raises(NotReady, match=r"'status\.hostname' is unknown; one of metadata\.name"):
        launch({"command": ["x"], "env": env})


def test_a_container_without_a_command_is_told_to_have_one() -> None:
    with pytest.raises(NotReady, match=r"'trainer' has no command.*give it a command"):
        launch({"args": ["x"]})


def test_only_aws_settings_pass_and_only_when_shared() -> None:
    own = {"AWS_PROFILE": "me", "TZ": "UTC", "OTHER": "x", "PATH": "/bin", "DLCLOUD_CACHE": "/c"}
    plain = {"TZ": "UTC", "PATH": "/venv/bin:/bin", "DLCLOUD_CACHE": "/c"}
    assert base_environment(own, "/venv/bin/python", True) == plain | {"AWS_PROFILE": "me"}
    assert base_environment(own, "/venv/bin/python", False) == plain


@pytest.mark.parametrize(
    ("own", "folder"),
    [
        ({"HOME": "/home/me"}, "/home/me/.cache/dlcloud/data"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "/fast"}, "/fast/dlcloud/data"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "relative"}, "/home/me/.cache/dlcloud/data"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "/fast", "DLCLOUD_CACHE": "/data/cache"}, "/data/cache"),
    ],
)
def test_all_pods_of_all_runs_share_the_users_cache_for_data(own: dict[str, str], folder: str) -> None:
    assert base_environment(own, "/venv/bin/python", False)["DLCLOUD_CACHE"] == folder
    assert base_environment(own | {"DLCLOUD_CACHE_BYTES": "5"}, "python", False)["DLCLOUD_CACHE_BYTES"] == "5"


@pytest.mark.parametrize(("setting", "expected"), [("0,3", ("0", "3")), ("", ()), ("-1", ()), ("GPU-8f", ("GPU-8f",))])
def test_cuda_visible_devices_of_the_user_bounds_the_gpus(setting: str, expected: tuple[str, ...]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": setting}) == expected


def test_without_it_all_device_files_count_and_no_others(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ("0", "1")


def test_asking_again_gives_a_pod_the_same_gpus() -> None:
    pool, container = GpuPool(["0", "1"]), {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    assert [pool.take("a", container), pool.take("a", container), pool.take("b", container)] == ["0", "0", "1"]


def test_a_token_is_worth_nothing_once_revoked_and_others_stay() -> None:
    tokens = LocalTokens()
    one, other = PodIdentity("default", "a", "1"), PodIdentity("default", "b", "2")
    first, second = tokens.issue(one), tokens.issue(other)
    tokens.revoke("1")
    assert asyncio.run(tokens.identify(second)) == other
    for wrong in (first, "", second + "x"):
        with pytest.raises(Unauthorized):
            asyncio.run(tokens.identify(wrong))
