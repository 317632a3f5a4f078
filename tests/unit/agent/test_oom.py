"""Where the count of processes killed for memory is found, on trees of files like those of the kernel."""

from __future__ import annotations

from pathlib import Path

from dlcloud_trainer.agent.oom import find_counter, read_counter


def make(tmp_path: Path, cgroup: str, mounts: list[str], files: dict[str, str]) -> Path:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text("\n".join(mounts).replace("{tmp}", str(tmp_path)) + "\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return proc


V2 = "30 1 0:26 / {tmp}/cg rw,nosuid - cgroup2 cgroup rw"
EVENTS = "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n"


def test_version_2_in_a_namespace_of_its_own(tmp_path: Path) -> None:
    proc = make(tmp_path, "0::/\n", [V2], {"cg/memory.events": EVENTS})
    assert read_counter(find_counter(proc)) == 2


def test_version_2_below_the_mount(tmp_path: Path) -> None:
    proc = make(tmp_path, "0::/pod/a\n", [V2], {"cg/pod/a/memory.events": EVENTS})
    assert find_counter(proc) == tmp_path / "cg/pod/a/memory.events"


def test_version_1_with_the_hosts_paths_as_in_a_container(tmp_path: Path) -> None:
    mount = "35 31 0:32 /kubepods/pod1/c1 {tmp}/cg/memory ro - cgroup cgroup rw,memory"
    proc = make(
        tmp_path,
        "5:cpu,cpuacct:/kubepods/pod1/c1\n4:memory:/kubepods/pod1/c1\n",
        [mount],
        {"cg/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"},
    )
    assert read_counter(find_counter(proc)) == 7


def test_a_hybrid_host_is_read_where_its_memory_controller_is(tmp_path: Path) -> None:
    proc = make(
        tmp_path,
        "4:memory:/a\n0::/a\n",
        ["1 0 0:1 / {tmp}/uni rw - cgroup2 cgroup2 rw", "2 0 0:2 / {tmp}/mem rw - cgroup cgroup rw,memory"],
        {"mem/a/memory.oom_control": "oom_kill 1\n", "uni/a/cgroup.procs": ""},
    )
    assert find_counter(proc) == tmp_path / "mem/a/memory.oom_control"


def test_what_cannot_be_read_is_no_claim(tmp_path: Path) -> None:
    assert find_counter(tmp_path / "nowhere") is None
    assert read_counter(None) is None
    proc = make(tmp_path, "0::/\n", [V2], {"cg/memory.events": "low 0\n"})
    assert find_counter(proc) is None
