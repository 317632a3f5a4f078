"""A training that goes on with another number of ranks: every sample of an epoch is trained on exactly once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ranks import RankProcess, RankServer
from dlcloud.session import LocalSession
from dlcloud_operator.api import Phase, TrainingJobSpec
from dlcloud_trainer.objects import Objects, open_objects

from .breaking import KILLED, PEER_LOST, PRELUDE, Kill, assert_same_training, merged_records, train_broken, train_whole
from .conftest import folder_checkpoint, newest
from .sessions import DIGITS, digits_job, run_job, succeeded, until

pytestmark = pytest.mark.timeout(300)
WORKLOADS = Path(__file__).parent / "workloads"
SAMPLES, BATCH, EPOCHS = 110, 16, 6
STEPS_PER_EPOCH = 7
PARAMETERS = {"epochs": EPOCHS, "batchSize": BATCH, "logEverySteps": 1}
MORE_WORKLOADS = f"import dlcloud_trainer.workloads as w; w.__path__.append({str(WORKLOADS)!r})\n"


@pytest.fixture(scope="module")
def tracing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    with RankServer(tmp_path_factory.mktemp("ranks"), prelude=MORE_WORKLOADS + PRELUDE) as running:
        yield running


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    folder = tmp_path / "trace"
    folder.mkdir()
    return folder


def job(checkpoint: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "workload": "traced",
        "parameters": PARAMETERS,
        "data": {"uri": "builtin://traced"},
        "checkpoint": checkpoint,
        **more,
    }


def trained_on(trace: Path, rank: RankProcess) -> list[list[int]]:
    """The numbers of the samples of each of its steps."""
    file = trace / f"{rank.rank}-{rank.pid}"
    return [[int(word) for word in line.split()] for line in file.read_text().splitlines()] if file.exists() else []


def together(trace: Path, ranks: list[RankProcess]) -> list[list[int]]:
    """The same of all ranks of a round; a step that not every rank made is none."""
    return [list(chain(*shares)) for shares in zip(*(trained_on(trace, rank) for rank in ranks), strict=False)]


def assert_each_once(steps: list[list[int]]) -> None:
    """All steps of a training, in order: each epoch is all samples, each once."""
    assert len(steps) == EPOCHS * STEPS_PER_EPOCH
    for epoch in range(EPOCHS):
        own = steps[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH]
        assert Counter(chain(*own)) == Counter(range(SAMPLES)), f"epoch {epoch + 1}"


def start(
    server: RankServer, trace: Path, spec: dict[str, Any], world_size: int, round: int, kill: Kill | None = None
) -> list[RankProcess]:
    env = {"TRACE_DIR": str(trace), **(kill.env if kill else {})}
    return server.start_round(spec, world_size=world_size, round=round, env=env)


PAIRS = [(2, 3), (3, 1), (1, 4), (4, 2)]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_stopped_for_another_number_of_ranks_nothing_is_done_twice(
    tracing: RankServer, trace: Path, tmp_path: Path, before: int, after: int
) -> None:
    spec = job(folder_checkpoint(tmp_path, every_seconds=1000))
    stop = Kill(before - 1, "step", 9, number=signal.SIGTERM)  # as a suspended job's ranks get it; in the second epoch
    ranks = start(tracing, trace, spec, before, 1, stop)
    assert [rank.wait() for rank in ranks] == [75] * before, ranks[0].log
    first = together(trace, ranks)
    ranks = start(tracing, trace, spec, after, 2)
    assert [rank.wait() for rank in ranks] == [0] * after, ranks[0].log
    second = together(trace, ranks)
    assert len(first) >= 9
    assert ranks[0].events("step")[0]["step"] == len(first) + 1
    assert_each_once(first + second)


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_killed_and_gone_on_with_another_number_of_ranks_what_counts_is_each_sample_once(
    tracing: RankServer, trace: Path, tmp_path: Path, before: int, after: int
) -> None:
    spec = job(folder_checkpoint(tmp_path))
    ranks = start(tracing, trace, spec, before, 1, Kill(0, "commit", 2))
    assert {rank.wait() for rank in ranks} <= {KILLED, PEER_LOST}
    saved = newest(spec["checkpoint"]).step
    first = together(trace, ranks)[:saved]
    ranks = start(tracing, trace, spec, after, 10_001)  # `newest` took the prefix over
    assert [rank.wait() for rank in ranks] == [0] * after, ranks[0].log
    assert saved == len(first) > 0
    assert_each_once(first + together(trace, ranks))


def test_another_job_resumed_with_another_number_of_ranks_makes_the_rest_of_the_epoch(
    tracing: RankServer, trace: Path, tmp_path: Path
) -> None:
    one = job(folder_checkpoint(tmp_path))
    ranks = start(tracing, trace, one, 2, 1, Kill(0, "commit", 2))
    assert {rank.wait() for rank in ranks} <= {KILLED, PEER_LOST}
    two = job(folder_checkpoint(tmp_path), resumeFrom=one["checkpoint"]["uri"])
    resumed = start(tracing, trace, two, 3, 1)
    assert [rank.wait() for rank in resumed] == [0] * 3, resumed[0].log
    begun = resumed[0].events("step")[0]["step"] - 1
    assert begun > 0
    assert_each_once(together(trace, ranks)[:begun] + together(trace, resumed))


def test_a_suspended_job_goes_on_with_another_number_of_workers(server: RankServer, tmp_path: Path) -> None:
    epochs = 15

    async def act(session: LocalSession) -> None:
        await until(session, lambda: any(rank.step for report in session.reports() for rank in report.ranks))
        await session.suspend()
        await until(session, lambda: session.phase is Phase.SUSPENDED)
        await change_workers(session, 2)

    spec = digits_job(f"file://{tmp_path}/saved", parameters={"epochs": epochs})
    ended = succeeded(run_job(tmp_path, "resized", spec, act))
    whole = folder_checkpoint(tmp_path)
    train_whole(server, {"parameters": DIGITS | {"epochs": epochs}, "checkpoint": whole}, 1)
    assert "rank 1 of 2" in ended.log
    resized, same = newest({"uri": ended.prefix}), newest(whole)
    assert (resized.step, resized.samples) == (same.step, same.samples)
    store, other = open_objects(ended.prefix), open_objects(whole["uri"])
    assert consumed(store) == consumed(other)
    steps_told = [step for step, _ in every_record(store)]
    assert len(steps_told) == len(set(steps_told)), "a step was made twice"


async def change_workers(session: LocalSession, count: int) -> None:
    """What a user does to a suspended job."""
    assert session._cluster is not None

    def changed(spec: TrainingJobSpec) -> TrainingJobSpec:
        workers = spec.workers.model_copy(update={"count": count})
        return spec.model_copy(update={"suspend": False, "workers": workers})

    await session._cluster.update_spec(session.key, changed)


def every_record(store: Objects) -> list[tuple[int, int]]:
    """Step and samples of every training record, those of steps made twice included."""
    lines = [json.loads(line) for key in store.list("metrics") for line in store.get(key).splitlines()]
    return [(record["step"], record["samples"]) for record in lines if record["kind"] == "train"]


def consumed(store: Objects) -> list[tuple[int, int]]:
    """How many samples were behind each step."""
    return sorted(set(every_record(store)))


def test_a_model_with_running_statistics_is_measured_the_same_by_resumed_ranks(
    tracing: RankServer, trace: Path, tmp_path: Path
) -> None:
    whole, broken = folder_checkpoint(tmp_path), folder_checkpoint(tmp_path)
    train_whole(tracing, job(whole), 3, TRACE_DIR=str(trace))
    # The last evaluation is the test's, after the last commit: the next round does nothing but that.
    kills = [Kill(1, "step", 4), Kill(2, "evaluation", EPOCHS + 1)]
    assert train_broken(tracing, job(broken), 3, kills, TRACE_DIR=str(trace)) == 2
    assert ("test", EPOCHS * STEPS_PER_EPOCH) in merged_records(open_objects(broken["uri"]))
    stores = (open_objects(saved["uri"]) for saved in (whole, broken))
    assert_same_training(newest(whole), newest(broken), *stores)
