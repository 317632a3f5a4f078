"""The learning curve fits its terminal, and its picture is a picture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dlcloud.curve import Curve, smooth, terminal_lines, write_png

FALLING = [(step, 2.5 * math.exp(-step / 60) + 0.05) for step in range(1, 300)]
RISING = [(step, 0.98 - 0.6 * math.exp(-step / 80)) for step in range(23, 300, 23)]
CURVE = Curve(loss=FALLING, accuracy=RISING, restarts=(120,), checkpoints=(100, 299))


@pytest.mark.parametrize("width", [80, 40, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(len(line) for line in terminal_lines(CURVE, width=width)) <= width


def test_a_falling_loss_falls_on_the_screen() -> None:
    lines = terminal_lines(Curve(loss=FALLING), width=60, height=6)
    panel = [line[9:].ljust(51) for line in lines[1:7]]
    left, right = [row[0] for row in panel], [row[48:51] for row in panel]
    assert left[0] != " ", "the first loss is the highest"
    assert right[0].strip() == "", "nothing high at the end"
    assert right[-1].strip() != "", "the end is low"


def test_restart_and_checkpoints_stand_below_their_steps() -> None:
    lines = terminal_lines(CURVE, width=80)
    marks = next(line for line in lines if set(line.strip()) <= {"x", "c", " "} and line.strip())
    assert marks.index("x") - 9 == round(120 / 299 * 70)
    assert marks.rindex("c") == 79
    assert lines[-1].strip() == "x restart, c checkpoint kept"


def test_values_at_both_ends_are_named() -> None:
    assert "train loss: 2.51 -> 0.0" in terminal_lines(CURVE)[0]


def test_without_metrics_there_is_a_sentence_instead_of_a_curve() -> None:
    assert terminal_lines(Curve()) == ["no metrics yet"]


@pytest.mark.parametrize("curve", [Curve(loss=[(1, 2.0)]), Curve(accuracy=[(5, 0.5), (9, 0.5)])])
def test_a_single_or_constant_value_is_drawn(curve: Curve) -> None:
    assert any(0x2800 < ord(c) < 0x2900 for line in terminal_lines(curve) for c in line)


def test_smoothing_keeps_a_constant_and_halves_a_spike() -> None:
    assert smooth([(x, 3.0) for x in range(5)], 3) == [(x, 3.0) for x in range(5)]
    assert smooth([(0, 0.0), (1, 3.0), (2, 0.0)], 3)[1] == (1, 1.0)


def test_smoothing_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        smooth([(0, 1.0)], 0)


@pytest.mark.parametrize("curve", [CURVE, Curve(loss=FALLING), Curve(accuracy=RISING), Curve()])
def test_the_png_has_the_promised_size(curve: Curve, tmp_path: Path) -> None:
    path = tmp_path / "new" / "curve.png"
    write_png(curve, path, "cnn-digits")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (1600, 1000)
