"""How much memory is left, by the files of control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlcloud_trainer.checkpoint.memory import MARGIN, free_bytes, lack

MIB = 1 << 20


class Machine:
    """The files, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.status(rss=100, peak=100)

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def available(self, mib: int) -> None:
        self.write(self.proc / "meminfo", f"MemTotal: 99999999 kB\nMemAvailable:   {mib * 1024} kB\n")

    def status(self, *, rss: int, peak: int) -> None:
        self.write(self.proc / "self/status", f"Name:\tpython\nVmHWM:\t {peak * 1024} kB\nVmRSS:\t {rss * 1024} kB\n")

    def member(self, text: str) -> None:
        self.write(self.proc / "self/cgroup", text)

    def v2(self, path: str, limit: str | int, used: int, files: int = 0) -> None:
        folder = self.root / path
        self.write(folder / "memory.max", f"{limit if isinstance(limit, str) else limit * MIB}\n")
        self.write(folder / "memory.current", f"{used * MIB}\n")
        stat = f"anon 5\nfile {files * MIB * 9}\ninactive_anon 7\ninactive_file {files * MIB}\nactive_file 0\n"
        self.write(folder / "memory.stat", stat)

    def v1(self, path: str, limit: int, used: int, files: int = 0) -> None:
        folder = self.root / "memory" / path
        self.write(folder / "memory.limit_in_bytes", f"{limit}\n")
        self.write(folder / "memory.usage_in_bytes", f"{used * MIB}\n")
        stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {files * MIB}\ntotal_active_file {files * MIB}\n"
        self.write(folder / "memory.stat", stat)

    def free_mib(self) -> int | None:
        free = free_bytes(root=self.root, proc=self.proc)
        return None if free is None else free // MIB


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_known_without_the_files(machine: Machine) -> None:
    assert machine.free_mib() is None
    assert lack(1 << 60, root=machine.root, proc=machine.proc) is None


def test_without_a_limit_the_machine_is_the_limit(machine: Machine) -> None:
    machine.available(3000)
    machine.member("0::/\n")
    machine.v2("", "max", 500)
    assert machine.free_mib() == 3000


def test_the_page_cache_of_a_group_counts_as_free(machine: Machine) -> None:
    machine.available(3000)
    machine.member("0::/pod\n")
    machine.v2("pod", 1000, 800, files=150)
    assert machine.free_mib() == 350


def test_the_tightest_group_above_counts(machine: Machine) -> None:
    machine.member("0::/pod/container\n")
    machine.v2("pod/container", 1000, 100)
    machine.v2("pod", 1000, 900)
    assert machine.free_mib() == 100


def test_version_1_is_read_with_what_lies_below_the_group(machine: Machine) -> None:
    machine.available(3000)
    machine.member("9:name=systemd:/x\n4:memory:/pod\n0::/\n")
    machine.v1("pod", 1000 * MIB, 900, files=100)
    assert machine.free_mib() == 300


def test_version_1_without_a_limit_is_no_limit(machine: Machine) -> None:
    machine.available(3000)
    machine.member("4:cpu,memory:/\n")
    machine.v1("", 9223372036854771712, 900)
    assert machine.free_mib() == 3000


def test_a_path_of_the_host_leads_to_the_group_that_is_mounted(machine: Machine) -> None:
    machine.member("4:memory:/kubepods/burstable/pod1/abc\n")
    machine.v1("", 1000 * MIB, 900)
    assert machine.free_mib() == 100


def test_what_was_needed_before_will_be_needed_again(machine: Machine) -> None:
    machine.available(1000)
    machine.status(rss=100, peak=400)
    room = 1000 * MIB - MARGIN - 300 * MIB
    assert lack(room, root=machine.root, proc=machine.proc) is None
    lacking = lack(room + 5, root=machine.root, proc=machine.proc)
    assert lacking is not None and (lacking.free_bytes, lacking.missing_bytes) == (1000 * MIB, 5)


def test_this_machine_has_memory() -> None:
    free = free_bytes()
    assert free is not None and free > MIB
