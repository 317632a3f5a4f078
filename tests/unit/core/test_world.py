"""From any state the job converges: faults strike a simulated cluster, stop, and the job ends well in bounded time."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlcloud_operator.api import Phase

from .world import World

LOSSES = ("kill_pod", "delete_pod", "remove_pod", "preempt_pod", "lose_node", "hang_agent")
OPERATORS = ("restart_operator", "conflict", "die_between_actions", "lose_reports", "delay_reports", "plan_again")
FAILURES = ("kill_rank", "crash_rank", "oom_pod", "freeze_rank")
OTHERS = ("busy_port", "suspend_and_resume")

# Starting anew takes seconds; being sure of a silent node takes a minute, and so does an init limit; pauses add up.
ENDS_WITHIN_S = 900


def faults(*kinds: str, most: int = 8) -> st.SearchStrategy[list[tuple[float, str, int]]]:
    """Pauses, faults, and whom or how long they strike."""
    return st.lists(st.tuples(st.floats(0.5, 12), st.sampled_from(kinds), st.integers(0, 20)), max_size=most)


def strike(world: World, events: list[tuple[float, str, int]]) -> None:
    for pause_s, kind, argument in events:
        world.run(pause_s)
        getattr(world, kind)(argument)
    world.run(1)
    world.end_faults()
    world.run(ENDS_WITHIN_S)


quick = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def test_a_job_without_faults_succeeds_in_its_first_round() -> None:
    world = World(workers=3, script=False)
    world.run(90)
    assert world.status.phase is Phase.SUCCEEDED
    assert world.newest_round == 1


@quick
@given(workers=st.integers(1, 4), script=st.booleans(), events=faults(*LOSSES, *OPERATORS))
def test_losses_and_a_faulty_operator_never_fail_a_job(
    workers: int, script: bool, events: list[tuple[float, str, int]]
) -> None:
    world = World(workers, script, max_failures=0)
    strike(world, events)
    assert world.status.phase is Phase.SUCCEEDED, world.status
    assert world.status.recovery.counted_at == []


@quick
@given(
    workers=st.integers(1, 4),
    script=st.booleans(),
    max_failures=st.integers(0, 4),
    events=faults(*LOSSES, *OPERATORS, *FAILURES, *OTHERS, most=12),
)
def test_every_job_ends_and_fails_only_for_a_reason(
    workers: int, script: bool, max_failures: int, events: list[tuple[float, str, int]]
) -> None:
    world = World(workers, script, max_failures)
    strike(world, events)
    assert world.finished, world.status
    if world.status.phase is Phase.SUCCEEDED:
        return
    reason = next(one.reason for one in world.status.conditions if one.type == "Failed")
    struck = sum(kind in FAILURES for _, kind, _ in events)
    blamed = sum(kind in (*FAILURES, "busy_port") for _, kind, _ in events)
    assert reason in ("TooManyFailures", "NoProgress")
    if reason == "TooManyFailures":
        assert struck > max_failures
    else:
        assert blamed >= 3


@quick
@given(workers=st.integers(2, 4), events=faults("suspend_and_resume", "delete_pod", "restart_operator", "conflict"))
def test_suspending_at_any_moment_costs_nothing(workers: int, events: list[tuple[float, str, int]]) -> None:
    world = World(workers, script=False, max_failures=0)
    strike(world, events)
    assert world.status.phase is Phase.SUCCEEDED, world.status
    assert world.status.failures == [] or all(not failure.counted for failure in world.status.failures)
