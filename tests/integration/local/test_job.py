"""The job of a run: its versions, its status, its events, and what stays on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlcloud.local.state import read_job
from dlcloud_operator.api import Phase, Progress, TrainingJobStatus
from dlcloud_operator.core.model import DeletePod, Emit, JobKey
from dlcloud_operator.engine.cluster import Conflict, Refused

from .bench import bench, on_a_loop, pod, python, training_job, until

KEY = JobKey("default", "demo")
SLEEP = python("import time; print('up'); time.sleep(100)")


@on_a_loop
async def test_a_written_status_is_read_back_with_a_new_version(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        written = await local.cluster.write_status(local.job, TrainingJobStatus(phase=Phase.RUNNING))
        assert written.status.phase is Phase.RUNNING and written.resource_version != local.job.resource_version
        assert await local.cluster.get_job(KEY) == written


@on_a_loop
async def test_a_status_decided_from_an_old_version_is_a_conflict(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        await local.cluster.write_status(local.job, TrainingJobStatus(phase=Phase.RUNNING))
        with pytest.raises(Conflict, match="is at version"):
            await local.cluster.write_status(local.job, TrainingJobStatus(phase=Phase.FAILED))
        job = await local.cluster.get_job(KEY)
        assert job is not None and job.status.phase is Phase.RUNNING


@on_a_loop
async def test_changing_the_spec_raises_the_generation_and_outdates_earlier_readings(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        changed = await local.cluster.update_spec(KEY, lambda spec: spec.model_copy(update={"suspend": True}))
        assert changed.spec is not None and changed.spec.suspend and changed.generation == 2
        with pytest.raises(Conflict):
            await local.cluster.write_status(local.job, TrainingJobStatus(phase=Phase.RUNNING))


@on_a_loop
async def test_applying_the_same_manifest_again_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        assert await local.cluster.apply(training_job()) == local.job


@on_a_loop
async def test_a_second_job_in_one_run_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        with pytest.raises(Refused, match="already holds job default/demo"):
            await local.cluster.apply(training_job("other"))


@on_a_loop
async def test_subscribers_hear_of_pods_and_spec_but_not_of_written_statuses(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        heard: list[JobKey] = []
        local.cluster.subscribe(heard.append)
        await local.cluster.write_status(local.job, TrainingJobStatus(phase=Phase.RUNNING))
        assert heard == []
        await local.cluster.update_spec(KEY, lambda spec: spec.model_copy(update={"suspend": True}))
        assert heard == [KEY]
        await local.run(pod(["true"]))
        assert heard == [KEY] * 4  # created, running, ended


@on_a_loop
async def test_watchers_see_every_status(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        phases: list[Phase | None] = []
        local.cluster.watch_jobs(lambda job: phases.append(job.status.phase))
        job = await local.cluster.write_status(local.job, TrainingJobStatus(phase=Phase.PENDING))
        await local.cluster.write_status(job, TrainingJobStatus(phase=Phase.RUNNING))
        assert phases == [Phase.PENDING, Phase.RUNNING]


@on_a_loop
async def test_job_status_and_events_can_be_read_after_the_run(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        progress = Progress(epoch=2, loss=0.5, metrics={"accuracy": 0.9})
        written = await local.cluster.write_status(
            local.job, TrainingJobStatus(phase=Phase.SUCCEEDED, progress=progress)
        )
        await local.cluster.emit(written, Emit("RankFailed", "rank 1 died", warning=True))
    found = read_job(tmp_path)
    assert found is not None
    job, events = found
    assert job == written and [e.event for e in events] == [Emit("RankFailed", "rank 1 died", warning=True)]


def test_a_folder_without_a_run_holds_no_job(tmp_path: Path) -> None:
    assert read_job(tmp_path) is None


@on_a_loop
async def test_a_pod_with_its_uid_has_an_owner_until_its_processes_are_gone(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(SLEEP))
        await local.said(name, "up")
        view = local.pod(name)
        assert view is not None
        assert local.cluster.owner_of("default", name, view.uid) == KEY
        assert local.cluster.owner_of("default", name, "another") is None
        assert local.cluster.owner_of("other", name, view.uid) is None
        await local.cluster.delete_pod(local.job, DeletePod(name, view.uid))
        assert local.cluster.owner_of("default", name, view.uid) == KEY
        await until(lambda: local.pod(name) is None, "the end of the pod")
        assert local.cluster.owner_of("default", name, view.uid) is None


@on_a_loop
async def test_a_deleted_job_takes_its_pods_with_it_and_a_new_one_of_its_name_is_another(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(SLEEP))
        await local.said(name, "up")
        await local.cluster.delete_job(local.job)
        assert await local.cluster.get_job(KEY) is None and read_job(tmp_path) is None
        again = await local.cluster.apply(training_job())
        assert again.uid != local.job.uid and await local.cluster.list_pods(again) == []
        await until(lambda: local.pod(name) is None, "the end of the old job's pod")
        with pytest.raises(Conflict, match="is gone"):
            await local.create(pod(SLEEP))
