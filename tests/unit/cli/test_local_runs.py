"""Runs of this machine as they are found in their folders: which there are, how they stand, how they go."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dlcloud.jobs.beginning import check_resumable, open_run, store_of, with_changes
from dlcloud.jobs.errors import JobNotFound, JobsError
from dlcloud.jobs.local_runs import LocalRuns
from dlcloud.jobs.processes import host, kill, start_of
from dlcloud.jobs.run_folder import (
    KILL,
    SUSPEND,
    RunHeld,
    begin_stint,
    end_stint,
    hold,
    is_held,
    link_run,
    read_info,
    request_stop,
    requested_stop,
)
from dlcloud_operator.api import InvalidManifest, Phase

from .runs import STINT, T0, job_view, make_run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def runs(home: Path) -> LocalRuns:
    return LocalRuns({"DLCLOUD_HOME": str(home)})


def test_runs_are_listed_newest_first(home: Path, runs: LocalRuns) -> None:
    for hour in (1, 3, 2):
        make_run(home, job_view(), hour=hour)
    assert [record.id for record in runs.records()] == [f"digits-20260102-0{h}0405" for h in (6, 5, 4)]


def test_without_runs_the_list_is_empty(runs: LocalRuns) -> None:
    assert runs.records() == []


def test_a_home_that_is_no_folder_is_a_sentence(home: Path, runs: LocalRuns) -> None:
    home.mkdir()
    (home / "runs").write_text("")
    with pytest.raises(JobsError, match=r"runs: Not a directory; see to it, or set \$DLCLOUD_HOME"):
        runs.records()


def test_a_running_jobs_phase_is_its_status_only_while_its_process_holds_the_lock(home: Path, runs: LocalRuns) -> None:
    folder = make_run(home, job_view(phase=Phase.RUNNING))
    (gone,) = runs.records()
    assert (gone.phase, gone.running) == ("Interrupted", False)
    assert f"go on with `dlcloud resume {folder.name}`" in gone.message
    lock = hold(folder)
    (there,) = runs.records()
    assert (there.phase, there.running) == ("Running", True)
    os.close(lock)


@pytest.mark.parametrize("phase", [Phase.SUSPENDED, Phase.SUCCEEDED, Phase.FAILED])
def test_what_has_ended_is_not_interrupted(home: Path, runs: LocalRuns, phase: Phase) -> None:
    make_run(home, job_view(phase=phase))
    assert runs.records()[0].phase == phase


def test_a_lock_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    code = f"import time; from dlcloud.jobs.run_folder import hold; from pathlib import Path; l = hold(Path({str(tmp_path)!r})); print(1, flush=True); time.sleep(60)"  # noqa: E501
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert is_held(tmp_path)
    with pytest.raises(RunHeld):
        hold(tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()
    assert not is_held(tmp_path)


def test_somebody_who_looks_is_not_taken_for_the_owner(tmp_path: Path) -> None:
    os.close(hold(tmp_path))
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_held(tmp_path)
    os.close(looking)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "job.json").write_text("{"),
        lambda folder: (folder / "job.json").write_text("[]"),
        lambda folder: (folder / "job.json").write_text('{"metadata": {}}'),
        lambda folder: (folder / "job.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "job.json").unlink(),
    ],
)
def test_a_damaged_run_costs_one_line_and_not_the_list(home: Path, runs: LocalRuns, harm: object) -> None:
    harmed = make_run(home, job_view(), hour=1)
    make_run(home, job_view(), hour=2)
    harm(harmed)  # type: ignore[operator]
    assert len(runs.records()) == 1
    (problem,) = runs.problems
    assert harmed.name in problem and f"dlcloud rm {harmed.name}" in problem and "\n" not in problem


def test_a_job_is_found_by_its_id_its_name_and_its_folder(home: Path, runs: LocalRuns) -> None:
    old, new = make_run(home, job_view(), hour=1), make_run(home, job_view(), hour=2)
    make_run(home, job_view("digits-two"), hour=3)
    assert runs.find(old.name).run_dir == old
    assert runs.find("digits").run_dir == new, "the newest of this name, not the one whose name begins with it"
    assert runs.find(str(old)).id == old.name


def test_a_name_that_does_not_exist_is_answered_with_the_nearest(home: Path, runs: LocalRuns) -> None:
    make_run(home, job_view())
    with pytest.raises(JobNotFound, match=r"digist: there is no such run in .*; did you mean digits\?"):
        runs.find("digist")


def test_a_linked_folder_that_is_gone_is_told(home: Path, runs: LocalRuns, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    name = link_run(tmp_path / "elsewhere", "digits", T0, {"DLCLOUD_HOME": str(home)})
    (tmp_path / "elsewhere").rmdir()
    assert runs.records() == []
    assert f"dlcloud rm {name}" in runs.problems[0]


def test_output_comes_whole_and_once_with_the_unended_line_of_a_run_that_is_over(home: Path, runs: LocalRuns) -> None:
    folder = make_run(home, job_view())
    lock = hold(folder)
    reader = runs.logs(runs.find("digits"))
    assert [line.text for line in reader.poll()] == ["one", "two"]
    assert reader.poll() == []
    os.close(lock)
    assert [(line.pod, line.text) for line in reader.poll()] == [("digits-0-1", "last")]
    assert reader.poll() == []


def test_a_request_reaches_only_the_process_it_was_meant_for(tmp_path: Path) -> None:
    request_stop(tmp_path, "mark-1", SUSPEND)
    assert requested_stop(tmp_path, "mark-1") == SUSPEND
    assert requested_stop(tmp_path, "mark-2") == ""
    request_stop(tmp_path, "mark-2", KILL)
    assert requested_stop(tmp_path, "mark-2") == KILL


def test_a_new_process_of_a_run_is_written_down_and_old_requests_are_void(home: Path) -> None:
    folder = make_run(home, job_view())
    request_stop(folder, "mark-2", KILL)
    begin_stint(folder, read_info(folder), replace(STINT, mark="mark-2"))
    assert requested_stop(folder, "mark-2") == ""
    end_stint(folder, "mark-2", T0, 130)
    assert [(stint.mark, stint.exit_code) for stint in read_info(folder).stints] == [("mark-1", None), ("mark-2", 130)]


def test_the_run_file_is_its_owners_alone_and_without_secrets(home: Path) -> None:
    folder = make_run(home, job_view(), endpoint="http://127.0.0.1:9000")
    for name in ("run.json", "job.json"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert set(json.loads((folder / "run.json").read_text())) == {
        "manifest", "settings", "workingDirectory", "endpoint", "store", "version", "stints",
    }  # fmt: skip


def test_a_process_that_has_the_owners_id_by_now_is_not_killed() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        stint = replace(STINT, pid=bystander.pid, host=host())
        assert not kill(replace(stint, process_start="another boot/1"))
        assert not kill(replace(stint, process_start=start_of(bystander.pid), host="another machine"))
        assert bystander.poll() is None
        assert kill(replace(stint, process_start=start_of(bystander.pid)))
        assert bystander.wait(timeout=10) == -9
    finally:
        bystander.kill()
        bystander.wait()


def test_what_has_succeeded_is_not_resumed_and_the_way_on_is_named(home: Path) -> None:
    folder = make_run(home, job_view(phase=Phase.SUCCEEDED))
    with pytest.raises(JobsError, match=r"dlcloud run /j.yaml --set resumeFrom=s3://bucket/default/digits/uid-digits/"):
        check_resumable("digits", open_run(folder))


def test_parameters_of_a_stopped_run_cannot_change_its_workers_can(home: Path) -> None:
    run = open_run(make_run(home, job_view()))
    with pytest.raises(InvalidManifest, match="cannot change once the job exists"):
        with_changes(run, None, ["parameters.epochs=20"])
    changed = with_changes(run, 4, ["restart.maxFailures=9"]).job
    assert changed.spec is not None
    assert (changed.spec.workers.count, changed.spec.restart.max_failures) == (4, 9)
    assert (changed.generation, int(changed.resource_version)) == (2, 8)
    assert with_changes(run, 2, []).job == run.job


def test_missing_keys_of_ones_own_server_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    run = open_run(make_run(home, job_view(), endpoint="http://127.0.0.1:9"))
    with pytest.raises(JobsError, match="AWS_ACCESS_KEY_ID"):
        store_of(run, {"DLCLOUD_HOME": str(home)})


def test_a_run_whose_store_is_gone_is_not_begun_anew_behind_ones_back(home: Path) -> None:
    run = open_run(make_run(home, job_view()))
    with pytest.raises(JobsError, match="the data of the run's S3 server is gone"):
        store_of(run, {"DLCLOUD_HOME": str(home)})


def test_a_store_that_another_run_uses_is_named_with_that_run(home: Path) -> None:
    (home / "store" / "data").mkdir(parents=True)
    first, second = make_run(home, job_view(), hour=1), make_run(home, job_view(), hour=2)
    lock = hold(second)
    with pytest.raises(JobsError, match=f"run {second.name} uses this store now"):
        store_of(open_run(first), {"DLCLOUD_HOME": str(home)})
    os.close(lock)
    assert store_of(open_run(first), {"DLCLOUD_HOME": str(home)}).folder == home / "store"
