"""The operator is killed (SIGKILL) around each of its writes in turn; whatever the moment, the job ends the same way.

The proxy between operator and API server counts the writes of one job's life and strikes at the n-th: before it is
passed on, or after the server has carried it out and before the operator hears of it. Agents are played.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest

from ...rig.cluster import Cluster
from ...rig.jobs import Jobs, Object, settled
from ...rig.kubelet import Kubelet
from ...rig.processes import until
from .conftest import Install
from .installation import Installation, OperatorProcess
from .proxy import Call, Proxy, nth_write

FEWEST, MOST = 5, 40  # writes of one job's life; between 7 and 15 were seen


@dataclass
class Stage:
    """One release whose only operator is killed and started again, behind a proxy."""

    release: Installation
    proxy: Proxy
    jobs: Jobs
    node: Kubelet
    operator: OperatorProcess

    def live(self, name: str, strike: Callable[[Callable[[Call], bool]], object] | None = None) -> Object:
        """A job from its creation to its end; what is left of it. `strike` arms the proxy for its writes."""

        def about_it(call: Call) -> bool:
            return f"/{name}" in call.path or f'"{name}'.encode() in call.body

        if strike is not None:
            strike(about_it)
        self.jobs.create(name)
        self._while_it_restarts(lambda: self._trains(name, 1), f"{name} trains in its first round")
        lost = self.jobs.pods(name)[1]["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": lost["uid"]}}  # without a last word
        self.jobs.api.delete(f"{self.jobs.pods_path}/{lost['name']}", options)
        self._while_it_restarts(lambda: self._trains(name, 2), f"{name} trains in its second round")
        self._while_it_restarts(lambda: self.jobs.status(name).get("failures"), "the cause is told")
        self.node.play.succeed.add(name)
        self._while_it_restarts(lambda: self.jobs.phase(name) == "Succeeded", f"{name} succeeds")
        self._while_it_restarts(lambda: all(_ended(pod) for pod in self.jobs.pods(name)), "its pods have ended")
        return settled(self.jobs.get(name), self.jobs.pods(name))

    def _trains(self, name: str, number: int) -> bool:
        told = self.jobs.condition(name, "Training")
        return told.get("status") == "True" and told["message"] == f"round {number}"

    def _while_it_restarts(self, look: Callable[[], object], what: str) -> None:
        """Wait, and start the operator again when it has been killed."""

        def turn() -> bool:
            if not self.operator.running:
                self.operator = self.release.start_operator(proxy=self.proxy, name=self.operator.name, wait=False)
            return bool(look())

        try:
            until(what, turn, 60, poll_s=0.05)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.release.logs()[-8000:]}") from None


@pytest.fixture(scope="module")
def stage(control_plane: Cluster, install: Install, own_home: str, node: Kubelet) -> Iterator[Stage]:
    node.play.work_s = None
    jobs, release = Jobs(control_plane, own_home), install(own_home)
    with Proxy(jobs.cluster.kubeconfig) as proxy:
        operator = release.start_operator(proxy=proxy)
        operator.wait_leading()
        yield Stage(release, proxy, jobs, node, operator)
        for one in release.operators:
            one.kill()
    node.play.succeed.clear()


@pytest.fixture(scope="module")
def undisturbed(stage: Stage) -> tuple[Object, int]:
    """What is left of a job whose operator nobody killed, and how many writes that took, its events left out."""
    before = len(stage.proxy.writes())
    left = stage.live("calm")
    writes = [call for call in stage.proxy.writes()[before:] if not call.path.endswith("/events")]
    assert FEWEST <= len(writes) <= MOST, [str(call) for call in writes]
    return left, len(writes)


def test_an_undisturbed_job_loses_one_pod_and_succeeds(undisturbed: tuple[Object, int]) -> None:
    left, _ = undisturbed
    assert left["pods"] == [["JOB-0-1", "Succeeded"], ["JOB-1-2", "Succeeded"]]
    assert left["status"]["phase"] == "Succeeded" and left["status"]["restarts"] == 1


def test_killed_after_a_write_whose_answer_it_never_got(stage: Stage, undisturbed: tuple[Object, int]) -> None:
    """Every fourth write; the long form below takes all of them."""
    check(stage, undisturbed, range(2, undisturbed[1] + 1, 4), after=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_around_every_single_write(stage: Stage, undisturbed: tuple[Object, int], after: bool) -> None:
    check(stage, undisturbed, range(1, undisturbed[1] + 1), after=after)


def check(stage: Stage, undisturbed: tuple[Object, int], numbers: Iterable[int], *, after: bool) -> None:
    """One life for each number: the operator dies around that write, and nothing is different afterwards."""
    for number in numbers:
        when = "after" if after else "before"
        killed: list[OperatorProcess] = []

        def kill(killed: list[OperatorProcess] = killed) -> None:
            killed.append(stage.operator)
            stage.operator.kill()

        def arm(about: Callable[[Call], bool], number: int = number, kill: Callable[[], None] = kill) -> None:
            matches = nth_write(number, lambda call: not call.path.endswith("/events") and about(call))
            stage.proxy.strike(matches, **({"after": kill} if after else {"before": kill}))

        left = stage.live(f"{when}-{number}-{secrets.token_hex(2)}", arm)
        # Two changes at once are one write: a life may take one or two fewer than another.
        assert killed or number > undisturbed[1] - 3, f"write {number} never came"
        assert _lines(left) == _lines(undisturbed[0]), f"killed {when} write {number}"


def _ended(pod: Object) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def _lines(left: Object) -> list[str]:
    """As text, so that a difference is shown where it is."""
    return json.dumps(left, indent=1, sort_keys=True).splitlines()
