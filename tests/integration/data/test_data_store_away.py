"""A round that begins while the store of its data is away waits for it; a job that never reached it is told soon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.ranks import RankServer

from ...unit.trainer.data.made import cifar_files
from ..checkpoint.proxy import Fault
from .conftest import DataPlace

FILES = cifar_files(8)
AWAY = Fault(status=503)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    prelude = "import dlcloud_trainer.workloads.cifar"
    with RankServer(tmp_path_factory.mktemp("ranks"), prelude=prelude) as own:
        yield own


def start(server: RankServer, place: DataPlace, round: int, init_s: int) -> Any:
    """One rank of a round of a job whose data comes through the place's proxy."""
    place.upload(FILES)
    parameters = {"architecture": "conv32-64-64", "batchSize": 16, "epochs": 1}
    store = {"endpoint": place.endpoint, "region": "us-east-1"}
    job = {"workload": "cifar", "parameters": parameters, "data": {"uri": place.uri}, "objectStore": store}
    env = {**place.keys, "DLCLOUD_CACHE": str(place.cache)}
    (rank,) = server.start_round(job, round=round, initS=init_s, env=env)
    return rank


@pytest.mark.parametrize("round", [1, 2])
def test_it_waits_and_trains_once_the_store_is_back(server: RankServer, place: DataPlace, round: int) -> None:
    place.proxy.on("GET", "data_batch_3", AWAY)
    rank = start(server, place, round, 60)
    told = rank.wait_for_event("warning", reason="StoreUnreachable")
    assert told["message"].startswith(f"the round waits for its data: object store {place.endpoint} answers 503")
    assert rank.exit_code is None
    place.proxy.clear()
    assert rank.wait() == 0, rank.log
    assert "the object store answers again" in rank.wait_for_event("recovered")["message"]


@pytest.mark.parametrize(("round", "code", "said"), [(1, 77, "answers 503"), (2, 79, "s for its data: object store")])
def test_where_it_stays_away_a_later_round_is_tried_again_and_a_first_one_fails(
    server: RankServer, place: DataPlace, round: int, code: int, said: str
) -> None:
    place.proxy.on("GET", "data_batch_3", AWAY)
    rank = start(server, place, round, 4)
    assert rank.wait() == code, rank.log
    assert said in rank.log
