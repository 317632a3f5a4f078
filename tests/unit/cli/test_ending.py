"""The last words of a run say how it ended and how to go on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dlcloud.ending import RunFacts, ending_lines
from dlcloud.view.snapshot import Snapshot
from dlcloud_operator.api import CheckpointStatus, Failure, Outcome, Phase, Progress

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PREFIX = "s3://checkpoints/default/digits/uid-1/"
SAVED = CheckpointStatus(step=40, uri=f"{PREFIX}manifests/000000000040-000001.json", committed_at=T0)
LAST = Snapshot("digits", T0, T0 + timedelta(seconds=42), progress=Progress(step=50, loss=0.25), log=("a", "b"))
FACTS = RunFacts(Path("/runs/digits"), ("dlcloud", "resume", "digits-1"), checkpoints=True)


def test_success_names_the_metrics_and_the_checkpoint() -> None:
    progress = Progress(step=230, loss=0.05, metrics={"testAccuracy": 0.981})
    last = replace(LAST, phase=Phase.SUCCEEDED, progress=progress, checkpoint=SAVED, restarts=1)
    lines = ending_lines(last, 0, FACTS)
    assert lines[0] == "Succeeded after 42s: step 230, loss 0.05, test accuracy 98.1%, 1 restart"
    assert lines[1] == f"checkpoint: step 40 at {SAVED.uri}"


def test_failure_shows_its_cause_with_the_traceback() -> None:
    failure = Failure(
        time=T0,
        round=1,
        worker=1,
        rank=1,
        reason=Outcome.ERROR,
        exit_code=3,
        counted=True,
        message="ValueError: no\n  at x",
    )
    last = replace(LAST, phase=Phase.FAILED, message="more failures than allowed", failures=(failure,))
    text = "\n".join(ending_lines(last, 1, FACTS))
    assert "worker 1, rank 1, Error, exit code 3: ValueError: no\n    " in text
    assert "last output:" not in text, "the traceback says more"


def test_failure_without_a_traceback_shows_the_end_of_the_output() -> None:
    text = "\n".join(ending_lines(replace(LAST, phase=Phase.FAILED, message="no"), 1, FACTS))
    assert "last output:\n  a\n  b\n" in text


def test_output_that_was_seen_is_not_shown_again() -> None:
    last = replace(LAST, phase=Phase.FAILED)
    assert "last output:" not in ending_lines(last, 1, replace(FACTS, show_log=False))


def test_a_stopped_run_tells_the_command_that_goes_on() -> None:
    lines = ending_lines(replace(LAST, phase=Phase.SUSPENDED, checkpoint=SAVED), 130, FACTS)
    assert lines[0] == "Stopped by Ctrl-C after 42s at step 50"
    assert lines[1:3] == [f"saved: step 40 at {SAVED.uri}", "go on with: dlcloud resume digits-1"]


def test_a_stopped_run_without_checkpoint_says_that_nothing_is_saved() -> None:
    lines = ending_lines(replace(LAST, phase=Phase.SUSPENDED), 130, FACTS)
    assert lines[1:3] == ["no checkpoint was written: nothing was saved", "begin again with: dlcloud resume digits-1"]
    without = ending_lines(LAST, 130, replace(FACTS, checkpoints=False))
    assert "the job has no spec.checkpoint: nothing was saved" in without


def test_a_failed_run_names_the_command_for_after_its_mending() -> None:
    lines = ending_lines(replace(LAST, phase=Phase.FAILED, checkpoint=SAVED), 1, FACTS)
    assert "after mending that, go on with: dlcloud resume digits-1" in lines


def test_a_run_suspended_from_elsewhere_says_by_what() -> None:
    assert ending_lines(replace(LAST, phase=Phase.SUSPENDED), 4, FACTS)[0].startswith("Stopped by dlcloud suspend")


def test_a_job_of_a_cluster_has_its_output_behind_a_command() -> None:
    facts = replace(FACTS, run_dir=None, output="dlcloud logs digits")
    assert (
        ending_lines(replace(LAST, phase=Phase.SUCCEEDED), 0, facts)[-1] == "output of the workers: dlcloud logs digits"
    )
