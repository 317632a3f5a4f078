"""Faults tried on a job that trains, one after the other, and what a user saw of each: `Life`, `Aftermath`.

May import the rigs. A life is lived once, by a fixture of a module, and looked at by many tests: most of a fault's time
is the waiting until training goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cluster.nodes import Nodes
from ..rig.client import KubeError
from ..rig.cluster import Cluster
from ..rig.processes import RigError
from . import evidence
from .jobs import Jobs, Object
from .release import Release
from .store import Store
from .story import Cost, Story
from .turns import turn
from .waiting import until

# For `create_long`: a small network, which leaves a shared machine to others, for minutes also on a fast one.
CHEAP: Object = {"architecture": "conv8", "augment": False, "epochs": 10_000}


@dataclass
class Aftermath:
    """One fault: the job's status and its pods' uids before and after, and what it said in between."""

    name: str
    at: float
    before: Object
    after: Object
    uids_before: dict[int, str]
    uids_after: dict[int, str]
    messages: list[str]
    phases: list[str]
    cost: Cost | None = None
    said: list[str] = field(default_factory=list)  # by the agents of pods that lived through it, of the hit round

    @property
    def round(self) -> int:
        """The one that the fault hit."""
        return int(self.before["round"]["number"])

    @property
    def failures(self) -> list[Object]:
        """What the status says ended the rounds of the fault."""
        first, last = self.round, self.after["round"]["number"]
        return [one for one in self.after.get("failures") or () if first <= one["round"] < last]

    @property
    def failure(self) -> Object:
        """What ended the round that the fault hit."""
        return next((one for one in self.failures if one["round"] == self.round), {})

    @property
    def restarts(self) -> int:
        """How many more there were."""
        return int(self.after["restarts"]) - int(self.before["restarts"])

    @property
    def replaced(self) -> list[int]:
        """The workers that have another pod now."""
        return [index for index, uid in self.uids_before.items() if self.uids_after.get(index) != uid]


class Life:
    """A job that trains until it is deleted. After a fault that it did not survive no other is tried."""

    def __init__(self, jobs: Jobs, story: Story) -> None:
        self.jobs, self.story, self.name = jobs, story, story.name
        self.over: Exception | None = None
        self.left: list[str] = []
        self._lived: dict[str, Aftermath] = {}

    def after(self, name: str) -> Aftermath:
        """What a fault did. Raises what went wrong with it, or with one before it."""
        if name in self._lived:
            return self._lived[name]
        raise self.over or AssertionError(f"{name} was not tried")

    def suffer(self, name: str, hit: Callable[[], Any]) -> None:
        """Try a fault; return when training has gone on and the cause is told. `hit` may return when it was."""
        if self.over is not None:
            return
        try:
            before = self.story.until_further_than_ever()
            uids = self.jobs.uids(self.name)
            at = time.time()
            told = hit()
            at = told if isinstance(told, float) else at
            self.jobs.until_goes_on(self.name, before)
            after = self.until_told(before)
            one = self._lived[name] = Aftermath(
                name, at, before, after, uids, self.jobs.uids(self.name), self.story.messages(at), self._phases(at)
            )
            one.said = self._words(one)
        except Exception as error:
            self.over = error

    def until_told(self, before: Object) -> Object:
        """The status once it names what ended the round of the status `before`, in a round that trains."""
        number = before["round"]["number"]

        def look(status: Object) -> Object | None:
            settled = any(one["round"] == number for one in status.get("failures") or ())
            return status if settled and status.get("round") and status["phase"] == "Running" else None

        found: Object = self.jobs.until(self.name, f"the cause of round {number}'s end is told", look)
        return found

    def reckon(self) -> None:
        """Take the costs from the records in the store, and note them. Once, when all faults are over."""
        for one in self._lived.values():
            one.cost = self.story.cost(one.at, one.before)
            evidence.note(
                "fault", name=one.name, seconds=one.cost.seconds, stepsLost=one.cost.steps_lost,
                state=one.after["phase"], reason=one.failure.get("reason"), agents=one.said, messages=one.messages,
            )  # fmt: skip

    def see_it_deleted(self, nodes: Nodes | None) -> None:
        """Delete the job while it trains; what is left of it, on the nodes as well, is in `left` then."""
        if self.over is not None:
            return
        pods = list(self.story.pods().values())
        try:
            self.jobs.until_clean(self.name)
        except (AssertionError, RigError) as error:
            self.left.append(str(error))
        for pod in pods if nodes is not None else ():
            assert nodes is not None
            node, uid = pod["spec"]["nodeName"], pod["metadata"]["uid"]
            with contextlib.suppress(RigError):
                until("its processes end", lambda node=node, uid=uid: not nodes.processes(node, uid), 60)  # type: ignore[misc]
                continue
            self.left.append(f"{pod['metadata']['name']}: {nodes.processes(node, uid)}")

    def _words(self, fault: Aftermath) -> list[str]:
        mark, stayed = f"[agent] round {fault.round}:", set(fault.uids_after) - set(fault.replaced)
        found: list[str] = []
        for index in sorted(stayed):
            with contextlib.suppress(KubeError, LookupError):  # they help to understand, and decide nothing
                found += self.jobs.logs(self.jobs.pod(self.name, index)).splitlines()
        return [line for line in found if line.startswith(mark)]

    def _phases(self, since: float) -> list[str]:
        seen = [status["phase"] for at, status in self.story.statuses() if at >= since and status.get("phase")]
        return [phase for phase, before in zip(seen, [None, *seen], strict=False) if phase != before]


@contextlib.contextmanager
def own_namespace(
    cluster: Cluster, release: Release, store: Store, turns: Path, made: list[str], *, alone: bool
) -> Iterator[Jobs]:
    """Jobs of a namespace of a module's own, within a turn of the module's own; `made` gets the namespace's name."""
    with turn(turns, alone=alone):
        release.wait_leading()
        made.append(cluster.make_namespace("e2e"))
        try:
            release.admit(made[-1])
            yield Jobs(cluster, made[-1])
        finally:
            cluster.delete_namespace(made[-1])
