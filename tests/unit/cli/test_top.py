"""`dlcloud top`: what it makes of a job's status, and that it fits every terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len

from dlcloud.jobs.source import INTERRUPTED, JobRecord
from dlcloud.top.rows import job_row, order, warning, worker_rows
from dlcloud.top.screen import Drawing, JobDetails, details, sparkline, table
from dlcloud.view.snapshot import EventLine
from dlcloud_operator.api import Phase, TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BEGIN = NOW - timedelta(hours=1)
ROUND = {
    "number": 2, "nonce": "n", "worldSize": 2, "master": "10.0.0.1", "port": 1, "threads": 1,
    "startedAt": BEGIN.isoformat(),
    "members": [{"index": i, "pod": f"digits-{i}-1", "uid": f"u{i}", "ranks": [i]} for i in range(2)],
}  # fmt: skip
STATUS = {
    "phase": "Running", "message": "training on 2 workers", "workers": {"desired": 2, "ready": 2, "text": "2/2"},
    "restarts": 1, "round": ROUND, "startTime": BEGIN.isoformat(),
    "progress": {"epoch": 3, "epochs": 10, "step": 300, "totalSteps": 1000, "samples": 9600, "loss": 0.4131,
                 "samplesPerSecond": 320.0},
    "checkpoint": {"step": 290, "uri": "s3://x", "committedAt": (NOW - timedelta(seconds=20)).isoformat()},
}  # fmt: skip


def record(name: str = "digits", running: bool = True, **status: Any) -> JobRecord:
    spec = {"workload": "cnn", "data": {"uri": "builtin://digits"}, "workers": {"count": 2},
            "checkpoint": {"uri": "s3://bucket/", "everySeconds": 60}}  # fmt: skip
    found = TrainingJobStatus.model_validate({**STATUS, **status})
    job = JobView(JobKey("default", name), "u", "1", 1, BEGIN, found, TrainingJobSpec.model_validate(spec))
    return JobRecord(name, job, str(found.phase), found.message, None, running)


def test_a_row_tells_progress_rate_and_time_to_go() -> None:
    row = job_row(record(), NOW)
    assert (row.step, row.total_steps, row.share, row.loss, row.restarts) == (300, 1000, 0.3, 0.4131, 1)
    assert (row.samples_per_second, row.eta_s, row.checkpoint_age_s) == (320.0, 70.0, 20.0)
    assert (row.warning, row.as_json()["etaSeconds"]) == ("", 70.0)


def test_a_job_that_does_not_train_has_no_rate() -> None:
    row = job_row(record(running=False, phase="Succeeded"), NOW)
    assert (row.samples_per_second, row.eta_s) == (None, None)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (record(), ""),
        (record(running=False, phase="Failed", message="no budget"), "no budget"),
        (replace(record(running=False), phase=INTERRUPTED, message="it is gone"), "it is gone"),
        (record(phase="Pending", message="waiting for 1 of 2 workers"), "waiting for 1 of 2 workers"),
        (record(recovery={"suspects": {"u1": BEGIN.isoformat()}}), "worker 1 is silent for 1h00m"),
        (
            record(conditions=[{"type": "LossNotFinite", "status": "True", "reason": "Nan", "message": "it is nan",
                                "lastTransitionTime": NOW.isoformat()}]),
            "LossNotFinite: it is nan",
        ),
        (
            record(failures=[{"time": (NOW - timedelta(seconds=40)).isoformat(), "round": 1, "reason": "Error",
                              "counted": True, "message": "ValueError: x\nmore"}]),
            "round 1 ended 40s ago: Error: ValueError: x",
        ),
        (
            record(checkpoint={"step": 1, "uri": "s3://x", "committedAt": (NOW - timedelta(minutes=30)).isoformat()}),
            "no checkpoint for 30m00s, though one is due every 1m00s",
        ),
        (record(running=False, phase="Succeeded", message="all ranks ended well"), ""),
    ],
)  # fmt: skip
def test_the_one_thing_to_look_at_is_told(made: JobRecord, expected: str) -> None:
    assert warning(made, NOW) == expected


def test_workers_are_told_by_their_place_in_the_round() -> None:
    made = record(
        workers={"desired": 3, "ready": 2, "text": "2/3"},
        recovery={"suspects": {"u1": (NOW - timedelta(seconds=20)).isoformat()}, "incarnations": {"2": 1}},
    )
    assert [(w.index, w.state, w.ranks) for w in worker_rows(made, NOW)] == [
        (0, "running", (0,)), (1, "silent for 20s", (1,)), (2, "starting", ()),
    ]  # fmt: skip


def test_what_runs_comes_first() -> None:
    old, ended = record("old"), record("ended", running=False)
    newer = replace(old, id="newer", job=replace(old.job, created_at=NOW))
    assert [r.id for r in order([ended, old, newer])] == ["newer", "old", "ended"]


ROWS = [
    job_row(record("digits-20260102-030405"), NOW),
    replace(job_row(record("学習" * 12), NOW), warning="a long story " * 10),
    job_row(record("waits", phase="Pending", message="no node", progress=None, checkpoint=None), NOW),
]


@pytest.mark.parametrize("fancy", [True, False])
@pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 10), (60, 24), (80, 24), (120, 3), (200, 50)])
def test_the_table_fits_its_terminal(width: int, height: int, fancy: bool) -> None:
    lines = table(ROWS * 4, "heading", Drawing(width, height, fancy)).plain.split("\n")
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("fancy", [True, False])
@pytest.mark.parametrize(("width", "height"), [(20, 5), (60, 24), (120, 3), (200, 50)])
def test_one_job_fits_its_terminal(width: int, height: int, fancy: bool) -> None:
    made = record()
    events = [EventLine(NOW, "RoundStarted", f"round {i}: " + "x" * 100) for i in range(30)]
    view = JobDetails(job_row(made, NOW), worker_rows(made, NOW) * 20, [1.0, 0.5] * 50, events, {"testAccuracy": 0.9})
    lines = details(view, NOW, Drawing(width, height, fancy)).plain.split("\n")
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    assert "digits" in lines[0]


def test_on_sixty_columns_what_matters_most_stays() -> None:
    lines = table(ROWS[:1], "", Drawing(60, 24)).plain.split("\n")
    assert lines[0].split() == ["NAME", "PHASE", "STEP", "LOSS", "ETA"]
    assert lines[1].split() == ["digits-20260102-030405", "Running", "300/1000", "0.413", "1m10s"]


def test_a_wide_terminal_shows_all_and_a_bar() -> None:
    lines = table(ROWS[:1], "", Drawing(140, 24)).plain.split("\n")
    assert lines[0].split() == [
        "NAME",
        "PHASE",
        "WORKERS",
        "EPOCH",
        "STEP",
        "LOSS",
        "RATE",
        "ETA",
        "RESTARTS",
        "SAVED",
        "AGE",
    ]
    assert lines[1].count("━") >= 6


def test_jobs_that_do_not_fit_are_counted() -> None:
    lines = table([ROWS[0]] * 30, "heading", Drawing(80, 10)).plain.split("\n")
    assert lines[-1] == "… 23 more"


def test_warnings_stand_below_the_table() -> None:
    lines = table(ROWS, "", Drawing(80, 24)).plain.split("\n")
    assert lines[-1].startswith("! waits: no node")


def test_control_characters_of_a_message_do_not_reach_the_terminal() -> None:
    row = replace(ROWS[0], warning="bad \x1b[2J thing")
    assert "\x1b" not in table([row], "", Drawing(80, 24)).plain


def test_a_falling_loss_falls() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline([3, 3, 3], 8) == "▁▁▁"
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert sparkline([2, 1], 8, fancy=False).isascii()


def test_every_phase_has_a_style() -> None:
    for phase in Phase:
        table([replace(ROWS[0], phase=str(phase))], "", Drawing(80, 24))
