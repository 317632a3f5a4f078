"""What is said of a store that takes no checkpoint, and when it is too long."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from dlcloud_trainer.checkpoint.errors import AccessDenied, StoreUnreachable
from dlcloud_trainer.checkpoint.trouble import Trouble

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_an_upload_that_gets_nowhere_is_told_with_its_step_its_beginning_and_its_end() -> None:
    said: list[tuple[str, str]] = []
    trouble = Trouble(60, lambda *told: said.append(told))
    assert not trouble
    trouble.met(StoreUnreachable("the store is away"), SINCE, 7, time.monotonic() + 60)
    assert trouble
    ((reason, message),) = said
    assert reason == "CheckpointUploadFailed"
    assert message.startswith("the checkpoint of step 7 cannot be saved since 03:04:05Z: the store is away (training")
    with trouble.waited_for():
        assert "(the job waits for it; tried again until " in said[1][1]
    trouble.end()
    assert not trouble
    with trouble.waited_for():
        assert len(said) == 2, "there is nothing to tell"


def test_three_limits_without_a_commit_end_training_with_the_last_error() -> None:
    said: list[str] = []
    trouble = Trouble(10, lambda reason, message: said.append(message))
    now = time.monotonic()
    assert trouble.failed(AccessDenied("keys"), now - 29) is None
    assert said == ["keys; training goes on, the next save tries again"]
    trouble.end()
    assert trouble.failed(AccessDenied("keys"), now - 25) is None, "counted from the first failure after a commit"
    trouble.end()
    assert str(trouble.failed(AccessDenied("keys"), now - 31)) == (
        "no checkpoint could be saved for 31 s (3 x limits.checkpoint): keys"
    )
