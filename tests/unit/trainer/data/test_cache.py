"""The cache for data: one fetch, checked reading, a bound that is kept, and no failure of its own."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dlcloud_trainer.data import cache_room
from dlcloud_trainer.data.cache import Cache, Take, open_cache

MIB = 1 << 20


class Store:
    """Hands out the same bytes and counts how often."""

    def __init__(self, data: bytes) -> None:
        self.data, self.fetched = data, 0

    def __call__(self, take: Take) -> None:
        self.fetched += 1
        for at in range(0, len(self.data), 1000):
            take(at, memoryview(self.data)[at : at + 1000])


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, warnings: list[str]) -> Callable[..., Cache]:
    def make(limit_bytes: int = 100 * MIB) -> Cache:
        return Cache(tmp_path / "cache", limit_bytes, ours=True, warn=warnings.append)

    return make


def read(cache: Cache, store: Store, name: str = "s3://bucket/a", etag: str = '"1"') -> bytes | None:
    found = cache.read(name, etag, len(store.data), store)
    return found[0] if found is not None else None


def entries(tmp_path: Path, ending: str = ".data") -> list[Path]:
    return sorted((tmp_path / "cache").glob(f"*{ending}"))


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_what_was_fetched_once_is_not_fetched_again(make: Callable[..., Cache], size: int) -> None:
    store = Store(os.urandom(size))
    assert read(make(), store) == store.data
    assert read(make(), store) == store.data  # another round
    assert store.fetched == 1


@pytest.mark.parametrize("other", [{"name": "s3://bucket/b"}, {"etag": '"2"'}])
def test_another_file_or_version_is_another_entry(make: Callable[..., Cache], other: dict[str, str]) -> None:
    one, two = Store(b"x" * 100), Store(b"y" * 100)
    assert read(make(), one) == one.data
    assert read(make(), two, **other) == two.data
    assert (one.fetched, two.fetched) == (1, 1)


def test_a_damaged_entry_is_fetched_again(make: Callable[..., Cache], tmp_path: Path) -> None:
    store = Store(os.urandom(5000))
    read(make(), store)
    for damage in (
        lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:]),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("[]"),
        lambda path: path.with_suffix(".json").unlink(),
    ):
        damage(entries(tmp_path)[0])
        before = store.fetched
        assert read(make(), store) == store.data
        assert store.fetched == before + 1
        assert read(make(), store) == store.data
        assert store.fetched == before + 1


def test_ranks_that_come_together_fetch_once(make: Callable[..., Cache]) -> None:
    store, gate = Store(os.urandom(200_000)), threading.Barrier(6)

    def rank() -> bytes | None:
        gate.wait(20)
        return read(make(), store)

    with ThreadPoolExecutor(6) as pool:
        found = [future.result() for future in [pool.submit(rank) for _ in range(6)]]
    assert found == [store.data] * 6
    assert store.fetched == 1


def test_what_was_used_longest_ago_goes_first_and_the_bound_is_kept(
    make: Callable[..., Cache], tmp_path: Path, warnings: list[str]
) -> None:
    stores = [Store(bytes([number]) * MIB) for number in range(6)]
    for number in range(4):
        read(make(4 * MIB), stores[number], f"s3://bucket/{number}")
        for path in entries(tmp_path):  # a clock that is coarse must not decide
            about = json.loads(path.with_suffix(".json").read_text())
            os.utime(path, (1000, 1000 + int(about["uri"][-1])))
            os.utime(path.with_suffix(".json"), (0, 0))
        kept = sum(path.stat().st_size for path in entries(tmp_path))
        assert kept <= 4 * MIB
    read(make(4 * MIB), stores[1], "s3://bucket/1")  # used again: 2 is the oldest now (0 went for the notes' bytes)
    read(make(4 * MIB), stores[4], "s3://bucket/4")
    left = {json.loads(path.read_text())["uri"][-1] for path in entries(tmp_path, ".json")}
    assert left == {"1", "3", "4"}
    assert sum(path.stat().st_size for ending in (".data", ".json") for path in entries(tmp_path, ending)) <= 4 * MIB
    assert warnings == []


def test_an_entry_that_is_being_read_stays(make: Callable[..., Cache], tmp_path: Path, warnings: list[str]) -> None:
    one, two = Store(b"1" * MIB), Store(b"2" * MIB)
    read(make(), one, "s3://bucket/1")
    key = entries(tmp_path)[0].stem
    with cache_room.held(tmp_path / "cache", key, shared=True):
        assert read(make(MIB + 2000), two, "s3://bucket/2") is None
    assert entries(tmp_path)[0].stem == key
    assert "being read or written" in warnings[0]
    assert read(make(MIB + 2000), two, "s3://bucket/2") == two.data


def test_a_file_larger_than_the_bound_is_left_to_the_store_with_one_warning(
    make: Callable[..., Cache], tmp_path: Path, warnings: list[str]
) -> None:
    store, cache = Store(bytes(2 * MIB)), make(MIB)
    assert read(cache, store) is None
    assert read(cache, store) is None
    assert store.fetched == 0
    assert len(warnings) == 1
    assert "2097152 bytes, and 1048576 are allowed" in warnings[0]
    assert "DLCLOUD_CACHE_BYTES" in warnings[0]
    assert entries(tmp_path) == []


def test_a_full_disk_means_reading_without_the_cache_and_one_warning(
    make: Callable[..., Cache], tmp_path: Path, warnings: list[str]
) -> None:
    small, large = Store(b"1" * 1000), Store(bytes(3 * MIB))
    read(make(), small)
    cache, limits = make(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))  # python ignores SIGXFSZ: writing fails
    try:
        assert read(cache, large, "s3://bucket/large") is None
        assert read(cache, large, "s3://bucket/large") is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(warnings) == 1
    assert "is not used: File too large" in warnings[0]
    assert entries(tmp_path, ".part") == []
    assert read(make(), small) == small.data
    assert small.fetched == 1


def test_a_folder_that_cannot_be_made_means_no_cache(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file" / "cache", MIB, ours=True, warn=warnings.append)
    assert read(cache, Store(b"x")) is None
    assert len(warnings) == 1


def test_what_a_killed_writer_left_goes_when_room_is_needed(make: Callable[..., Cache], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / f"{'a' * 40}.part").write_bytes(bytes(MIB))
    store = Store(b"x" * MIB)
    assert read(make(MIB + 2000), store) == store.data
    assert entries(tmp_path, ".part") == []


def test_a_wrong_note_of_what_is_taken_is_mended(make: Callable[..., Cache], tmp_path: Path) -> None:
    stores = [Store(bytes([number]) * MIB) for number in range(3)]
    read(make(), stores[0], "s3://bucket/0")
    for wrong in (str(10**9), "x", ""):
        (tmp_path / "cache" / cache_room.TOTAL).write_text(wrong)
        assert read(make(4 * MIB), stores[1], f"s3://bucket/{wrong}") == stores[1].data
        assert int((tmp_path / "cache" / cache_room.TOTAL).read_text()) <= 4 * MIB
    assert len(entries(tmp_path)) == 3


def test_a_file_that_is_finished_while_room_is_made_is_counted(tmp_path: Path) -> None:
    part, data = tmp_path / f"{'a' * 40}.part", tmp_path / f"{'a' * 40}.data"
    part.write_bytes(bytes(MIB))

    class Folder(type(Path())):  # type: ignore[misc]
        def iterdir(self) -> Iterator[Path]:
            listed = list(super().iterdir())
            if part.exists():
                part.rename(data)  # as another rank does, which has not yet let go of its lock
            return iter(listed)

    with cache_room.held(tmp_path, "a" * 40):
        reason = cache_room.make_room(Folder(tmp_path), MIB + 5000, tmp_path / f"{'b' * 40}.part", MIB)
    assert "being read or written" in reason


def test_a_fetch_that_fails_leaves_nothing_and_says_so(make: Callable[..., Cache], tmp_path: Path) -> None:
    def fetch(take: Take) -> None:
        take(0, memoryview(b"half"))
        raise RuntimeError("the store went away")

    with pytest.raises(RuntimeError, match="went away"):
        make().read("s3://bucket/a", '"1"', 8, fetch)
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix in (".data", ".json", ".part")] == []


def test_a_fetch_that_begins_again_is_whole(make: Callable[..., Cache]) -> None:
    def fetch(take: Take) -> None:
        take(0, memoryview(b"wrong"))
        for at in range(0, 8, 4):
            take(at, memoryview(b"abcdefgh"[at : at + 4]))

    found = make().read("s3://bucket/a", '"1"', 8, fetch)
    assert found is not None
    assert found[0] == b"abcdefgh"


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "key.lock"
    entered = threading.Event()
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def other() -> None:
            with cache_room.held(tmp_path, "key"):
                entered.set()
                assert path.exists()

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(other)
            path.unlink()  # as one does who makes room, just before it lets go
            fcntl.flock(file, fcntl.LOCK_UN)
            waiting.result(20)
    assert entered.is_set()


def test_the_folder_and_its_bound_come_from_the_environment(tmp_path: Path, warnings: list[str]) -> None:
    given = open_cache({"DLCLOUD_CACHE": str(tmp_path / "here"), "TMPDIR": "/nowhere"}, warnings.append)
    read(given, Store(b"x"))
    assert len(list((tmp_path / "here").glob("*.data"))) == 1
    pods = open_cache({"TMPDIR": str(tmp_path / "scratch")}, warnings.append)
    read(pods, Store(b"x"))
    assert len(list((tmp_path / "scratch" / "dlcloud-cache").glob("*.data"))) == 1
    none = open_cache({"TMPDIR": str(tmp_path / "other"), "DLCLOUD_CACHE_BYTES": "0"}, warnings.append)
    assert read(none, Store(b"x")) is None
    assert not (tmp_path / "other").exists()
    assert warnings == []
    open_cache({"DLCLOUD_CACHE_BYTES": "8G"}, warnings.append)
    assert "'8G' is no number of bytes" in warnings[0]
