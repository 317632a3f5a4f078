"""The watch over the connections to the other ranks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from dlcloud_trainer.lifeline import Lifeline, connections, seen_from_there, to_peers


@pytest.fixture
def link() -> Iterator[socket.socket]:
    """One end of a connection whose other end stays open."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            yield one


def test_a_new_connection_is_seen_and_a_listening_socket_is_not(link: socket.socket) -> None:
    before = connections()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert connections() == before
        with socket.create_connection(server.getsockname()):
            assert len(connections() - before) == 1


def test_a_closed_connection_is_told_after_the_grace(link: socket.socket) -> None:
    lost = threading.Event()
    Lifeline(connections(), lost.set, grace_s=0.05)
    assert not lost.wait(0.6)
    link.close()
    assert lost.wait(5)


def test_a_rank_that_hears_of_it_itself_is_not_disturbed(link: socket.socket) -> None:
    lost = threading.Event()
    lifeline = Lifeline(connections(), lost.set, grace_s=5)
    link.close()
    lifeline.release()
    assert not lost.wait(0.6)


def test_a_connection_that_no_peer_has_is_not_watched() -> None:
    before = connections()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        socket.create_connection(server.getsockname()) as elsewhere,
    ):
        peer, _ = server.accept()
        with peer:
            everything = connections() - before
            ends = {f"127.0.0.1 {one.getsockname()[1]}", f"127.0.0.1 {peer.getsockname()[1]}"}
            of_peer = [found for found in everything if found.there == f"127.0.0.1 {one.getsockname()[1]}"]
            [mine] = [found for found in everything if found.here == f"127.0.0.1 {one.getsockname()[1]}"]
            [other] = [found for found in everything if found.here == f"127.0.0.1 {elsewhere.getsockname()[1]}"]
            assert {mine.here, mine.there} == ends
            assert to_peers([mine, other], [seen_from_there(of_peer)]) == {mine}
            assert to_peers([mine, other], [""]) == frozenset()
