"""What a run looks like: snapshot, plain lines, screen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dlcloud.view.plain import PlainLines
from dlcloud.view.screen import render
from dlcloud.view.snapshot import EventLine, Snapshot, Tracker
from dlcloud_operator.api import (
    CheckpointStatus,
    Member,
    Phase,
    Progress,
    RoundStatus,
    TrainingJobStatus,
    WorkerCounts,
)
from dlcloud_operator.core.model import JobKey, JobView, RankState, RankView, Report

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def job(phase: Phase = Phase.RUNNING, round_number: int = 1, restarts: int = 0, message: str = "") -> JobView:
    current = RoundStatus(
        number=round_number, nonce="n", world_size=2, master="127.0.0.1", port=1, threads=1, started_at=T0,
        members=[Member(index=i, pod=f"digits-{i}-0", uid=f"u{i}", ranks=[i]) for i in range(2)],
    )  # fmt: skip
    status = TrainingJobStatus(
        phase=phase,
        message=message,
        restarts=restarts,
        round=current,
        workers=WorkerCounts(desired=2, ready=2, text="2/2"),
    )
    return JobView(JobKey("default", "digits"), "uid", "1", 1, T0, status, None)


def report(
    index: int, seconds: float, step: int, *, round_number: int = 1, epoch: int = 0, loss: float = 1.0
) -> Report:
    progress = Progress(
        epoch=epoch, epochs=10, step=step, total_steps=230, samples=step * 64, loss=loss, samples_per_second=640
    )
    return Report(
        pod_uid=f"u{index}", received_at=at(seconds), round=round_number, address="127.0.0.1", port=1,
        ranks=(RankView(index, RankState.RUNNING, 0.0, step, 0.1),), progress=progress if index == 0 else None,
    )  # fmt: skip


def tracker() -> Tracker:
    result = Tracker("digits", T0)
    result.job(job())
    return result


def test_rates_of_the_ranks_come_from_their_own_steps() -> None:
    track = tracker()
    for seconds in range(4):
        track.report(report(0, seconds, step=10 * seconds))
        track.report(report(1, seconds, step=5 * seconds))
    assert [row.steps_per_second for row in track.snapshot(at(3)).ranks] == [10.0, 5.0]


def test_a_rank_of_an_older_round_is_starting() -> None:
    track = tracker()
    track.report(report(0, 0, step=10))
    track.job(job(round_number=2))
    assert [row.state for row in track.snapshot(at(1)).ranks] == [RankState.STARTING] * 2


def test_silence_since_the_last_report_counts_as_quiet() -> None:
    track = tracker()
    track.report(report(0, 0, step=10))
    assert track.snapshot(at(12)).ranks[0].quiet_s == 12.0


def test_only_the_newest_lines_of_output_are_kept() -> None:
    track = tracker()
    track.log(f"line {i}" for i in range(1000))
    snapshot = track.snapshot(at(0))
    assert (snapshot.log[-1], len(snapshot.log), snapshot.log_total) == ("line 999", 200, 1000)


def said(plain: PlainLines, *snapshots: Snapshot) -> list[str]:
    return [line[10:] if line[2:3] == ":" else line for snapshot in snapshots for line in plain.lines(snapshot)]


def test_the_same_snapshot_twice_says_nothing_new() -> None:
    track = tracker()
    track.report(report(0, 1, step=5))
    plain = PlainLines(show_log=True)
    assert said(plain, track.snapshot(at(1)))
    assert said(plain, track.snapshot(at(1.2)), track.snapshot(at(1.4))) == []


def test_every_epoch_gets_one_line() -> None:
    track, plain, lines = tracker(), PlainLines(show_log=False), []
    for step in range(1, 47):
        track.report(report(0, step / 10, step=step, epoch=step // 23))
        lines += said(plain, track.snapshot(at(step / 10)))
    epochs = [line.split(",")[0] for line in lines if line.startswith("epoch")]
    assert epochs == ["epoch 0/10", "epoch 1/10", "epoch 2/10"]


def test_a_long_epoch_still_shows_life() -> None:
    track, plain, lines = tracker(), PlainLines(show_log=False), []
    for seconds in range(0, 100, 5):
        track.report(report(0, seconds, step=seconds + 1))
        lines += said(plain, track.snapshot(at(seconds)))
    assert sum(line.startswith("epoch 0/10") for line in lines) == 4


def test_a_restart_is_told_with_its_cause() -> None:
    track, plain = tracker(), PlainLines(show_log=False)
    said(plain, track.snapshot(at(0)))
    track.job(job(Phase.RESTARTING, message="rank 1 was ended by signal 9"))
    track_lines = said(plain, track.snapshot(at(1)))
    track.job(job(Phase.RUNNING, round_number=2, restarts=1))
    track_lines += said(plain, track.snapshot(at(2)))
    assert track_lines == ["Restarting: rank 1 was ended by signal 9", "Running, round 2 with 2 ranks, 1 restart"]


def test_checkpoints_are_told_once_with_their_size() -> None:
    track, plain = tracker(), PlainLines(show_log=False)
    said(plain, track.snapshot(at(0)))
    track.report(
        Report(
            "u0",
            at(1),
            1,
            "",
            1,
            checkpoint=CheckpointStatus(step=40, uri="s3://b/m", committed_at=T0, size_bytes=2**21),
        )
    )
    assert said(plain, track.snapshot(at(1)), track.snapshot(at(2))) == ["checkpoint at step 40 (2.0 MiB)"]


def test_output_appears_among_the_lines_only_when_wanted() -> None:
    track = tracker()
    track.log(["[rank 0] hello"])
    assert "[rank 0] hello" in PlainLines(show_log=True).lines(track.snapshot(at(0)))
    assert "[rank 0] hello" not in PlainLines(show_log=False).lines(track.snapshot(at(0)))


def busy_snapshot(world_size: int = 2) -> Snapshot:
    track = tracker()
    for seconds in range(3):
        track.report(report(0, seconds, step=50 * seconds, epoch=2))
        track.report(report(1, seconds, step=50 * seconds))
    track.job(job(restarts=1, round_number=1, message="a message of the operator that goes on for quite a while " * 3))
    track.events(EventLine(at(i), "Started", f"event {i} " + "x" * 100) for i in range(30))
    track.log(f"[rank {i % 2}] \x1b[31mline {i} \t" + "y" * 200 for i in range(50))
    return track.snapshot(at(5))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 5), (200, 60), (10, 1)])
def test_the_screen_fits_the_terminal(width: int, height: int) -> None:
    lines = render(busy_snapshot(), width, height).plain.split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_the_screen_shows_ranks_bar_checkpoint_events_and_output_at_80_by_24() -> None:
    screen = render(busy_snapshot(), 80, 24).plain
    for part in (
        "digits",
        "Running",
        "restarts 1",
        "epoch 2/10",
        "eta",
        "rank 0",
        "rank 1",
        "steps/s",
        "event 29",
        "line 49",
    ):
        assert part in screen, part


def test_escape_sequences_of_a_program_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in render(busy_snapshot(), 80, 24).plain


def test_stopping_is_said_even_on_a_tiny_terminal() -> None:
    track = tracker()
    track.stopping = "stopping: saving a checkpoint"
    assert "saving a checkpoint" in render(track.snapshot(at(1)), 40, 3).plain


def test_before_the_job_is_known_the_screen_says_starting() -> None:
    assert "Starting" in render(Tracker("digits", T0).snapshot(at(1)), 80, 24).plain


def test_a_message_that_changes_at_once_gets_no_line() -> None:
    track, plain = tracker(), PlainLines(show_log=False)
    said(plain, track.snapshot(at(0)))
    track.job(job(message="waiting for 2 of 2 workers"))
    lines = said(plain, track.snapshot(at(0.1)))
    track.job(job(message="waiting for 1 of 2 workers"))
    lines += said(plain, *(track.snapshot(at(0.2 + i / 5)) for i in range(10)))
    assert lines == ["Running, round 1 with 2 ranks: waiting for 1 of 2 workers"]


def test_the_cause_of_a_restart_is_told_once() -> None:
    track, plain = tracker(), PlainLines(show_log=False)
    said(plain, track.snapshot(at(0)))
    track.events([EventLine(at(1), "RankFailed", "round 1: rank 1 was killed", warning=True)])
    track.job(job(Phase.RESTARTING, message="restarting after round 1: rank 1 was killed"))
    assert said(plain, track.snapshot(at(1))) == ["RankFailed: round 1: rank 1 was killed", "Restarting"]


def test_the_end_is_left_to_the_last_words() -> None:
    track, plain = tracker(), PlainLines(show_log=False)
    said(plain, track.snapshot(at(0)))
    track.events([EventLine(at(1), "Failed", "StoreUnusable: no", warning=True)])
    track.job(job(Phase.FAILED, message="no"))
    assert said(plain, track.snapshot(at(1))) == []


def test_a_newer_checkpoint_counts_even_at_a_lower_step() -> None:
    track = tracker()
    for seconds, step in ((1, 40), (2, 30)):
        track.saved(CheckpointStatus(step=step, uri=f"s3://b/{step}", committed_at=at(seconds)))
    track.saved(CheckpointStatus(step=40, uri="s3://b/40", committed_at=at(1)))
    saved = track.snapshot(at(3)).checkpoint
    assert saved is not None
    assert saved.step == 30


def test_a_store_in_trouble_is_told_by_its_warning_and_its_end_and_by_no_line_more() -> None:
    track, plain = tracker(), PlainLines(show_log=False)
    track.job(job(message="training on 2 workers"))
    said(plain, *(track.snapshot(at(i / 5)) for i in range(10)))
    track.events([EventLine(at(3), "CheckpointUploadFailed", "the store is away", warning=True)])
    track.job(job(message="training on 2 workers; the store is away"))
    lines = said(plain, *(track.snapshot(at(3 + i / 5)) for i in range(10)))
    track.events([EventLine(at(6), "Recovered", "checkpoints are saved again")])
    track.job(job(message="training on 2 workers"))
    lines += said(plain, *(track.snapshot(at(6 + i / 5)) for i in range(10)))
    assert lines == ["CheckpointUploadFailed: the store is away", "Recovered: checkpoints are saved again"]
