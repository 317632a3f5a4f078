"""The parts of tests/cluster that decide: versions, kind's and podman's configuration, which images a node lacks."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..cluster import kind, loading, node_image, podman, programs, values, versions
from ..cluster.images import Images
from ..cluster.podman import Host

OURS = Host(cgroup_v2=True, systemd=True, may_raise_limits=True, open_files=None, processes=None, has_runc=True)


def documents(*, offline: bool, workers: int = 2) -> tuple[Any, list[Any]]:
    config = yaml.safe_load(kind.configuration(offline=offline, workers=workers))
    return config, [yaml.safe_load(patch) for patch in config["kubeadmConfigPatches"]]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("offline", [True, False])
def test_a_cluster_has_one_control_plane_and_the_workers_asked_for(offline: bool, workers: int) -> None:
    config, _ = documents(offline=offline, workers=workers)
    assert [node["role"] for node in config["nodes"]] == ["control-plane"] + ["worker"] * workers


def test_offline_kubeadm_asks_for_the_images_that_are_in_the_node() -> None:
    _, (cluster, kubelet) = documents(offline=True)
    assert cluster["imageRepository"] == node_image.REPOSITORY
    assert cluster["etcd"]["local"]["imageTag"] == versions.ETCD
    assert cluster["dns"]["imageTag"] == versions.COREDNS
    assert (kubelet["failCgroupV1"], kubelet["cgroupDriver"], kubelet["oomScoreAdj"]) == (False, "cgroupfs", 0)


def test_the_stock_node_keeps_its_own_images_and_settings() -> None:
    _, patches = documents(offline=False)
    assert patches == [
        {
            "kind": "ClusterConfiguration",
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "etcd": {"local": {"extraArgs": [{"name": "unsafe-no-fsync", "value": "true"}]}},
        }
    ]


def test_names_in_the_node_are_those_that_its_configuration_uses() -> None:
    rootfs = node_image.NODE / "rootfs"
    used = {
        found
        for path in rootfs.rglob("*")
        if path.is_file()
        for found in re.findall(rf"{node_image.REPOSITORY}/([a-z-]+):1\b", path.read_text())
    }
    assert used == {"pause", "netd", "busybox", "local-path-provisioner"}


def test_units_that_are_enabled_are_there_and_not_masked() -> None:
    folder = node_image.NODE / "rootfs" / "etc" / "systemd" / "system"
    masked = (node_image.NODE / "masked-units").read_text().split()
    for unit in node_image.UNITS:
        assert (folder / f"{unit}.service").is_file()
        assert f"{unit}.service" not in masked


def test_a_machine_that_lets_everything_needs_few_settings() -> None:
    told: Any = tomllib.loads(podman.configuration(OURS))
    assert told == {"containers": {"pids_limit": 0}, "engine": {}, "network": {"network_backend": "netavark"}}


def test_limits_stay_below_what_podman_may_set() -> None:
    host = dataclasses.replace(OURS, may_raise_limits=False, open_files=20_000, processes=96_365)
    told: Any = tomllib.loads(podman.configuration(host))
    assert told["containers"]["default_ulimits"] == ["nofile=20000:20000", "nproc=30000:30000"]


def test_hybrid_cgroups_get_runc_and_no_systemd_gets_plain_cgroups() -> None:
    told: Any = tomllib.loads(podman.configuration(dataclasses.replace(OURS, cgroup_v2=False, systemd=False)))
    assert told["engine"] == {"runtime": "runc", "cgroup_manager": "cgroupfs", "events_logger": "file"}


def test_a_capability_is_read_from_the_effective_set() -> None:
    status = "CapPrm:\t000001ffffffffff\nCapEff:\t{}\n"
    assert podman.has_capability(status.format("0000000001000000"), podman.CAP_SYS_RESOURCE)
    assert not podman.has_capability(status.format("000001fffeffffff"), podman.CAP_SYS_RESOURCE)


def test_a_digest_changes_with_content_name_and_mode_and_with_nothing_else(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("one")
    second.write_text("two")
    before = versions.digest([first, second], tmp_path)
    first.touch()
    assert versions.digest([second, first], tmp_path) == before
    first.chmod(0o755)
    with_mode = versions.digest([first, second], tmp_path)
    second.write_text("three")
    with_content = versions.digest([first, second], tmp_path)
    with_name = versions.digest([first, second.rename(tmp_path / "c")], tmp_path)
    assert len({before, with_mode, with_content, with_name}) == 4


def test_every_version_is_one_that_a_go_sum_has_a_checksum_for() -> None:
    for module, version in (
        ("sigs.k8s.io/kind", versions.KIND),
        ("github.com/containerd/containerd/v2", versions.CONTAINERD),
        ("github.com/coredns/coredns", versions.COREDNS),
    ):
        assert f"{module} {version} h1:" in (versions.NODE_MODULE / "go.sum").read_text()
    assert f"k8s.io/kubernetes {versions.KUBERNETES} h1:" in (versions.KUBE_MODULE / "go.sum").read_text()


def test_a_program_of_another_module_is_a_tool_that_tidying_keeps() -> None:
    for module in (programs.KUBERNETES, programs.KIND, programs.NODE, programs.STORAGE):
        tools = (module.folder / "go.mod").read_text()
        for name, package in module.packages.items():
            own = module.folder / name / "main.go"
            assert re.search(rf"^\t{re.escape(package)}$", tools, re.M) or own.is_file(), package


IDS = {"localhost/a:1": "one", "redis:8": "two"}
NAMES = {"localhost/a:1", "docker.io/library/redis:8"}


def test_a_node_that_has_every_image_is_sent_none() -> None:
    assert loading.missing(IDS, dict(IDS), NAMES) == []


def test_an_image_that_was_built_again_is_sent_again() -> None:
    assert loading.missing(IDS, {**IDS, "localhost/a:1": "other"}, NAMES) == ["localhost/a:1"]


def test_an_image_that_the_node_has_thrown_away_is_sent_again() -> None:
    assert loading.missing(IDS, dict(IDS), {"localhost/a:1"}) == ["redis:8"]


def test_an_image_that_came_another_way_is_sent_once() -> None:
    assert loading.missing(IDS, {}, NAMES) == sorted(IDS)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("localhost/a:1", "localhost/a:1"),
        ("redis:8", "docker.io/library/redis:8"),
        ("prom/prometheus:v3", "docker.io/prom/prometheus:v3"),
        ("quay.io/a/b:1", "quay.io/a/b:1"),
        ("registry:5000/a:1", "registry:5000/a:1"),
    ],
)
def test_an_image_is_looked_for_under_the_name_that_containerd_gives_it(image: str, name: str) -> None:
    assert loading.full_name(image) == name


def test_the_charts_values_name_each_image_as_the_nodes_have_it(tmp_path: Path) -> None:
    images = Images("localhost/operator:1-a", "registry:5000/trainer:2", "s3:3", "prometheus")
    told = yaml.safe_load(values.write_values(tmp_path, images).read_text())
    assert told == values.chart_values(images)
    assert told["image"] == {"repository": "localhost/operator", "tag": "1-a", "pullPolicy": "IfNotPresent"}
    assert told["trainerImage"]["repository"] == "registry:5000/trainer"
    assert told["s3"]["seaweedfs"]["image"]["tag"] == "3"
    assert values.image_value("registry:5000/trainer")["tag"] == "latest"


def test_the_charts_values_are_keys_that_the_chart_has(tmp_path: Path) -> None:
    chart = yaml.safe_load((versions.HERE.parents[1] / "charts" / "values.yaml").read_text())
    told = values.chart_values(Images("a:1", "b:1", "c:1", "d:1"))
    assert told.keys() <= chart.keys()
    assert told["image"].keys() <= chart["image"].keys()
    assert told["trainerImage"].keys() <= chart["trainerImage"].keys()
    assert told["s3"]["seaweedfs"]["image"].keys() <= chart["s3"]["seaweedfs"]["image"].keys()
