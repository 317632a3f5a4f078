"""A folder as an object store: for one machine, or a file system that keeps flock (NFS 4 does).

May import the standard library only. Must never show a half-written object: every write is a temporary file, fsync,
rename. A
condition is checked and the rename made under a lock that is held for microseconds only.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from .base import Data, Described, Pieces, Take
from .errors import (
    AccessDenied,
    AlreadyExists,
    ObjectMissing,
    PreconditionFailed,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnusable,
)

LOCK_FILE = ".dlcloud.lock"
TEMPORARY = ".dlcloud-"
LOCK_S = 8.0
FOLDER_TRIES = 50
HASHED_BYTES = 1 << 20
PIECE_BYTES = 1 << 20
T = TypeVar("T")


class FileObjects:
    """Objects below a folder, which is made on the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def uri(self, key: str = "") -> str:
        return f"file://{quote(str(self._root))}/{key}"

    def get(self, key: str) -> bytes:
        return self._guard(key, lambda path: path.read_bytes())

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        def read(path: Path) -> tuple[bytes, str]:
            with path.open("rb") as file:
                data = file.read()
                return data, _etag(data, os.fstat(file.fileno()))

        try:
            return self._guard(key, read)
        except ObjectMissing:
            return None

    def get_pieces(self, key: str, size_bytes: int, take: Take) -> int:
        def read(path: Path) -> int:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                buffer, at = memoryview(bytearray(min(size, PIECE_BYTES))), 0
                while size == size_bytes and at < size and (count := file.readinto(buffer)):
                    take(at, buffer[:count])
                    at += count
                return size

        return self._guard(key, read)

    def put(self, key: str, data: Data) -> str:
        return self._write(key, data, lambda path: None, locked=False)

    def put_pieces(self, key: str, pieces: Pieces) -> str:
        return self._write(key, pieces(), lambda path: None, locked=False)

    def put_if_absent(self, key: str, data: Data) -> str:
        def absent(path: Path) -> None:
            if path.exists():
                raise AlreadyExists(f"{self.uri(key)} exists")

        return self._write(key, data, absent, locked=True)

    def put_if_match(self, key: str, data: Data, etag: str) -> str:
        def matches(path: Path) -> None:
            found = self.get_with_etag(key)
            if found is None or found[1] != etag:
                raise PreconditionFailed(f"{self.uri(key)} is no longer version {etag}")

        return self._write(key, data, matches, locked=True)

    def describe(self, prefix: str = "") -> list[Described]:
        def walk(top: Path) -> list[Described]:
            found = []
            for key in self._walk(top):
                with suppress(FileNotFoundError):  # removed just now, or a link to nothing
                    stat = (self._root / key).stat()
                    found.append(Described(key, stat.st_size, _version(stat)))
            return found

        return self._guard(prefix, walk)

    def _walk(self, top: Path) -> list[str]:
        return sorted(
            str((Path(folder) / name).relative_to(self._root))
            for folder, _, names in os.walk(top)
            for name in names
            if not name.startswith(TEMPORARY) and name != LOCK_FILE
        )

    def list(self, prefix: str = "") -> list[str]:
        return self._guard(prefix, self._walk)

    def delete(self, key: str) -> None:
        def remove(path: Path) -> None:
            path.unlink()
            # Empty folders go too: S3 has none. Another writer may just be filling one: then rmdir fails.
            for folder in path.relative_to(self._root).parents[:-1]:
                (self._root / folder).rmdir()

        with suppress(ObjectMissing, _FolderInUse):
            self._guard(key, remove)

    def look(self, key: str) -> None:
        with suppress(ObjectMissing):
            self._guard(key, lambda path: path.stat())

    def _write(self, key: str, data: Data | Iterable[bytes], check: Callable[[Path], None], *, locked: bool) -> str:
        def write(path: Path) -> str:
            temporary = self._temporary(path, data)
            try:
                with self._lock() if locked else _unlocked():
                    check(path)
                    stat = temporary.stat()
                    etag = _etag(data, stat) if isinstance(data, Data) else _version(stat)
                    temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
            return etag

        try:
            return self._guard(key, write)
        except ObjectMissing:
            raise StoreUnusable(f"{self._root / key} cannot be created; give a folder that can be written") from None

    def _temporary(self, path: Path, data: Data | Iterable[bytes]) -> Path:
        temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        for attempt in range(FOLDER_TRIES):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = temporary.open("xb", buffering=0)
                break
            except (FileNotFoundError, FileExistsError):
                # Somebody's delete removed the empty folder just now, in the middle of our mkdir or before our open.
                if attempt + 1 == FOLDER_TRIES:
                    raise
        try:
            with file:
                for piece in (data,) if isinstance(data, Data) else data:
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """flock, not lockf: it also keeps threads of one process apart, and ends with its holder."""
        with (self._root / LOCK_FILE).open("ab") as file:
            give_up = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise StoreUnreachable(
                            f"{self._root / LOCK_FILE} was held by another process for {LOCK_S:.0f} s; end that process"
                        ) from None
                    time.sleep(0.002)
            yield

    def _guard(self, key: str, act: Callable[[Path], T]) -> T:
        path = self._root / key
        if ".." in Path(key).parts or Path(key).is_absolute():
            raise ValueError(f"key {key!r}: must stay below {self._root}")
        try:
            return act(path)
        except FileNotFoundError:
            raise ObjectMissing(f"{path} does not exist") from None
        except OSError as error:
            raise self._translate(error, path) from None

    def _translate(self, error: OSError, path: Path) -> Exception:
        match error.errno:
            case errno.EROFS:
                return StoreReadOnly(f"{self._root} is on a read-only file system; give a folder that can be written")
            case errno.EACCES | errno.EPERM:
                return AccessDenied(
                    f"{path}: permission denied for uid {os.geteuid()}; make {self._root} readable and writable for it"
                )
            case errno.ENOSPC | errno.EDQUOT:
                return StoreFull(f"no space left for {path}; free some, or give another folder")
            case errno.ENOTDIR | errno.EISDIR | errno.EEXIST:
                return StoreUnusable(f"{path} meets a file where a folder should be; give another folder")
            case errno.ENOTEMPTY:
                return _FolderInUse()
            case errno.EIO | errno.ESTALE | errno.ETIMEDOUT | errno.EINTR:
                return StoreUnreachable(f"{path}: {error.strerror}; check the file system")
        return StoreUnusable(f"{path}: {error.strerror or type(error).__name__}")


class _FolderInUse(Exception):
    pass


def _etag(data: Data, stat: os.stat_result) -> str:
    """By content where conditions are used, as on S3; large objects by their file, which costs nothing."""
    if len(data) <= HASHED_BYTES:
        return f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'
    return _version(stat)


def _version(stat: os.stat_result) -> str:
    return f'"{stat.st_mtime_ns:x}-{stat.st_ino:x}-{stat.st_size:x}"'


@contextmanager
def _unlocked() -> Iterator[None]:
    yield


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems refuse it; the file itself is safe
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
