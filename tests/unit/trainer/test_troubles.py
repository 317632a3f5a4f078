"""Warnings that end."""

from __future__ import annotations

import json
import os
from typing import Any

from dlcloud_trainer.events import Events
from dlcloud_trainer.troubles import Troubles


def tell(*acts: tuple[str, str], inherited: bool = False) -> list[tuple[str, str]]:
    """Event and reason of what was told by these calls."""
    read, write = os.pipe()
    troubles = Troubles(Events(write), inherited=inherited)
    for act, reason in acts:
        getattr(troubles, act)(reason, "words")
    os.close(write)
    with os.fdopen(read) as pipe:
        told: list[dict[str, Any]] = [json.loads(line) for line in pipe]
    return [(one["event"], one["reason"]) for one in told]


def test_an_end_is_told_after_a_warning_and_only_once() -> None:
    assert tell(("over", "A"), ("warn", "A"), ("over", "B"), ("over", "A"), ("over", "A")) == [
        ("warning", "A"),
        ("recovered", "A"),
    ]


def test_what_an_earlier_round_may_have_warned_of_is_ended_once() -> None:
    assert tell(("over", "A"), ("over", "A"), inherited=True) == [("recovered", "A")]


def test_a_trouble_that_returns_is_ended_again() -> None:
    told = tell(("warn", "A"), ("over", "A"), ("warn", "A"), ("over", "A"))
    assert told == [("warning", "A"), ("recovered", "A")] * 2
