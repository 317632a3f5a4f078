"""Conditions as every Kubernetes object has them: one entry per type, with a transition time that is true.

May import api and the core's draft.
"""

from __future__ import annotations

from datetime import datetime

from dlcloud_operator.api import Condition

from .draft import Draft

MAX_CONDITIONS = 16
ADMITTED = "Admitted"
PODS_READY = "PodsReady"
TRAINING = "Training"
SUSPENDED = "Suspended"
COMPLETE = "Complete"
FAILED = "Failed"
RECOVERED = "Recovered"  # the reason of a warning's condition that holds no more
STORE_TROUBLES = ("CheckpointUploadFailed", "StoreUnreachable")  # warnings of ranks that a user should see at once
OWN = frozenset({ADMITTED, PODS_READY, TRAINING, SUSPENDED, COMPLETE, FAILED})


def set_condition(draft: Draft, now: datetime, kind: str, holds: bool, reason: str, message: str = "") -> bool:
    """Say whether a condition holds; its transition time moves with the answer alone. True when the answer is new."""
    old = find(draft, kind)
    changed = old is None or (old.status == "True") != holds
    new = Condition(
        type=kind,
        status="True" if holds else "False",
        reason=reason,
        message=message[:1024],
        last_transition_time=now if old is None or changed else old.last_transition_time,
        observed_generation=draft.generation,
    )
    conditions = draft.status.conditions
    if old is None:
        if len(conditions) < MAX_CONDITIONS:
            draft.update(conditions=[*conditions, new])
    elif old != new:
        draft.update(conditions=[new if condition.type == kind else condition for condition in conditions])
    return changed


def find(draft: Draft, kind: str) -> Condition | None:
    """The condition of a type as it stands, None when it was never set."""
    return next((condition for condition in draft.status.conditions if condition.type == kind), None)


def holds(draft: Draft, kind: str) -> bool:
    """Whether a condition is True."""
    condition = find(draft, kind)
    return condition is not None and condition.status == "True"
