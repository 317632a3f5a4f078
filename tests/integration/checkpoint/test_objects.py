"""What every object store must do, on a folder and on a real S3 server."""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dlcloud_trainer.objects import (
    AlreadyExists,
    ConditionalWritesMissing,
    ObjectMissing,
    Objects,
    PreconditionFailed,
    StoreUnreachable,
    open_objects,
    probe_conditional_writes,
)
from dlcloud_trainer.objects.files import LOCK_FILE

MIB = 1 << 20


@pytest.fixture
def store(place: Any) -> Objects:
    found: Objects = place.objects()
    return found


@pytest.mark.parametrize("size", [0, 1, 1000, MIB - 1, MIB, 5 * MIB + 3])
def test_an_object_comes_back_as_it_was_written(store: Objects, size: int) -> None:
    data = secrets.token_bytes(size)
    etag = store.put("a/b.bin", data)
    assert store.get("a/b.bin") == data
    assert store.get_with_etag("a/b.bin") == (data, etag)


@pytest.mark.parametrize("size", [0, 100, 9 * MIB + 1])
def test_an_object_is_read_in_pieces(store: Objects, size: int) -> None:
    data = secrets.token_bytes(size)
    store.put("a/b.bin", memoryview(data))
    found: list[tuple[int, bytes]] = []
    assert store.get_pieces("a/b.bin", size, lambda at, part: found.append((at, bytes(part)))) == size
    assert b"".join(part for _, part in found) == data
    assert [at for at, _ in found] == [sum(len(part) for _, part in found[:i]) for i in range(len(found))]
    assert all(len(part) <= 4 * MIB for _, part in found)


@pytest.mark.parametrize(("stored", "expected"), [(10, 20), (20, 10), (0, 5), (3 * MIB, 2 * MIB)])
def test_another_size_than_expected_is_told(store: Objects, stored: int, expected: int) -> None:
    store.put("x", bytes(stored))
    found: list[int] = []
    assert store.get_pieces("x", expected, lambda at, part: found.append(at)) == stored
    assert found == []


def test_a_missing_object_is_told(store: Objects) -> None:
    assert store.get_with_etag("none") is None
    with pytest.raises(ObjectMissing):
        store.get("none")
    with pytest.raises(ObjectMissing):
        store.get_pieces("none", 1, lambda at, part: None)


def test_a_put_replaces(store: Objects) -> None:
    store.put("x", b"1")
    store.put("x", b"2")
    assert store.get("x") == b"2"


def test_a_create_does_not_replace(store: Objects) -> None:
    etag = store.put_if_absent("x", b"1")
    with pytest.raises(AlreadyExists):
        store.put_if_absent("x", b"2")
    assert store.get_with_etag("x") == (b"1", etag)


def test_a_deleted_object_can_be_created_again(store: Objects) -> None:
    store.put_if_absent("x", b"1")
    store.delete("x")
    store.put_if_absent("x", b"2")
    assert store.get("x") == b"2"


def test_only_the_version_named_is_replaced(store: Objects) -> None:
    first = store.put("x", b"1")
    second = store.put_if_match("x", b"2", first)
    with pytest.raises(PreconditionFailed):
        store.put_if_match("x", b"3", first)
    assert store.get_with_etag("x") == (b"2", second)


def test_a_missing_object_matches_no_version(store: Objects) -> None:
    etag = store.put("x", b"1")
    store.delete("x")
    with pytest.raises(PreconditionFailed):
        store.put_if_match("x", b"2", etag)
    assert store.get_with_etag("x") is None


def winners(act: Callable[[int], Any], count: int) -> int:
    def attempt(number: int) -> bool:
        try:
            act(number)
        except (AlreadyExists, PreconditionFailed):
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(attempt, range(count)))


def test_of_many_creates_at_once_one_wins(place: Any) -> None:
    for attempt in range(5):
        key = f"race/{attempt}"
        assert winners(lambda n, key=key: place.objects().put_if_absent(key, str(n).encode()), 8) == 1


def test_of_many_changes_of_one_version_one_wins(place: Any) -> None:
    store = place.objects()
    etag = store.put("x", b"begin")
    for _ in range(5):
        assert winners(lambda n, etag=etag: place.objects().put_if_match("x", secrets.token_bytes(20), etag), 8) == 1
        etag = store.get_with_etag("x")[1]


def test_keys_of_a_folder_are_listed_sorted(store: Objects) -> None:
    for key in ("m/2", "m/1", "m/deep/3", "mm/4", "top"):
        store.put(key, b"x")
    assert store.list("m") == ["m/1", "m/2", "m/deep/3"]
    assert store.list("m/") == ["m/1", "m/2", "m/deep/3"]
    assert store.list() == ["m/1", "m/2", "m/deep/3", "mm/4", "top"]
    assert store.list("none") == []


def test_more_keys_than_one_page_are_listed(store: Objects) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"many/{n:05d}", b""), range(1005)))
    assert store.list("many") == [f"many/{n:05d}" for n in range(1005)]


def test_deleting_what_is_not_there_is_no_error(store: Objects) -> None:
    store.delete("none/at/all")
    store.put("a/b/c", b"1")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert store.list() == []


def test_a_deleted_folder_does_not_disturb_a_writer_beside_it(store: Objects) -> None:
    def write(number: int) -> None:
        store.put(f"f/{number}/x", b"1")
        store.delete(f"f/{number}/x")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [n % 3 for n in range(300)]))
    assert store.list("f") == []


@pytest.mark.parametrize("name", ["with space", "ünïcode", "a+b=c&d", "100%", "q?x#y", "~tilde"])
def test_unusual_prefixes_work(place: Any, name: str) -> None:
    uri = name.replace("%", "%25").replace("?", "%3F").replace("#", "%23") if place.uri.startswith("file") else name
    store = place.below(uri).objects()
    store.put("k/1", b"1")
    assert store.get("k/1") == b"1"
    assert store.list("k") == ["k/1"]


def test_the_uri_of_the_store_opens_it_again(place: Any) -> None:
    store = place.objects()
    store.put("k", b"1")
    assert open_objects(store.uri(), endpoint=place.endpoint).get("k") == b"1"
    assert store.uri("k") == f"{place.uri}/k"


def test_a_real_store_keeps_its_conditions(place: Any) -> None:
    store = place.objects()
    probe_conditional_writes(store)
    assert store.list() == []


class Careless:
    """A store that takes conditional writes and ignores the condition, as some S3 servers do."""

    def __init__(self, store: Objects, ignored: str) -> None:
        self._store, self._ignored = store, ignored

    def __getattr__(self, name: str) -> Any:
        if name == self._ignored:
            return lambda key, data, *_: self._store.put(key, data)
        return getattr(self._store, name)


@pytest.mark.parametrize(("ignored", "said"), [("put_if_absent", "If-None-Match"), ("put_if_match", "If-Match")])
def test_a_store_without_conditions_is_refused(tmp_path: Path, ignored: str, said: str) -> None:
    store = open_objects(f"file://{tmp_path}")
    with pytest.raises(ConditionalWritesMissing, match=f"does not keep {said}"):
        probe_conditional_writes(Careless(store, ignored))  # type: ignore[arg-type]
    assert store.list() == []


def test_a_file_store_shows_no_half_written_object(tmp_path: Path) -> None:
    store = open_objects(f"file://{tmp_path}")
    versions = [bytes([n]) * (2 * MIB) for n in range(4)]
    store.put("x", versions[0])

    def write(_: int) -> None:
        for version in versions:
            store.put("x", version)

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write, n) for n in range(2)]
        while not all(one.done() for one in writing):
            assert store.get("x") in versions
    assert store.list() == ["x"]


def test_a_lock_that_is_held_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_objects(f"file://{tmp_path}")
    store.put_if_absent("x", b"1")
    monkeypatch.setattr("dlcloud_trainer.objects.files.LOCK_S", 0.2)
    with (tmp_path / LOCK_FILE).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnreachable, match="was held by another process"):
            store.put_if_absent("y", b"1")
    store.put_if_absent("y", b"1")


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="must stay below"):
        open_objects(f"file://{tmp_path}/store").put(key, b"x")


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 16 * MIB, 33 * MIB + 5])
def test_an_object_that_is_written_in_pieces_comes_back(store: Objects, size: int) -> None:
    data = secrets.token_bytes(size)
    calls: list[int] = []

    def pieces() -> list[bytes]:
        calls.append(1)
        return [data[at : at + 3 * MIB] for at in range(0, size, 3 * MIB)]

    etag = store.put_pieces("a/large", pieces)
    assert calls == [1]
    assert store.get_pieces("a/large", size, lambda at, part: None) == size
    assert store.get("a/large") == data
    assert [(one.key, one.size_bytes, one.etag) for one in store.describe()] == [("a/large", size, etag)]


def test_objects_are_described_below_a_folder(store: Objects) -> None:
    etags = {key: store.put_pieces(key, lambda: [b"12", b"3"]) for key in ("a/1", "a/2", "b/1", "c")}
    assert [(one.key, one.size_bytes, one.etag) for one in store.describe("a")] == [
        ("a/1", 3, etags["a/1"]), ("a/2", 3, etags["a/2"]),
    ]  # fmt: skip
    assert [one.key for one in store.describe()] == store.list() == ["a/1", "a/2", "b/1", "c"]
    assert store.describe("none") == []


def test_what_raises_while_it_is_written_in_pieces_leaves_nothing(store: Objects) -> None:
    def pieces() -> Any:
        yield bytes(20 * MIB)
        raise RuntimeError("it was changed")

    with pytest.raises(Exception, match="it was changed"):
        store.put_pieces("a/large", pieces)
    assert store.list() == []
