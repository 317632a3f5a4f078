"""Runs checks side by side, each within a limit, and hands out what they found in the order they are listed.

May import the standard library and this package. A check that hangs (a dead network disk, say) is left behind: its
thread ends with the program.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..jobs.errors import JobsError
from .findings import Check, Finding, Skipped, fail, skip, split_remedy

_GRACE_S = 1.0  # a check that keeps its limit itself gets to say so


@dataclass(frozen=True)
class Result:
    """A check, what it found and how long it took."""

    check: Check
    finding: Finding
    seconds: float


class _Slot:
    """Where a check's result is put."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: Result | None = None


def run_checks(checks: Sequence[Check], limit_s: float) -> Iterator[Result]:
    """The results in the order of `checks`, each as soon as it and those before it are known."""
    slots = [_Slot() for _ in checks]
    lanes: dict[str, list[tuple[Check, _Slot]]] = {}
    for check, slot in zip(checks, slots, strict=True):
        lanes.setdefault(check.lane, []).append((check, slot))
    for name, lane in lanes.items():
        threading.Thread(target=_run_lane, args=(lane, limit_s), name=name, daemon=True).start()
    for slot in slots:
        while not slot.done.wait(0.1):  # a wait without end would keep Ctrl-C out
            pass
        assert slot.result is not None
        yield slot.result


def _run_lane(lane: Sequence[tuple[Check, _Slot]], limit_s: float) -> None:
    for check, slot in lane:
        began = time.monotonic()
        found: list[Finding] = []

        def look(check: Check = check, found: list[Finding] = found) -> None:
            found.append(look_at(check))

        thread = threading.Thread(target=look, name=check.name, daemon=True)
        thread.start()
        thread.join(limit_s + _GRACE_S)
        finding = found[0] if found else fail(f"no answer within {limit_s:g} s", "try again with --limit 60")
        slot.result = Result(check, finding, time.monotonic() - began)
        slot.done.set()


def look_at(check: Check) -> Finding:
    """What the check finds, or what it raises as a finding."""
    try:
        return check.look()
    except Skipped as why:
        return skip(str(why))
    except JobsError as error:
        return fail(*split_remedy(str(error)))
    except OSError as error:
        return fail(str(error))
    except Exception as error:  # a defect here must not hide what the other checks found
        return fail(f"this check itself failed: {type(error).__name__}: {error}", "please report it")
