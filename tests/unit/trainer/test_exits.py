"""From an exception to how a rank ends."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from dlcloud_trainer.checkpoint.errors import Fenced, StateMismatch, StoreUnusable, UploadFailed
from dlcloud_trainer.errors import InvalidInput, NotSaved, PeerLost, StaleRound, StoreAway
from dlcloud_trainer.exits import judge
from dlcloud_trainer.objects import BucketMissing

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"
PEER_TEXTS = [  # as torch 2.13 writes them
    GLOO + "pair.cc:553] Connection closed by peer [127.0.0.1]:50257",
    GLOO + "pair.cc:537] Read error [127.0.0.1]:51124: Connection reset by peer",
    GLOO + "pair.cc:481] Write error [10.0.0.7]:41288: Broken pipe",
    GLOO + "pair.cc:614] connect [127.0.1.1]:17385: Connection refused",
    GLOO + "unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete",
    GLOO + "unbound_buffer.cc:133] Timed out waiting 30000ms for send operation to complete",
    "Application timeout caused pair closure",
    "Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error",
    "Socket Timeout",
    "Connection reset by peer",
    "NCCL communicator was aborted on rank 1.",
    "NCCL error: remote process exited or there was a network error, NCCL version 2.27\nncclRemoteError: ...",
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4) ran for 600000 milliseconds",
    "failed to recv, got 0 bytes",
    "No route to host",
]


@pytest.mark.parametrize("text", PEER_TEXTS)
def test_a_collectives_connection_error_is_a_lost_peer(text: str) -> None:
    ending = judge(RuntimeError(text), draining=False)
    assert (ending.code, ending.outcome, ending.expected) == (72, "PeerLost", True)


@pytest.mark.parametrize("text", PEER_TEXTS)
def test_a_lost_peer_while_draining_is_no_failure(text: str) -> None:
    assert judge(RuntimeError(text), draining=True).code == 75


@pytest.mark.parametrize(
    "error",
    [
        dist.DistBackendError("some words of NCCL that are new"),
        dist.DistNetworkError("The client socket has failed to connect to 10.0.0.7:29500"),
        dist.DistStoreError("wait timeout after 120000ms, keys: /nonce"),
        ConnectionResetError(104, "Connection reset by peer"),
        PeerLost("rank 0 did not answer"),
    ],
)
def test_errors_of_the_network_by_their_type_are_lost_peers(error: Exception) -> None:
    assert judge(error, draining=False).code == 72


@pytest.mark.parametrize(
    "text",
    [
        "The server socket has failed to listen on any local network address. port: 29500, EADDRINUSE",
        "[Errno 98] Address already in use",
    ],
)
def test_a_port_that_is_taken_is_port_busy(text: str) -> None:
    assert judge(dist.DistNetworkError(text), draining=False).code == 73


@pytest.mark.parametrize(
    ("error", "code", "outcome"),
    [
        (InvalidInput("x"), 64, "InvalidInput"),
        (StateMismatch("x"), 64, "InvalidInput"),
        (Fenced("x"), 74, "Fenced"),
        (StoreUnusable("x"), 77, "StoreUnusable"),
        (BucketMissing("x"), 77, "StoreUnusable"),
        (StaleRound("x"), 78, "PeerLost"),
        (NotSaved("x"), 1, "Error"),
    ],
)
def test_a_known_trouble_is_told_in_one_sentence(error: Exception, code: int, outcome: str) -> None:
    ending = judge(error, draining=False)
    assert (ending.code, ending.outcome, ending.expected) == (code, outcome, True)


def test_a_fence_wins_over_a_drain() -> None:
    assert judge(Fenced("x"), draining=True).code == 74


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (64x5 and 3x10)"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        dist.DistBackendError("ncclInvalidUsage: This usually reflects invalid usage of NCCL library."),
        ValueError("connection reset by peer is what this text is about"),
        MemoryError(),
        KeyboardInterrupt(),
    ],
)
@pytest.mark.parametrize("draining", [False, True])
def test_anything_else_is_an_error_with_a_traceback(error: BaseException, draining: bool) -> None:
    ending = judge(error, draining=draining)
    assert (ending.code, ending.outcome, ending.expected) == (1, "Error", False)
    assert type(error).__name__ in ending.message


def test_a_store_that_takes_no_checkpoints_for_too_long_ends_the_job() -> None:
    ending = judge(UploadFailed("no checkpoint could be saved for 900 s"), draining=False)
    assert (ending.code, ending.outcome, ending.expected) == (77, "StoreUnusable", True)


def test_a_store_that_is_away_in_a_later_round_is_worth_another_round() -> None:
    ending = judge(StoreAway("waited 90 s for the last checkpoint: ..."), draining=False)
    assert (ending.code, ending.outcome, ending.expected) == (79, "StoreAway", True)
