"""How a rank ends when it cannot train: exit code, outcome and one sentence."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ranks import RankProcess, RankServer

from .conftest import folder_checkpoint, write_mnist

SMALL = {"architecture": "conv8", "epochs": 1, "batchSize": 16}


def failure(rank: RankProcess, code: int, outcome: str) -> str:
    """The message of a rank that ended as it should have."""
    assert rank.wait() == code, rank.log
    event = rank.events("failed")[-1]
    assert event["outcome"] == outcome
    assert "Traceback" not in rank.log
    return str(event["message"])


def test_a_damaged_data_file_is_invalid_input_that_names_the_file(server: RankServer, tmp_path: Path) -> None:
    uri = write_mnist(tmp_path / "data", 40, 10)
    file = tmp_path / "data" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-500])
    (rank,) = server.start_round({"parameters": SMALL, "data": {"uri": uri}})
    assert "train-images-idx3-ubyte.gz" in failure(rank, 64, "InvalidInput")


def test_every_rank_refuses_wrong_data_without_waiting_for_the_others(server: RankServer, tmp_path: Path) -> None:
    ranks = server.start_round({"parameters": SMALL, "data": {"uri": f"file://{tmp_path}"}}, world_size=2)
    for rank in ranks:
        assert "put there the four files of MNIST" in failure(rank, 64, "InvalidInput")


def test_an_unknown_parameter_is_invalid_input_that_lists_the_allowed_ones(server: RankServer) -> None:
    (rank,) = server.start_round({"parameters": {"epoch": 1}})
    message = failure(rank, 64, "InvalidInput")
    assert "parameters.epoch" in message
    assert "batchSize" in message


def test_a_checkpoint_of_another_architecture_is_invalid_input_and_its_peers_are_no_cause(
    server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    first, second = folder_checkpoint(tmp_path), folder_checkpoint(tmp_path)
    (rank,) = server.start_round({"parameters": SMALL, "data": small_data, "checkpoint": first})
    assert rank.wait() == 0
    other = {"parameters": SMALL | {"architecture": "conv32-64"}, "checkpoint": second, "resumeFrom": first["uri"]}
    first_rank, second_rank = server.start_round({"data": small_data} | other, world_size=2)
    assert "resume with the program and parameters" in failure(first_rank, 64, "InvalidInput")
    assert second_rank.wait() == 72  # PeerLost: the verdict of the round is rank 0's


def test_a_store_that_cannot_be_used_ends_rank_0_as_store_unusable(
    server: RankServer, small_data: dict[str, str], checkpoint: dict[str, Any]
) -> None:
    job = {"parameters": SMALL, "data": small_data, "checkpoint": checkpoint, "resumeFrom": "file:///nonexistent/job"}
    (rank,) = server.start_round(job)
    assert "resumeFrom" in failure(rank, 77, "StoreUnusable")


def test_a_round_older_than_the_checkpoints_owner_ends_as_fenced(
    server: RankServer, small_data: dict[str, str], checkpoint: dict[str, Any]
) -> None:
    job = {"parameters": SMALL, "data": small_data, "checkpoint": checkpoint}
    assert server.start_round(job, round=5)[0].wait() == 0
    (rank,) = server.start_round(job, round=4)
    assert "round 5" in failure(rank, 74, "Fenced")


def test_a_port_that_is_taken_ends_rank_0_as_port_busy(server: RankServer, small_data: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (rank,) = server.start_round(
            {"parameters": SMALL, "data": small_data}, world_size=2, ranks=[0], masterPort=port
        )
        assert str(port) in failure(rank, 73, "PortBusy")


def test_a_rank_that_meets_the_store_of_another_round_ends_as_stale(
    server: RankServer, small_data: dict[str, str]
) -> None:
    job = {"parameters": SMALL, "data": small_data}
    (master,) = server.start_round(job, world_size=2, ranks=[0], masterPort=(port := _free_port()))
    (late,) = server.start_round(job, world_size=2, ranks=[1], masterPort=port)  # its nonce is another
    assert "nonce" in failure(late, 78, "PeerLost")
    master.kill(signal.SIGKILL)
    assert master.wait() == -signal.SIGKILL


def test_a_rank_whose_master_never_answers_gives_up_after_the_init_limit(
    server: RankServer, small_data: dict[str, str]
) -> None:
    (rank,) = server.start_round({"parameters": SMALL, "data": small_data}, world_size=2, ranks=[1], initS=0.5)
    assert "did not answer" in failure(rank, 72, "PeerLost")


def test_an_assignment_of_our_own_making_that_is_wrong_is_an_error_with_traceback(server: RankServer) -> None:
    (rank,) = server.start_round({}, threads=0)
    assert rank.wait() == 1
    assert "threads" in rank.events("failed")[-1]["message"]
    assert "Traceback" in rank.log


def test_a_closed_events_descriptor_does_not_stop_a_training(server: RankServer, small_data: dict[str, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    (rank,) = server.start_round({"parameters": SMALL, "data": small_data}, env={"DLCLOUD_EVENTS_FD": "999"})
    assert rank.wait() == 0, rank.log


def test_a_sigterm_before_the_ranks_have_met_ends_a_rank_at_once_as_drained(
    server: RankServer, small_data: dict[str, str]
) -> None:
    port = _free_port()
    (rank,) = server.start_round({"parameters": SMALL, "data": small_data}, world_size=2, ranks=[0], masterPort=port)
    while not _listens(port):  # then it waits for rank 1, inside a C++ call
        assert rank.exit_code is None, rank.log
    rank.kill(signal.SIGTERM)
    assert rank.wait(10) == 75
    assert not rank.events("failed")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


pytestmark = pytest.mark.timeout(120)
