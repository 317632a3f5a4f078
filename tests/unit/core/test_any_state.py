"""Whatever the cluster, the agents and the stored status say: a plan answers, keeps the rules, and says all at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlcloud_operator.api import (
    EndedRound,
    Failure,
    Member,
    Outcome,
    Phase,
    Recovery,
    RoundStatus,
    TrainingJobStatus,
)
from dlcloud_operator.core import (
    CreatePod,
    DeleteJob,
    DeletePod,
    JobKey,
    JobView,
    PodExit,
    PodPhase,
    PodView,
    RankResult,
    RankState,
    RankView,
    Report,
    Reports,
    Wake,
    WriteStatus,
    plan,
)

from .scene import NAME, T0, spec_of

times = st.integers(0, 240).map(lambda number: T0 + timedelta(seconds=number / 2))
NOW = T0 + timedelta(seconds=100)
indexes = st.integers(0, 3)
uids = st.integers(0, 7).map(lambda number: f"uid-{number}")
outcomes = st.sampled_from(Outcome)
results = st.builds(
    RankResult, st.integers(1, 4), indexes, outcomes, times, st.none() | st.integers(-9, 137), st.text()
)
exits = st.builds(
    PodExit,
    at=times,
    exit_code=st.none() | st.sampled_from([0, 1, 127, 137, -9]),
    reason=st.sampled_from(["", "OOMKilled", "Error", "Evicted", "Completed"]),
    message=st.text(max_size=20),
    results=st.lists(results, max_size=3).map(tuple),
)
pods = st.builds(
    PodView,
    name=st.just(""),
    uid=st.just(""),
    index=indexes,
    incarnation=st.integers(1, 4),
    phase=st.sampled_from(PodPhase),
    created_at=times,
    deleting=st.booleans(),
    ip=st.sampled_from(["", "10.0.0.1"]),
    node_lost=st.booleans(),
    preempted=st.booleans(),
    waiting=st.text(max_size=10),
    exit=st.none() | exits,
    running_since=st.none() | times,
)
views = st.builds(
    RankView, indexes, st.sampled_from(RankState), st.none() | st.floats(0, 100), st.none() | st.integers(0, 99)
)
reports = st.builds(
    Report,
    pod_uid=st.just(""),
    received_at=times.map(lambda at: min(at, NOW)),
    round=st.integers(0, 4),
    address=st.sampled_from(["", "10.0.0.1"]),
    port=st.integers(0, 3),
    ranks=st.lists(views, max_size=2).map(tuple),
    results=st.lists(results, max_size=4).map(tuple),
    draining=st.booleans(),
)


@st.composite
def rounds(draw: st.DrawFn, number: int) -> RoundStatus:
    chosen = sorted(draw(st.sets(indexes, min_size=1)))
    members = [Member(index=index, pod=f"{NAME}-{index}-1", uid=draw(uids), ranks=[index]) for index in chosen]
    return RoundStatus(
        number=number,
        nonce="n",
        world_size=len(members),
        master="10.0.0.1",
        port=1,
        threads=1,
        members=members,
        started_at=draw(times),
        furthest_step_before=draw(st.integers(0, 20)),
    )


@st.composite
def statuses(draw: st.DrawFn) -> TrainingJobStatus:
    last_round = draw(st.integers(0, 4))
    current = draw(st.none() | rounds(last_round)) if last_round else None
    ended = [number for number in range(1, last_round) if draw(st.booleans())]
    blamed = st.builds(Failure, time=times, round=st.just(1), reason=outcomes, counted=st.booleans())
    unsettled = [
        EndedRound(round=draw(rounds(number)), ended_at=draw(times), cause=draw(st.none() | blamed)) for number in ended
    ]
    recovery = Recovery(
        incarnations=draw(st.dictionaries(indexes.map(str), st.integers(1, 4))),
        joined=draw(st.dictionaries(indexes.map(str), st.integers(1, 4))),
        unsettled=unsettled,
        counted_at=draw(st.lists(times, max_size=4)),
        rounds_without_progress=draw(st.integers(0, 2)),
        furthest_step=draw(st.integers(0, 30)),
        last_round=last_round,
        fruitless_rounds=draw(st.integers(0, 9)),
        last_ended_at=draw(st.none() | times),
        start_failures=draw(st.dictionaries(indexes.map(str), st.integers(1, 3))),
        suspects=draw(st.dictionaries(uids, times, max_size=2)),
    )
    phase = draw(st.none() | st.sampled_from(Phase))
    start_time = draw(st.none() | times)
    return TrainingJobStatus(phase=phase, round=current, recovery=recovery, start_time=start_time)


@st.composite
def observations(draw: st.DrawFn) -> tuple[JobView, tuple[PodView, ...], Reports]:
    spec = spec_of(
        draw(st.integers(1, 4)),
        draw(st.booleans()),
        suspend=draw(st.booleans()),
        activeDeadlineSeconds=draw(st.none() | st.integers(1, 200)),
        ttlSecondsAfterFinished=draw(st.none() | st.integers(0, 50)),
        cleanPods=draw(st.sampled_from(["All", "Running", "None"])),
    )
    seen = draw(st.lists(pods, max_size=6, unique_by=lambda pod: (pod.index, pod.incarnation)))
    named = tuple(
        replace(pod, name=f"{NAME}-{pod.index}-{pod.incarnation}", uid=f"uid-{number}")
        for number, pod in enumerate(seen)
    )
    heard = draw(st.dictionaries(uids, reports, max_size=5))
    told = Reports(
        listening_since=min(draw(times), NOW),
        by_uid={uid: replace(report, pod_uid=uid) for uid, report in heard.items()},
        last_heard_any=draw(st.none() | times.map(lambda at: min(at, NOW))),
    )
    job = JobView(JobKey("default", NAME), "job-uid", "7", 1, T0, draw(statuses()), spec)
    return job, named, told


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(observations())
def test_a_plan_keeps_the_rules_in_any_state(seen: tuple[JobView, tuple[PodView, ...], Reports]) -> None:
    job, pods, reports = seen
    actions = plan(job, pods, reports, NOW)
    written = [action.status for action in actions if isinstance(action, WriteStatus)]
    after = written[0] if written else job.status
    assert len(written) <= 1
    assert not written or isinstance(actions[0], WriteStatus), "the status goes first"
    assert TrainingJobStatus.model_validate(after.to_json()) == after

    assert [wake.at > NOW for wake in actions if isinstance(wake, Wake)] in ([], [True])
    for create in (action for action in actions if isinstance(action, CreatePod)):
        assert after.recovery.incarnations[str(create.index)] == create.incarnation
        assert (create.index, create.incarnation) not in {(pod.index, pod.incarnation) for pod in pods}
    for index, incarnation in job.status.recovery.incarnations.items():
        assert after.recovery.incarnations[index] >= incarnation
    assert after.recovery.last_round >= job.status.recovery.last_round
    if after.round is not None and after.round != job.status.round:
        assert after.round.number > job.status.recovery.last_round
        assert [member.index for member in after.round.members] == list(range(after.round.world_size))
        assert {member.uid for member in after.round.members} <= {pod.uid for pod in pods if not pod.deleting}

    waits_for_the_cluster = any(pod.phase is PodPhase.PENDING or pod.deleting for pod in pods)
    acts = any(isinstance(action, CreatePod | DeletePod | DeleteJob | Wake) for action in actions)
    over = after.phase is not None and (after.phase.finished or after.phase is Phase.SUSPENDED)
    assert acts or waits_for_the_cluster or over, "every wait ends"

    again = plan(replace(job, status=after, resource_version="8"), pods, reports, NOW)
    assert [action for action in again if isinstance(action, WriteStatus)] == [], "all is said at once"
