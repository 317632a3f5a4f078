"""Pods that do not start get the words of their Events; nobody waits long, and the API server is not asked often."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from dlcloud_operator.core.model import PodPhase, PodView
from dlcloud_operator.kube import troubles as module
from dlcloud_operator.kube.pods import read_pod
from dlcloud_operator.kube.troubles import Troubles, newest_trouble

from .objects import CREATED, Json, held_back, job_view, stamp

JOB = job_view()
LATER = CREATED + timedelta(seconds=11)
MOUNT = 'MountVolume.SetUp failed for volume "store-ca" : configmap "ca" not found'


def event(reason: str, message: str, second: int = 5, kind: str = "Warning", **fields: Any) -> Json:
    return {
        "metadata": {"creationTimestamp": stamp(0)},
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": stamp(second),
        **fields,
    }


class EventServer:
    """Answers lists of events; counts them."""

    def __init__(self, *events: Json) -> None:
        self.events = list(events)
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.hangs = False

    async def get(self, path: str, **params: str) -> Json:
        assert path == "/api/v1/namespaces/default/events"
        self.asked.append(params["fieldSelector"])
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return {"items": self.events}


def creating(uid: str = "pod-uid") -> PodView:
    found = read_pod(held_back("ContainerCreating"))
    assert found is not None
    return replace(found, uid=uid)


def explain(server: EventServer, pods: Sequence[PodView] | None = None, after: float = 11.0) -> Sequence[PodView]:
    return asyncio.run(Troubles(server).explained(JOB, pods or [creating()], CREATED + timedelta(seconds=after)))


def test_a_volume_that_cannot_be_mounted_is_told_in_the_kubelets_words() -> None:
    server = EventServer(event("Scheduled", "assigned", 1, "Normal"), event("FailedMount", MOUNT))
    (pod,) = explain(server)
    assert (pod.waiting_reason, pod.waiting) == ("MountFailed", f"FailedMount: {MOUNT}")
    assert server.asked == ["involvedObject.uid=pod-uid"]


def test_a_sandbox_that_fails_keeps_its_own_reason() -> None:
    (pod,) = explain(EventServer(event("FailedCreatePodSandBox", "plugin type=cni failed")))
    assert (pod.waiting_reason, pod.waiting) == (
        "FailedCreatePodSandBox",
        "FailedCreatePodSandBox: plugin type=cni failed",
    )


def test_a_pod_that_has_just_been_placed_is_not_asked_about() -> None:
    server = EventServer(event("FailedMount", MOUNT))
    assert explain(server, after=9)[0].waiting == "the container is being created"
    assert server.asked == []


def test_only_pods_that_are_being_created_are_asked_about() -> None:
    server = EventServer(event("FailedMount", MOUNT))
    others = [
        replace(creating(), phase=PodPhase.RUNNING),
        replace(creating(), waiting_reason="ImagePull"),
        replace(creating(), deleting=True),
    ]
    assert list(explain(server, others)) == others
    assert server.asked == []


def test_the_newest_of_several_troubles_is_told() -> None:
    old, new = event("FailedMount", "old", 5), event("FailedAttachVolume", "new", 8)
    assert newest_trouble([new, old]) == ("MountFailed", "FailedAttachVolume: new")


def test_a_series_of_events_counts_by_its_last_time() -> None:
    repeated = event("FailedMount", "repeated", 1, series={"count": 9, "lastObservedTime": stamp(30)})
    assert newest_trouble([repeated, event("FailedMount", "once", 8)]) == ("MountFailed", "FailedMount: repeated")


def test_an_image_that_is_being_pulled_is_no_trouble() -> None:
    found = newest_trouble([event("FailedMount", "over", 2), event("Pulling", 'Pulling image "x"', 6, "Normal")])
    assert found == ("ContainerCreating", 'Pulling image "x"')


def test_events_that_tell_nothing_leave_the_pods_words() -> None:
    assert explain(EventServer())[0].waiting == "the container is being created"
    assert newest_trouble({"no": "list"}) is None


def test_a_job_is_asked_about_every_30_s_and_keeps_its_words_meanwhile() -> None:
    server = EventServer(event("FailedMount", MOUNT))

    async def passes() -> list[str]:
        troubles = Troubles(server)
        found = []
        for after in (11, 20, 40, 42):
            server.events = [event("FailedMount", f"at {after}")]
            found.append((await troubles.explained(JOB, [creating()], CREATED + timedelta(seconds=after)))[0].waiting)
        return found

    assert asyncio.run(passes()) == [f"FailedMount: at {after}" for after in (11, 11, 11, 42)]
    assert len(server.asked) == 2


def test_of_many_pods_some_are_asked_about_and_the_others_share_their_words() -> None:
    server = EventServer(event("FailedMount", MOUNT))
    pods = explain(server, [creating(f"pod-{n}") for n in range(20)])
    assert len(server.asked) == 3
    assert {pod.waiting for pod in pods} == {f"FailedMount: {MOUNT}"}


def test_an_api_server_that_refuses_leaves_the_pods_words() -> None:
    server = EventServer()
    server.error = OSError("no route to host")
    assert explain(server)[0].waiting == "the container is being created"


def test_an_api_server_that_hangs_holds_nobody_up(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_WAIT_S", 0.05)
    server = EventServer()
    server.hangs = True
    assert explain(server)[0].waiting == "the container is being created"


def test_only_some_jobs_are_asked_about_at_once() -> None:
    server = EventServer()
    server.hangs = True

    async def many() -> int:
        troubles = Troubles(server)
        tasks = [
            asyncio.create_task(troubles.explained(job_view(uid=f"job-{n}"), [creating()], LATER)) for n in range(20)
        ]
        _, waiting = await asyncio.wait(tasks, timeout=0.2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return len(waiting)

    assert asyncio.run(many()) == 4
    assert len(server.asked) == 4
