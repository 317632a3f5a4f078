"""What `dlcloud ls` and `dlcloud describe` say, for people and for machines."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from dlcloud.formats import Format
from dlcloud.jobs.source import JobRecord
from dlcloud.listing import age, describe_lines, list_lines
from dlcloud.managing import describe_command, list_command
from dlcloud.output import Output
from dlcloud.place import Place
from dlcloud.view.snapshot import EventLine
from dlcloud_operator.api import Condition, Failure, Outcome, Phase, WorkerCounts
from dlcloud_operator.core.model import JobKey

from .runs import T0, job_view, make_run

NOW = T0 + timedelta(minutes=5)
RUNNING = JobRecord(
    "digits-1",
    job_view(phase=Phase.RUNNING, workers=WorkerCounts(desired=2, ready=1, text="1/2"), restarts=3),
    "Running",
    "training on 2 workers",
    Path("/runs/digits-1"),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLCLOUD_HOME", str(tmp_path))
    return tmp_path


def listed(form: Format = Format.TEXT, **options: bool) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    assert list_command(Place(local=True), Output(out), Output(err), form, **options) == 0
    return out.getvalue(), err.getvalue()


def test_a_running_job_is_one_line_with_what_matters() -> None:
    header, line = list_lines([RUNNING], NOW, wide=False)
    assert header.split() == ["ID", "JOB", "PHASE", "WORKERS", "EPOCH", "STEP", "LOSS", "RESTARTS", "AGE"]
    assert line.split() == ["digits-1", "digits", "Running", "1/2", "4/10", "40/100", "0.25", "3", "5m"]


def test_wide_adds_rate_eta_checkpoint_folder_and_message() -> None:
    header, line = list_lines([RUNNING], NOW, wide=True)
    assert header.split()[9:] == ["RATE", "ETA", "CHECKPOINT", "FOLDER", "MESSAGE"]
    assert line.endswith("64/s  15s     step 40  /runs/digits-1  training on 2 workers")


def test_jobs_of_a_cluster_have_no_folder_and_their_name_once() -> None:
    record = JobRecord("digits", RUNNING.job, "Running", "")
    assert list_lines([record], NOW, wide=True)[0].split()[:2] == ["ID", "PHASE"]


def test_jobs_of_several_namespaces_say_which() -> None:
    one = JobRecord("digits", RUNNING.job, "Running", "")
    other = JobRecord("digits", replace(RUNNING.job, key=JobKey("team-b", "digits")), "Running", "")
    header, first, second = list_lines([one, other], NOW, wide=False)
    assert header.split()[:2] == ["NAMESPACE", "ID"]
    assert (first.split()[:2], second.split()[:2]) == ([one.job.key.namespace, "digits"], ["team-b", "digits"])


def test_the_list_for_machines_is_a_training_job_list_of_all(home: Path) -> None:
    for hour in range(25):
        make_run(home, job_view(), hour=hour)
    for form, read in ((Format.JSON, json.loads), (Format.YAML, yaml.safe_load)):
        out, _ = listed(form)
        document = read(out)
        assert (document["apiVersion"], document["kind"]) == ("dlcloud.dev/v1", "TrainingJobList")
        assert len(document["items"]) == 25
        assert document["items"][0]["status"]["phase"] == "Suspended"


def test_people_see_the_newest_twenty_and_are_told_of_the_others(home: Path) -> None:
    for hour in range(25):
        make_run(home, job_view(), hour=hour)
    out, err = listed()
    assert len(out.splitlines()) == 21 and "and 5 older ones: dlcloud ls --all" in err
    assert len(listed(every=True)[0].splitlines()) == 26


def test_an_empty_list_says_how_to_begin(home: Path) -> None:
    out, err = listed()
    assert out == "" and "run JOB.yaml" in err
    assert json.loads(listed(Format.JSON)[0])["items"] == []


def test_a_damaged_run_is_a_line_beside_the_list(home: Path) -> None:
    make_run(home, job_view(), hour=1)
    (make_run(home, job_view(), hour=2) / "job.json").write_text("{")
    out, err = listed()
    assert len(out.splitlines()) == 2 and "is damaged" in err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172800, "2d")]
)
def test_ages_are_coarse(seconds: int, text: str) -> None:
    assert age(T0, T0 + timedelta(seconds=seconds)) == text


def test_describe_shows_spec_failures_conditions_and_events_with_their_ages() -> None:
    failure = Failure(
        time=T0,
        round=2,
        worker=1,
        rank=1,
        reason=Outcome.ERROR,
        exit_code=3,
        counted=True,
        message="ValueError: no\n  at x",
    )
    condition = Condition(type="PodsReady", status="True", reason="AllWorkersReady", last_transition_time=T0)
    job = job_view(phase=Phase.RUNNING, failures=[failure], conditions=[condition])
    events = [EventLine(T0, "RankFailed", "round 2: \x1b[31mrank 1 died", warning=True)]
    text = "\n".join(describe_lines(JobRecord("digits-1", job, "Running", "training"), events, NOW))
    for part in (
        "ID:         digits-1",
        "Workload:    cnn",
        "Parameters:  epochs=10",
        "Step:   40/100",
        "Last:      step 40, 5m ago",
        "PodsReady  True    AllWorkersReady  5m",
        "5m ago  Error (round 2, worker 1, rank 1, exit code 3, counted): ValueError: no\n",
        "Warning  RankFailed  5m",
    ):
        assert part in text, text
    assert "\x1b" not in text, "what a program said must not move the cursor"


def test_describe_for_machines_is_the_whole_document_with_its_events(home: Path) -> None:
    make_run(home, job_view())
    out = io.StringIO()
    assert describe_command(Place(local=True), "digits", Output(out), Format.JSON) == 0
    document = json.loads(out.getvalue())
    assert document["metadata"]["annotations"]["dlcloud.dev/run"] == "digits-20260102-030405"
    assert document["spec"]["parameters"] == {"epochs": 10}
    assert document["events"] == [
        {"at": T0.isoformat(), "reason": "RoundStarted", "message": "round 1", "warning": False}
    ]
