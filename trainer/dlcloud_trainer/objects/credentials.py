"""Where the keys that sign requests come from: a mounted Secret that rotates, the environment, or a web identity.

May import the standard library and errors. Sends nothing and starts no thread before the first `get`.
Must never put a key into a message or a `repr`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .errors import CredentialsMissing

ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
CUSTOMER_KEY = "AWS_SSE_CUSTOMER_KEY_BASE64"
FOLDER = "DLCLOUD_STORE_CREDENTIALS_DIR"
NAMES = (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
READ_TRIES = 5
_VERSION_LINK = "..data"  # what the kubelet turns when it exchanges all files of a Secret at once


@dataclass(frozen=True)
class Keys:
    """What signs a request; `token` is empty for keys that do not expire."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)


class KeySource(Protocol):
    """Keys for requests. Any thread may call it."""

    rotates_in: str
    """Where keys that are refused may be followed by others without a restart; empty: they stay."""

    def get(self) -> Keys:
        """Keys for the next request. Raises `CredentialsMissing`, and `StoreUnreachable` when a service that lends
        them does not answer."""

    def replace(self, refused: Keys) -> bool:
        """The store refused these keys: whether `get` gives others now. Raises as `get` does."""


class StaticKeys:
    """Keys that stay what they are, from the environment."""

    rotates_in = ""

    def __init__(self, values: Mapping[str, str], what: str) -> None:
        self._keys = parse_keys({name: values.get(name, "") for name in NAMES}, what)

    def get(self) -> Keys:
        return self._keys

    def replace(self, refused: Keys) -> bool:
        return False


class MountedKeys:
    """Keys in the files of a mounted Secret, one for each key of it; read again when they were exchanged."""

    rotates_in = "the Secret of objectStore.credentialsSecret"

    def __init__(self, folder: Path, what: str) -> None:
        self._folder, self._what = folder, what
        self._lock = threading.Lock()
        self._seen: object = None
        self._keys: Keys | None = None

    def get(self) -> Keys:
        with self._lock:
            version = self._version()
            if self._keys is None or version != self._seen:
                try:
                    self._keys = self._read()
                except CredentialsMissing:
                    # A Secret that was emptied or half edited: what was there before may still be accepted.
                    if self._keys is None:
                        raise
                self._seen = version
            return self._keys

    def replace(self, refused: Keys) -> bool:
        with self._lock:
            self._keys = self._read()
            return self._keys != refused

    def _version(self) -> object:
        try:
            return os.readlink(self._folder / _VERSION_LINK)  # noqa: PTH115 - at every request: half the time
        except OSError:
            return tuple(map(_stamp, (self._folder / name for name in NAMES)))

    def _read(self) -> Keys:
        """All files of one version: the folder behind the link is found once, and read again if it was exchanged."""
        for _ in range(READ_TRIES):
            version = self._version()
            folder = self._folder / version if isinstance(version, str) else self._folder
            values = {name: read_value(folder / name, self._what) for name in NAMES}
            if self._version() == version:
                return parse_keys(values, self._what, f" in {self._folder}")
        raise CredentialsMissing(f"{self._what}: the files in {self._folder} change faster than they can be read")


def parse_keys(values: Mapping[str, str], what: str, where: str = "") -> Keys:
    """The keys in `values`; raises `CredentialsMissing` naming the one that is missing or cannot be right."""
    for name in (ACCESS_KEY, SECRET_KEY):
        if not values[name]:
            raise CredentialsMissing(
                f"{what}: {name} is missing or empty{where}; the Secret of objectStore.credentialsSecret needs "
                f"{ACCESS_KEY} and {SECRET_KEY}"
            )
    for name in NAMES:
        value = values[name]
        if value != value.strip() or not value.isprintable():
            raise CredentialsMissing(
                f"{what}: {name} holds white space or a line break{where}; write the Secret again without it (echo -n)"
            )
    return Keys(values[ACCESS_KEY], values[SECRET_KEY], values[SESSION_TOKEN])


def read_value(path: Path, what: str) -> str:
    """A file's text without the line break at its end, empty when there is no such file; raises
    `CredentialsMissing`."""
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError:
        raise CredentialsMissing(f"{what}: {path} holds no text; write the Secret again") from None
    except OSError as error:
        raise CredentialsMissing(
            f"{what}: {path} cannot be read ({error.strerror}); it must be readable for uid {os.geteuid()}"
        ) from None


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
