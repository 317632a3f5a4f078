"""What can end a round, which of several facts is the cause, and what each costs.

May import api only. The order is total: the gravest of some facts does not depend on the order in which they came in.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from dlcloud_operator.api import Failure, Outcome

# Gravest first; within a tier the earliest fact decides. Bad input stands first: no loss of a pod explains it and no
# restart helps. A lost pod explains all that its peers and the store say afterwards. What dlcloud itself got wrong (a
# busy port, a hung fork) stands above signals and errors, because a script's other ranks abort or exit with 1 then. An
# error and a stall share a tier: the earlier one is the cause and the other its consequence.
_TIERS = (
    (Outcome.INVALID_INPUT,),
    (Outcome.POD_LOST, Outcome.PREEMPTED, Outcome.DRAINED),
    (Outcome.STORE_UNUSABLE,),
    (Outcome.STORE_AWAY,),
    (Outcome.OUT_OF_MEMORY,),
    (Outcome.PORT_BUSY, Outcome.FORK_HANG),
    (Outcome.SIGNAL,),
    (Outcome.ERROR, Outcome.STALLED),
    (Outcome.FENCED,),
    (Outcome.PEER_LOST,),
    (Outcome.STOPPED,),
    (Outcome.SUCCEEDED,),
)
_TIER = {outcome: tier for tier, outcomes in enumerate(_TIERS) for outcome in outcomes}

COUNTED = frozenset({Outcome.OUT_OF_MEMORY, Outcome.SIGNAL, Outcome.ERROR, Outcome.STALLED})
FATAL = frozenset({Outcome.INVALID_INPUT, Outcome.STORE_UNUSABLE})
LOSS = frozenset({Outcome.POD_LOST, Outcome.PREEMPTED, Outcome.DRAINED})
NOT_FRUITLESS = LOSS | {Outcome.STOPPED}  # ends that say nothing about whether the program gets anywhere
NEITHER = frozenset({Outcome.STORE_AWAY})  # nobody's program could have got further: limited by AWAY_ROUNDS alone
NOT_A_RESTART = frozenset({Outcome.PORT_BUSY})


def gravest(causes: Iterable[Failure | None]) -> Failure | None:
    """The cause among several facts about one round; None when there is none."""
    return min((cause for cause in causes if cause is not None), key=_order, default=None)


def make(
    reason: Outcome,
    time: datetime,
    round_number: int,
    message: str = "",
    worker: int | None = None,
    rank: int | None = None,
    exit_code: int | None = None,
) -> Failure:
    """A fact as the status shows it; whether it counts follows from its reason."""
    return Failure(
        time=time,
        round=round_number,
        worker=worker,
        rank=rank,
        reason=reason,
        exit_code=exit_code,
        counted=reason in COUNTED,
        message=_last_part(message),
    )


def tell(cause: Failure) -> str:
    """A fact in one line: `worker 1, rank 3: Error (exit code 1): ValueError: no such column`."""
    who = [f"worker {cause.worker}"] if cause.worker is not None else []
    who += [f"rank {cause.rank}"] if cause.rank is not None else []
    code = f" (exit code {cause.exit_code})" if cause.exit_code is not None else ""
    words = [line.strip() for line in cause.message.splitlines() if line.strip()]
    parts = [", ".join(who)] if who else []
    parts += [f"{cause.reason.value}{code}", *words[-1:]]
    return ": ".join(parts)[:512]


def _order(cause: Failure) -> tuple[int, bool, datetime, int, int, str]:
    rank = -1 if cause.rank is None else cause.rank
    worker = -1 if cause.worker is None else cause.worker
    # A rank that drained followed some pod's departure, its own or another's: where one is known, that is the cause.
    follows = cause.reason is Outcome.DRAINED and cause.rank is not None
    return (_TIER[cause.reason], follows, cause.time, worker, rank, cause.reason.value)


def _last_part(text: str) -> str:
    """At most 1 KiB, from the end: there a traceback names its error."""
    data = text.encode()
    return text if len(data) <= 1024 else "…" + data[-1021:].decode(errors="ignore")
