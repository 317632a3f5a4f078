"""What `dlcloud doctor` makes of facts: of drivers and torch, of clocks, of quotas and nodes, of definitions."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dlcloud.doctor import machine
from dlcloud.doctor.cluster import judge_crd
from dlcloud.doctor.cluster_job import judge_fit, judge_quota
from dlcloud.doctor.findings import State
from dlcloud.doctor.local_job import judge_size
from dlcloud.doctor.quantities import quantity
from dlcloud.doctor.references import references
from dlcloud.doctor.stores import judge_clock
from dlcloud.doctor.torch_checks import judge_gpus
from dlcloud_operator.api import TrainingJob, TrainingJobSpec
from dlcloud_operator.api.crd import build_crd

GIB = 1 << 30
CUDA_TORCH: dict[str, Any] = {"torch": "2.13.0", "cuda": "13.0", "rocm": "", "nccl": True, "gpus": [], "gpuError": ""}
SMI = "| NVIDIA-SMI 550.1   Driver Version: 550.1   CUDA Version: {0} |"
ONE = {"name": "H200", "freeBytes": 100 * GIB, "totalBytes": 139 * GIB, "computes": True}


def spec(**fields: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate({"workload": "cnn", "data": {"uri": "builtin://digits"}, **fields})


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


# --- GPUs ---


def test_a_gpu_that_computes_is_well() -> None:
    finding = judge_gpus({**CUDA_TORCH, "gpus": [ONE, ONE]}, 2, SMI.format("13.1"))
    assert finding.state is State.OK
    assert "2 x H200, 100.0 GiB free of 139.0 GiB, driver 550.1, for CUDA up to 13.1" in finding.message


@pytest.mark.parametrize(
    ("facts", "smi", "state", "words"),
    [
        ({"cuda": ""}, SMI.format("13.1"), State.WARN, "install a CUDA build"),
        ({"cuda": "", "rocm": "6.2"}, SMI.format("13.1"), State.WARN, "ROCm"),
        ({"gpuError": "driver too old"}, SMI.format("12.2"), State.FAIL, "torch needs CUDA 13.0: update the driver"),
        ({"gpuError": "no device"}, "", State.FAIL, "--gpus all"),
        ({"gpuError": "busy"}, SMI.format("13.1"), State.FAIL, "another program may hold the GPU"),
        ({"gpus": [{**ONE, "computes": False}]}, SMI.format("13.1"), State.FAIL, "wrong sums"),
        ({"gpus": [ONE], "nccl": False}, SMI.format("13.1"), State.WARN, "no NCCL"),
    ],
    ids=["CPU build", "ROCm build", "driver too old", "no driver", "busy", "broken", "no NCCL"],
)
def test_a_gpu_that_cannot_be_used_says_why(facts: dict[str, Any], smi: str, state: State, words: str) -> None:
    finding = judge_gpus({**CUDA_TORCH, **facts}, 1, smi)
    assert finding.state is state
    assert words in f"{finding.message} {finding.remedy}"


# --- the machine ---


def test_a_containers_cpu_limit_is_read_from_both_cgroup_versions(tmp_path: Path) -> None:
    put(tmp_path / "2", "sys/fs/cgroup/cpu.max", "150000 100000\n")
    put(tmp_path / "1", "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n")
    put(tmp_path / "1", "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    put(tmp_path / "none", "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert [machine.cpu_limit(tmp_path / name) for name in ("2", "1", "none", "missing")] == [1.5, 0.5, None, None]


@pytest.mark.parametrize(
    ("limit", "used", "stat"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ],
    ids=["v2", "v1"],
)
def test_memory_is_what_the_container_leaves(tmp_path: Path, limit: str, used: str, stat: str) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal: 99 kB\nMemAvailable: 8388608 kB\n")
    put(tmp_path, f"sys/fs/cgroup/{limit}", f"{2 * GIB}")
    put(tmp_path, f"sys/fs/cgroup/{used}", f"{2 * GIB - (100 << 20)}")
    put(tmp_path, f"sys/fs/cgroup/{Path(limit).parent / 'memory.stat'}", f"{stat} {50 << 20}\n")
    assert machine.memory_free(tmp_path) == (150 << 20, True)
    assert machine.memory(tmp_path).state is State.FAIL


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemAvailable: 8388608 kB\n")
    put(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert machine.memory_free(tmp_path) == (8 * GIB, False)


def test_missing_packages_come_with_the_extra_that_brings_them() -> None:
    finding = machine.packages({"no_such_module": ("x", "trainer"), "json": ("json", "operator")}, {})
    assert (finding.state, finding.remedy) == (State.FAIL, "pip install 'dlcloud[trainer]'")


def test_a_folder_where_nothing_can_be_written_fails() -> None:
    finding = machine.disk(Path("/proc/dlcloud/runs"), "DLCLOUD_HOME")
    assert finding.state is State.FAIL
    assert "set DLCLOUD_HOME to a folder on another disk" in finding.remedy


def test_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    assert machine.disk(tmp_path / "not" / "yet", "TMPDIR").state is not State.FAIL
    assert list(tmp_path.iterdir()) == []


# --- a job beside the machine ---


def job(**workers: Any) -> TrainingJob:
    document = {"workload": "cnn", "data": {"uri": "builtin://digits"}, "workers": workers}
    return TrainingJob.model_validate({"metadata": {"name": "a"}, "spec": document})


@pytest.mark.parametrize(
    ("workers", "state", "words"),
    [
        ({"count": 2}, State.OK, "there is room"),
        ({"count": 8}, State.WARN, "there are 4 cores"),
        ({"count": 2, "memory": "8Gi"}, State.WARN, "8.0 GiB of memory are free"),
        ({"count": 3, "gpus": 1}, State.FAIL, "add --workers 2"),
        ({"count": 1, "gpus": 4}, State.FAIL, "add --set workers.gpus=2"),
    ],
)
def test_a_jobs_size_is_judged_beside_the_machines(workers: dict[str, Any], state: State, words: str) -> None:
    finding = judge_size(job(**workers), cores=4, free_bytes=8 * GIB, gpus=2)
    assert finding.state is state
    assert words in f"{finding.message} {finding.remedy}"


# --- stores ---


@pytest.mark.parametrize(
    ("date", "state"),
    [
        ("Fri, 02 Jan 2026 03:04:05 GMT", State.OK),
        ("Fri, 02 Jan 2026 03:08:05 GMT", State.OK),
        ("Fri, 02 Jan 2026 03:14:05 GMT", State.FAIL),
        ("Fri, 02 Jan 2026 02:54:05 GMT", State.FAIL),
        ("", State.OK),
        ("yesterday", State.OK),
    ],
)
def test_a_clock_may_be_five_minutes_off(date: str, state: State) -> None:
    assert judge_clock("it answers", date, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)).state is state


def test_a_clock_that_is_off_says_in_which_direction() -> None:
    finding = judge_clock("it answers", "Fri, 02 Jan 2026 03:14:05 GMT", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert "10 minutes behind the server's" in finding.message


# --- clusters ---


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", 0.5), ("2", 2.0), ("2Gi", 2.0 * GIB), ("1e3", 1000.0), ("100n", 1e-7), ("12M", 12e6), ("x", 0.0)],
)
def test_a_servers_quantities_are_read(text: str, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


def quota(hard: dict[str, str], used: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}}


@pytest.mark.parametrize(
    ("hard", "used", "state"),
    [
        ({"requests.cpu": "4"}, {"requests.cpu": "2"}, State.OK),
        ({"requests.cpu": "4"}, {"requests.cpu": "2500m"}, State.FAIL),
        ({"limits.memory": "1Gi"}, {}, State.FAIL),
        ({"pods": "1"}, {}, State.FAIL),
        ({"requests.nvidia.com/gpu": "1"}, {}, State.FAIL),
        ({"services": "0"}, {}, State.OK),
    ],
)
def test_a_quota_must_leave_room_for_all_workers(hard: dict[str, str], used: dict[str, str], state: State) -> None:
    wanted = spec(workers={"count": 2, "cpu": "1", "memory": "1Gi", "gpus": 1})
    assert judge_quota(wanted, [quota(hard, used)]).state is state


def node(cpu: str, gpus: str = "0", **labels: str) -> dict[str, Any]:
    sizes = {"cpu": cpu, "memory": "8Gi", "pods": "110", "nvidia.com/gpu": gpus}
    return {"metadata": {"labels": labels}, "status": {"allocatable": sizes}}


def test_workers_must_fit_on_single_nodes() -> None:
    nodes = [node("3"), node("3")]
    assert judge_fit(spec(workers={"count": 2, "cpu": "2"}), nodes).state is State.OK
    finding = judge_fit(spec(workers={"count": 3, "cpu": "2"}), nodes)
    assert finding.state is State.FAIL, "6 CPU are there, but 2 + 1 on each node"
    assert finding.message.startswith("2 of 3 workers")


def test_only_nodes_that_are_selected_and_have_gpus_count() -> None:
    nodes = [node("8", "1", zone="a"), node("8", "1", zone="b"), node("8", "0", zone="a")]
    wanted = spec(workers={"count": 1, "gpus": 1}, scheduling={"nodeSelector": {"zone": "a"}})
    assert judge_fit(wanted, nodes).state is State.OK
    two = spec(workers={"count": 2, "gpus": 1}, scheduling={"nodeSelector": {"zone": "a"}})
    assert judge_fit(two, nodes).state is State.FAIL


def test_all_that_a_pod_template_names_is_looked_for_but_what_is_optional() -> None:
    container = {
        "name": "trainer",
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}],
        "envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s2", "optional": True}}],
    }
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "p1"}}, {"name": "e", "emptyDir": {}}]
    template = {"spec": {"serviceAccountName": "sa", "containers": [container], "volumes": volumes}}
    found = references(spec(podTemplate=template, objectStore={"credentialsSecret": "keys"}))
    assert [(one.kind, one.name) for one in found] == [
        ("Secret", "keys"),
        ("ServiceAccount", "sa"),
        ("PersistentVolumeClaim", "p1"),
        ("Secret", "s1"),
        ("ConfigMap", "c1"),
    ]


def changed(*path: str, value: Any = None) -> dict[str, Any]:
    crd = copy.deepcopy(build_crd())
    place = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return crd


@pytest.mark.parametrize(
    ("installed", "state", "words"),
    [
        (build_crd(), State.OK, "the same"),
        (changed("limits"), State.WARN, "older than this program: it lacks spec.limits"),
        (
            changed("teleport", value={"type": "boolean"}),
            State.WARN,
            "newer than this program: it also has spec.teleport",
        ),
        (changed("suspend", "type", value="string"), State.WARN, "other rules than this program for spec.suspend"),
        (changed("suspend", "description", value="other words"), State.OK, "the same"),
    ],
    ids=["same", "older", "newer", "other rules", "other words"],
)
def test_a_definition_is_compared_with_our_own(installed: dict[str, Any], state: State, words: str) -> None:
    finding = judge_crd(installed, build_crd())
    assert finding.state is state
    assert words in finding.message
