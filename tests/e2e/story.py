"""What happens to a job, with times: every version of it and of its pods, as a user's watch would see them.

May import the rigs. `Story` watches in the background from its making; it decides nothing, and asks for nothing twice.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ..rig.client import KubeError
from .jobs import Jobs, Object
from .store import Record, Store
from .waiting import until

_WATCH_S = 60
FURTHER_S = 120.0
RECORDED_S = 120.0


@dataclass(frozen=True)
class Moment:
    """A change as the watch told it; `at` is this machine's clock, seconds since the epoch."""

    at: float
    kind: str  # "job" or "pod"
    change: str  # ADDED, MODIFIED, DELETED
    object: Object

    @property
    def status(self) -> Object:
        found: Object = self.object.get("status") or {}
        return found


@dataclass
class Cost:
    """What a fault cost: `seconds` from it to the first step after it, and steps that had to be made again."""

    seconds: float
    steps_lost: int
    furthest: int
    resumed_from: int


@dataclass
class Story:
    """`with Story(jobs, "name", store) as story:`; the job need not exist yet."""

    jobs: Jobs
    name: str
    store: Store
    moments: list[Moment] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Story:
        selectors = {
            "job": (self.jobs.path, {"fieldSelector": f"metadata.name={self.name}"}),
            "pod": (self.jobs.pods_path, {"labelSelector": f"dlcloud.dev/job={self.name}"}),
        }
        for kind, (path, query) in selectors.items():
            threading.Thread(target=self._follow, args=(kind, path, query), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    # --- what was seen ---

    def statuses(self) -> list[tuple[float, Object]]:
        """The job's statuses with the times they were seen at."""
        return [(one.at, one.status) for one in list(self.moments) if one.kind == "job"]

    def phases(self) -> list[str]:
        """The phases in their order, each once in a row."""
        found: list[str] = []
        for _, status in self.statuses():
            phase = status.get("phase") or ""
            if phase and found[-1:] != [phase]:
                found.append(phase)
        return found

    def messages(self, since: float = 0.0) -> list[str]:
        """The status's messages since a time, each once in a row."""
        found: list[str] = []
        for at, status in self.statuses():
            message = status.get("message") or ""
            if at >= since and message and found[-1:] != [message]:
                found.append(message)
        return found

    def pods(self) -> dict[str, Object]:
        """uid -> last version of every pod the job ever had."""
        return {one.object["metadata"]["uid"]: one.object for one in list(self.moments) if one.kind == "pod"}

    # --- what it cost ---

    def until_further_than_ever(self) -> Object:
        """The status once its round has made again all that those before it lost: `cost` would reckon that a second
        time, as what the next fault cost."""

        def look() -> Object | None:
            status = self.jobs.until_training(self.name)
            number = status["round"]["number"]
            records = self.store.steps(self.name, self.jobs)
            made = [one["step"] for one in records if one["round"] == number]
            before = [one["step"] for one in records if one["round"] < number]
            told = [(seen.get("progress") or {}).get("step") or 0 for _, seen in self.statuses()]
            return status if made and max(made) >= max([*before, *told]) else None

        found: Object = until(f"{self.name} trains further than ever", look, FURTHER_S)
        return found

    def cost(self, fault_at: float, before: Object) -> Cost:
        """Of a fault at `fault_at` (time.time()), where `before` is the job's status then, of `until_further_than_ever`
        where there were rounds before. The job must have gone on.

        Steps come from the records in the store (`parameters.logEverySteps: 1`), which have the times of the ranks;
        what a killed rank 0 could not write any more, from what the operator was told.
        """
        number = before["round"]["number"]
        what = f"a step of {self.name} after round {number} is recorded"  # they are kept some seconds later
        later = until(what, lambda: self._steps_after(number), RECORDED_S)
        records = self.store.steps(self.name, self.jobs)
        first = min(later, key=lambda one: float(one["at"]))
        told = []
        for _, status in self.statuses():
            if (status.get("round") or {}).get("number", 0) > number:
                break  # between two later rounds there is none: such a status is of no interest either
            told.append((status.get("progress") or {}).get("step") or 0)
        made = [one["step"] for one in records if one["round"] <= number]
        furthest = max([*told, *made, (before.get("progress") or {}).get("step") or 0])
        resumed = first["step"] - 1
        return Cost(round(first["at"] - fault_at, 2), max(0, furthest - resumed), furthest, resumed)

    # --- inside ---

    def _steps_after(self, number: int) -> list[Record]:
        return [one for one in self.store.steps(self.name, self.jobs) if one["round"] > number]

    def _follow(self, kind: str, path: str, query: dict[str, str]) -> None:
        seen: set[str] = set()
        while not self._over.is_set():
            with contextlib.suppress(KubeError):
                for event in self.jobs.api.watch(path, timeout_s=_WATCH_S, **query):
                    if self._over.is_set():
                        return
                    self._note(kind, event, seen)
            self._over.wait(0.2)

    def _note(self, kind: str, event: Any, seen: set[str]) -> None:
        """A watch begins with what there is: the same versions again after it ended."""
        body = event["object"]
        version = (body.get("metadata") or {}).get("resourceVersion", "")
        if event["type"] in ("ADDED", "MODIFIED", "DELETED") and version not in seen:
            seen.add(version)
            self.moments.append(Moment(time.time(), kind, event["type"], body))
