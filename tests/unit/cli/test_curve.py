"""Learning curves: several rounds on three axes, drawings that fit their terminal, pictures that are some."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dlcloud.curve import Axis, Curve, make_curve, smooth
from dlcloud.curve_picture import PictureStyle, write_picture
from dlcloud.curve_text import TextStyle, terminal_lines
from dlcloud.metrics import Metric, Record, find_metric, metrics_of
from dlcloud.plotting import Measured, write_csv

LOSS, ACCURACY, RATE = Metric("train", "loss"), Metric("validation", "accuracy"), Metric("train", "learningRate")
FALLING = [(float(step), 2.5 * math.exp(-step / 60) + 0.05) for step in range(1, 300)]
RISING = [(float(step), 0.98 - 0.6 * math.exp(-step / 80)) for step in range(23, 300, 23)]
CURVE = Curve("first", {LOSS: FALLING, ACCURACY: RISING}, restarts=(120,), checkpoints=(100, 299))
OTHER = Curve("second", {LOSS: [(x, y + 1) for x, y in FALLING[:150]]}, checkpoints=(50,))
BEGIN = datetime(2026, 1, 2, tzinfo=UTC)


def record(step: int, round: int = 1, kind: str = "train", **values: float) -> Record:
    return Record(kind, round, step, values, BEGIN + timedelta(seconds=10 * step + 100 * round))


@pytest.mark.parametrize("curves", [CURVE, [CURVE, OTHER]], ids=["one", "two"])
@pytest.mark.parametrize("width", [80, 40, 120])
def test_no_line_is_wider_than_the_terminal(curves: Curve | Sequence[Curve], width: int) -> None:
    for style in (TextStyle(width), TextStyle(width, colour=True), TextStyle(width, braille=False)):
        shown = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in terminal_lines(curves, style)]
        assert max(map(len, shown)) <= width


def test_a_falling_loss_falls_on_the_screen() -> None:
    lines = terminal_lines(Curve("", {LOSS: FALLING}), TextStyle(60, 6))
    panel = [line[9:].ljust(51) for line in lines[1:7]]
    left, right = [row[0] for row in panel], [row[48:51] for row in panel]
    assert left[0] != " ", "the first loss is the highest"
    assert right[0].strip() == "", "nothing high at the end"
    assert right[-1].strip() != "", "the end is low"


def test_restart_and_checkpoints_stand_below_their_steps() -> None:
    lines = terminal_lines(CURVE)
    marks = next(line for line in lines if set(line.strip()) <= {"x", "c", " "} and line.strip())
    assert marks.index("x") - 9 == round(120 / 299 * 70)
    assert marks.rindex("c") == 79
    assert lines[-1].strip() == "x restart, c checkpoint kept"


def test_values_at_both_ends_are_named() -> None:
    assert "train loss: 2.51 -> 0.0" in terminal_lines(CURVE)[0]


def test_without_metrics_there_is_a_sentence_instead_of_a_curve() -> None:
    assert terminal_lines(Curve()) == ["no metrics yet"]


@pytest.mark.parametrize("series", [{LOSS: [(1, 2.0)]}, {ACCURACY: [(5, 0.5), (9, 0.5)]}, {LOSS: [(0, 0.0)]}])
def test_a_single_or_constant_value_is_drawn(series: dict[Metric, list[tuple[float, float]]]) -> None:
    assert any(0x2800 < ord(c) < 0x2900 for line in terminal_lines(Curve("", series)) for c in line)


def test_without_colour_runs_are_told_apart_by_letters() -> None:
    text = "\n".join(terminal_lines([CURVE, OTHER]))
    assert re.search(r"a  first  2.51 -> 0.06", text)
    assert re.search(r"b  second  3.51 -> 1.2", text)
    rows = [line[9:] for line in text.splitlines() if line[8:9] in "│┤"]
    assert any("a" in row for row in rows)
    assert any("b" in row for row in rows)


def test_with_colour_each_run_has_its_own_in_line_and_legend() -> None:
    lines = terminal_lines([CURVE, OTHER], TextStyle(colour=True))
    first, second = (
        re.findall(r"\x1b\[38;5;\d+m", next(line for line in lines if name in line))[0] for name in ("first", "second")
    )
    assert first != second
    assert sum(line.count(first) for line in lines) > 5
    assert sum(line.count(second) for line in lines) > 3


def test_a_terminal_without_unicode_gets_plain_characters() -> None:
    assert "".join(terminal_lines([CURVE, OTHER], TextStyle(braille=False))).isascii()


def test_smoothing_keeps_a_constant_and_halves_a_spike() -> None:
    assert smooth([(x, 3.0) for x in range(5)], 3) == [(x, 3.0) for x in range(5)]
    assert smooth([(0, 0.0), (1, 3.0), (2, 0.0)], 3)[1] == (1, 1.0)


def test_smoothing_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        smooth([(0, 1.0)], 0)


ROUNDS = [
    *(record(step, 1, loss=1.0, epoch=(step - 1) // 10 + 1) for step in range(1, 26)),
    *(record(step, 2, loss=0.5, epoch=(step - 1) // 10 + 1) for step in range(21, 41)),
    record(40, 2, "validation", accuracy=0.9, epoch=4),
]


def test_over_steps_a_later_round_replaces_what_it_did_again() -> None:
    curve = make_curve("run", ROUNDS, [LOSS, ACCURACY], [20, 40])
    assert curve.series[LOSS] == [(float(s), 1.0 if s < 21 else 0.5) for s in range(1, 41)]
    assert (curve.series[ACCURACY], curve.restarts, curve.checkpoints) == ([(40.0, 0.9)], [21.0], [20.0, 40.0])


def test_over_epochs_the_end_of_the_first_is_one() -> None:
    curve = make_curve("run", ROUNDS, [LOSS, ACCURACY], [20], Axis.EPOCH)
    points = {step: x for step, (x, _) in zip(range(1, 41), curve.series[LOSS], strict=True)}
    assert (points[10], points[25], points[40]) == pytest.approx((1.0, 2.5, 4.0))
    assert (curve.series[ACCURACY][0][0], curve.restarts[0], curve.checkpoints[0]) == pytest.approx((4.0, 2.1, 2.0))


def test_over_time_the_pause_of_a_restart_is_seen() -> None:
    curve = make_curve("run", ROUNDS, [LOSS], [], Axis.TIME)
    xs = [x for x, _ in curve.series[LOSS]]
    assert (xs[0], xs[19], xs[20]) == (0, 190, 300)
    assert curve.restarts == [300]


def test_a_checkpoint_between_two_records_stands_between_them() -> None:
    records = [record(step, loss=1.0) for step in (10, 20)]
    assert make_curve("run", records, [LOSS], [15], Axis.TIME).checkpoints == [50]


KNOWN = [LOSS, RATE, Metric("validation", "loss"), ACCURACY, Metric("test", "accuracy")]


@pytest.mark.parametrize(
    ("word", "metric"),
    [
        ("loss", LOSS), ("accuracy", ACCURACY), ("validationLoss", KNOWN[2]), ("validation.loss", KNOWN[2]),
        ("test-accuracy", KNOWN[4]), ("learningrate", RATE), ("perplexity", None),
    ],
)  # fmt: skip
def test_a_metric_is_found_as_users_write_it(word: str, metric: Metric | None) -> None:
    assert find_metric(word, KNOWN) == metric


def test_epoch_and_samples_are_no_metrics() -> None:
    assert metrics_of([record(1, loss=1.0, epoch=1, samples=32)]) == [LOSS]


@pytest.mark.parametrize(
    "curves",
    [
        CURVE, [CURVE, OTHER], [replace(CURVE, name=f"run {i}", axis=Axis.TIME) for i in range(10)], Curve(),
        Curve("", {ACCURACY: RISING}), Curve("", {LOSS: [(1, 0.0)]}),
    ],
)  # fmt: skip
def test_the_png_has_the_promised_size(curves: Curve | Sequence[Curve], tmp_path: Path) -> None:
    path = tmp_path / "new" / "curve.png"
    write_picture(curves, path, PictureStyle(width=800, height=500))
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (800, 500)
    assert list(path.parent.iterdir()) == [path]


def test_the_svg_is_one(tmp_path: Path) -> None:
    write_picture([CURVE, OTHER], tmp_path / "curve.svg")
    assert ElementTree.parse(tmp_path / "curve.svg").getroot().tag.endswith("svg")


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_picture(CURVE, tmp_path / "curve.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_the_table_has_a_row_for_each_value_that_counts(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [Measured("run", ROUNDS, [])], [LOSS, ACCURACY])
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 41
    assert rows[-1] == {
        "run": "run", "metric": "validation.accuracy", "round": "2", "step": "40", "epoch": "4", "samples": "",
        "time": "2026-01-02T00:10:00+00:00", "value": "0.9",
    }  # fmt: skip
