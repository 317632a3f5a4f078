"""Which cluster and which engine tests/cluster takes, as the environment says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..cluster import place, way
from ..cluster.engine import ClusterError, Engine, cluster_folder, find_engine, in_cluster_nodes
from ..cluster.images import Images

IMAGES = Images("localhost/operator:1", "localhost/trainer:1", "localhost/s3:1", "localhost/prometheus:1")
VARIABLES = (
    "KUBECONFIG",
    "CONTAINER",
    place.NAME,
    way.CHOICE,
    *(f"DLCLOUD_E2E_{part}_IMAGE" for part in ("OPERATOR", "TRAINER", "S3", "PROMETHEUS")),
)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return monkeypatch


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text("{}")
    return path


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    folder.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_given_kubeconfig_is_taken_with_the_images_that_are_named(
    environment: pytest.MonkeyPatch, kubeconfig: Path
) -> None:
    environment.setenv("KUBECONFIG", str(kubeconfig))
    environment.setenv("DLCLOUD_E2E_OPERATOR_IMAGE", "registry.example/operator:1")
    environment.setenv("DLCLOUD_E2E_TRAINER_IMAGE", "registry.example/trainer:1")
    environment.setenv("DLCLOUD_E2E_S3_IMAGE", "registry.example/s3:1")
    found = place.current()
    assert (found.kind, found.kubeconfig, found.engine) == ("given", kubeconfig, None)
    assert found.images.operator == "registry.example/operator:1"
    assert found.images.s3 == "registry.example/s3:1"
    assert found.images.prometheus.startswith("docker.io/prom/prometheus:")


@pytest.mark.parametrize("named", [(), ("OPERATOR",), ("TRAINER",)])
def test_a_given_cluster_without_our_images_is_refused_by_the_missing_names(
    environment: pytest.MonkeyPatch, kubeconfig: Path, named: tuple[str, ...]
) -> None:
    environment.setenv("KUBECONFIG", str(kubeconfig))
    for part in named:
        environment.setenv(f"DLCLOUD_E2E_{part}_IMAGE", "registry.example/x:1")
    with pytest.raises(ClusterError) as refusal:
        place.current()
    for part in ("OPERATOR", "TRAINER"):
        assert (f"DLCLOUD_E2E_{part}_IMAGE" in str(refusal.value)) == (part not in named)


def test_a_kubeconfig_that_is_not_there_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ClusterError, match="there is no file"):
        place.current()


def test_a_cluster_of_ours_that_is_asked_for_goes_before_a_given_kubeconfig(
    environment: pytest.MonkeyPatch, kubeconfig: Path
) -> None:
    environment.setenv("KUBECONFIG", str(kubeconfig))
    environment.setenv(place.NAME, "mine")
    assert place.given_kubeconfig() is None
    with pytest.raises(ClusterError, match="there is no cluster mine"):
        place.current()


def test_our_own_kubeconfig_in_the_environment_is_not_somebody_elses(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KUBECONFIG", str(place.kubeconfig_of("dlcloud")))
    assert place.given_kubeconfig() is None


def test_what_up_wrote_is_read_again(environment: pytest.MonkeyPatch) -> None:
    made = place.Made("offline", "localhost/dlcloud-node:1", 2, IMAGES)
    place.write("mine", made)
    assert place.read("mine") == made
    assert place.read("other") is None
    place.forget("mine")
    assert place.read("mine") is None


def test_a_cluster_of_our_name_that_somebody_else_made_is_not_touched() -> None:
    place.refuse_others("mine", [])
    with pytest.raises(ClusterError, match="was not made here"):
        place.refuse_others("mine", ["mine-control-plane"])
    place.claim("mine")
    place.refuse_others("mine", ["mine-control-plane"])
    place.release("mine")
    with pytest.raises(ClusterError, match="was not made here"):
        place.refuse_others("mine", ["mine-control-plane"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "offline"}', '{"kind": "offline", "images": {"old": ""}}'])
def test_what_another_version_wrote_means_that_no_cluster_is_complete(text: str) -> None:
    path = place.home("mine") / place.MADE
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert place.read("mine") is None


def test_the_way_can_be_chosen_and_only_from_what_there_is(environment: pytest.MonkeyPatch) -> None:
    engine = Engine(Path("/nowhere/docker"), {})
    environment.setenv(way.CHOICE, "offline")
    assert way.choose(engine, print) == way.OFFLINE
    environment.setenv(way.CHOICE, "online")
    with pytest.raises(ClusterError, match=r"'online' is not known; give stock .* or offline"):
        way.choose(engine, print)


@pytest.mark.parametrize(("registry", "chosen"), [("exit 0", way.STOCK), ("exit 1", way.OFFLINE)])
def test_the_registry_is_asked_once(tmp_path: Path, registry: str, chosen: str) -> None:
    answer = f'[ "$1" = manifest ] || exit 1; echo "$@" >>{tmp_path}/asked; {registry}'
    engine = Engine(program(tmp_path / "bin", "docker", answer), os.environ)
    said: list[str] = []
    assert [way.choose(engine, said.append) for _ in range(3)] == [chosen] * 3
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    assert len(said) == 1


def test_docker_is_taken_where_its_daemon_answers(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "bin", "docker", "exit 0")
    environment.setenv("PATH", str(tmp_path / "bin"))
    assert find_engine().name == "docker"


def test_without_an_engine_the_message_names_each_and_what_to_install(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path / "bin", "docker", "echo Cannot connect to the Docker daemon >&2; exit 1")
    environment.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ClusterError) as refusal:
        find_engine()
    told = str(refusal.value)
    assert "docker's daemon does not answer (Cannot connect to the Docker daemon)" in told
    assert "podman is not on the PATH" in told
    assert "apt-get install --no-install-recommends podman runc" in told


def test_an_engine_that_is_none_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CONTAINER", "lxc")
    with pytest.raises(ClusterError, match="CONTAINER: 'lxc' is no container engine; give docker or podman"):
        find_engine()


def test_an_engines_failure_tells_the_command_and_the_end_of_its_output(tmp_path: Path) -> None:
    engine = Engine(program(tmp_path / "bin", "podman", "echo no such image >&2; exit 3"), {})
    with pytest.raises(ClusterError, match=r"podman rmi x: exit code 3\nno such image"):
        engine.run("rmi", "x")
    assert not engine.has_image("x")


def test_an_engine_that_hangs_is_given_up(tmp_path: Path) -> None:
    engine = Engine(program(tmp_path / "bin", "podman", "exec sleep 60"), os.environ)
    with pytest.raises(ClusterError, match=r"no end within 0\.2 s"):
        engine.run("ps", timeout_s=0.2)


def test_nodes_are_those_of_the_named_cluster_sorted(tmp_path: Path) -> None:
    script = '[ "$4" = label=io.x-k8s.kind.cluster=mine ] && printf "b\\na\\n"'
    engine = Engine(program(tmp_path / "bin", "podman", script), {})
    assert in_cluster_nodes(engine, "mine") == ["a", "b"]


def test_everything_is_kept_in_one_folder_of_the_cache(tmp_path: Path) -> None:
    assert cluster_folder() == tmp_path / "cache" / "dlcloud" / "cluster"
    assert place.home("mine").is_relative_to(cluster_folder())
