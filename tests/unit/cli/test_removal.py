"""`dlcloud rm`: what goes, what stays, and what is asked."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from dlcloud.jobs.local_runs import LocalRuns
from dlcloud.jobs.run_folder import hold
from dlcloud.output import Output
from dlcloud.place import Place
from dlcloud.removing import RemoveOptions, remove_command
from dlcloud_operator.api import Phase

from .runs import job_view, make_run


class Shell:
    """A user's terminal or pipe with `dlcloud rm`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def rm(self, *names: str, finished: bool = False, every: bool = False, **flags: bool) -> tuple[int, str]:
        out = io.StringIO()
        options = RemoveOptions(names, finished=finished, every=every, **flags)
        code = remove_command(Place(local=True), options, Output(out), Output(out))
        return code, out.getvalue()

    def left(self) -> list[str]:
        return [record.id for record in LocalRuns().records()]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("DLCLOUD_HOME", str(tmp_path / "home"))
    return Shell(tmp_path / "home")


def stored(folder: Path, name: str = "digits") -> Path:
    """Objects of a job below file://{folder}."""
    prefix = folder / "default" / name / f"uid-{name}"
    (prefix / "manifests").mkdir(parents=True)
    (prefix / "head.json").write_text("{}")
    (prefix / "manifests" / "1.json").write_text("x" * 98)
    return prefix


def test_a_suspended_runs_checkpoints_stay_and_the_way_on_is_named(shell: Shell, tmp_path: Path) -> None:
    prefix = stored(tmp_path / "ckpt")
    folder = make_run(shell.home, job_view(uri=f"file://{tmp_path}/ckpt"))
    code, said = shell.rm("digits")
    assert code == 0, said
    assert f"--set resumeFrom=file://{prefix}/" in said
    assert prefix.exists() and not folder.exists()


def test_with_objects_all_goes_and_what_was_freed_is_told(shell: Shell, tmp_path: Path) -> None:
    stored(tmp_path / "ckpt")
    make_run(shell.home, job_view(uri=f"file://{tmp_path}/ckpt"))
    code, said = shell.rm("digits", objects=True, yes=True)
    assert code == 0, said
    assert "2 objects deleted" in said and "100 B" in said and "folder deleted" in said
    assert (tmp_path / "ckpt").exists(), "the user's own folder stays"
    assert list((tmp_path / "ckpt").iterdir()) == []


def test_objects_are_not_deleted_where_nobody_can_be_asked(shell: Shell, tmp_path: Path) -> None:
    prefix = stored(tmp_path / "ckpt")
    make_run(shell.home, job_view(uri=f"file://{tmp_path}/ckpt"))
    code, said = shell.rm("digits", objects=True)
    assert (code, "--yes" in said) == (2, True)
    assert prefix.exists() and len(shell.left()) == 1


def test_checkpoints_within_the_runs_own_folder_are_not_lost_by_the_way(shell: Shell) -> None:
    folder = make_run(shell.home, job_view(), store=shell.home / "runs" / "digits-20260102-030405" / "store")
    code, said = shell.rm("digits")
    assert (code, "add --objects" in said) == (1, True)
    assert folder.exists()


def test_rm_finished_takes_only_what_has_ended(shell: Shell) -> None:
    for hour, phase in enumerate((Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED, Phase.RUNNING)):
        make_run(shell.home, job_view(f"job-{phase.lower()}", phase=phase, uri=""), hour=hour)
    code, said = shell.rm(finished=True)
    assert code == 0, said
    assert [name.rsplit("-", 2)[0] for name in shell.left()] == ["job-running", "job-suspended"]


def test_one_job_that_runs_does_not_keep_the_others(shell: Shell) -> None:
    running = make_run(shell.home, job_view("busy", phase=Phase.RUNNING), hour=1)
    make_run(shell.home, job_view("idle", uri=""), hour=2)
    lock = hold(running)
    code, said = shell.rm(every=True)
    os.close(lock)
    assert (code, "busy-20260102-040405: is running" in said) == (1, True)
    assert shell.left() == [running.name]


def test_a_damaged_run_can_be_removed(shell: Shell) -> None:
    folder = make_run(shell.home, job_view())
    (folder / "job.json").write_text("{")
    code, said = shell.rm(folder.name)
    assert code == 0, said
    assert not folder.exists()


def test_a_name_that_does_not_exist_is_a_usage_error_and_the_others_go(shell: Shell) -> None:
    make_run(shell.home, job_view(uri=""))
    code, said = shell.rm("nothing", "digits")
    assert (code, "there is no such run" in said) == (2, True)
    assert shell.left() == []


def test_with_nothing_to_delete_all_is_well(shell: Shell) -> None:
    assert shell.rm(finished=True) == (0, "there is nothing to delete\n")
