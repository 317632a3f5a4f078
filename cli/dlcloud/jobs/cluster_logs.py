"""The output of a job's pods as the kubelets still have it, read bit by bit.

May import this package. A pod is read in requests that end, from the last time stamp on, and never more than a bounded
part of it at once: following a thousand pods holds no thousand connections, and a flood of output no memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from dlcloud_operator.api import LABEL_INCARNATION, LABEL_INDEX, LABEL_JOB

from .kube import KubeApi
from .kube_errors import KubeError
from .source import LogLine

CONTAINER = "trainer"
PART_BYTES = 1 << 20  # of one pod in one poll
LINE_BYTES = 64 << 10
LIST_S = 2.0  # pods come and go; so often they are listed
QUIET_S, SLOWEST_S = 0.5, 3.0  # a pod that says nothing is asked less and less often
THREADS = 8
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


class _End(Enum):
    """Why a part of the output is over."""

    MORE = "there is more"
    REACHED = "that is all for now"
    BROKEN = "the connection broke"


@dataclass(frozen=True)
class Pod:
    """A pod of the job, as listed."""

    name: str
    uid: str
    order: tuple[int, int]  # worker index, incarnation
    started: bool  # its container runs, or ran: before that there is no log
    ended: bool


def pods_of(api: KubeApi, namespace: str, job: str, uid: str) -> list[Pod]:
    """The pods owned by exactly this job, by index and incarnation. Raises KubeError."""
    items = api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"{LABEL_JOB}={job}")
    owned = [item for item in items if _is_owned(item, uid)]
    return sorted((_pod(item) for item in owned), key=lambda pod: (pod.order, pod.name))


class ClusterLogReader:
    """Hands out the lines of all pods of a job; see `LogReader`."""

    def __init__(self, api: KubeApi, namespace: str, job: str, uid: str, pods: list[Pod]) -> None:
        self._api, self._namespace, self._job, self._uid = api, namespace, job, uid
        self._tails: dict[str, _Tail] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="logs")
        self._listed_at = time.monotonic()
        self._take(pods)

    def poll(self, *, rest: bool = False) -> list[LogLine]:
        """The complete lines that came since the last call. Raises KubeError when the right to read them is missing.

        `rest`: the job is over, so that pods which were left alone for their silence are asked as well.
        """
        now = time.monotonic()
        if rest or now - self._listed_at >= LIST_S:
            self._take(pods_of(self._api, self._namespace, self._job, self._uid))
            self._listed_at = now
        due = [tail for tail in self._tails.values() if tail.due(now, rest)]
        return [line for lines in self._pool.map(lambda tail: tail.read(), due) for line in lines]

    def close(self) -> None:
        """Give back connections."""
        for tail in self._tails.values():
            tail.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    def _take(self, pods: list[Pod]) -> None:
        """Know new pods, and which of the known ones ended; those that are gone are forgotten."""
        for name in self._tails.keys() - {pod.name for pod in pods}:
            self._tails.pop(name).close()
        for pod in pods:
            tail = self._tails.get(pod.name)
            if tail is None or tail.pod.uid != pod.uid:
                path = f"/api/v1/namespaces/{self._namespace}/pods/{pod.name}/log"
                self._tails[pod.name] = _Tail(self._api, path, pod)
            else:
                tail.update(pod)


class _Tail:
    """How far one pod's output was read."""

    def __init__(self, api: KubeApi, path: str, pod: Pod) -> None:
        self.pod = pod
        self._api, self._path = api, path
        self._response: Any = None
        self._rest = b""
        self._last, self._count = "", 0  # the last line's time stamp, and how many lines of that time were handed out
        self._skip = 0
        self._next_at, self._pause_s = 0.0, QUIET_S
        self._done = False
        self._complained = False

    def due(self, now: float, rest: bool = False) -> bool:
        """Whether it is worth a request; for the `rest` without a pause."""
        return self.pod.started and not self._done and (rest or now >= self._next_at)

    def update(self, pod: Pod) -> None:
        """What the list says of it now."""
        if pod.ended and not self.pod.ended:
            self._next_at = 0.0
        self.pod = pod

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def read(self) -> list[LogLine]:
        """The next part; at the end of what there is, the pod is left alone for a while. Raises KubeError."""
        ended = self.pod.ended  # before the request: what is written after it belongs to the next one
        try:
            if self._response is None:
                self._open()
            texts, end = self._part(ended)
        except KubeError as error:
            return self._failed(error)
        self._complained = False
        lines = [LogLine(self.pod.name, text) for text in texts]
        self._pause_s = QUIET_S if lines else min(self._pause_s * 1.5, SLOWEST_S)
        self._next_at = 0.0 if end is _End.MORE else time.monotonic() + self._pause_s
        self._done = ended and end is _End.REACHED
        return lines

    def _open(self) -> None:
        # The kubelet compares whole seconds: lines of this second come again, and are skipped.
        since = {"sinceTime": f"{self._last[:19]}Z"} if self._last else {}
        self._response = self._api.open(self._path, container=CONTAINER, timestamps="true", **since)
        self._rest, self._skip = b"", self._count

    def _part(self, ended: bool) -> tuple[list[str], _End]:
        """Lines that are new, and why there are no more. A last line without an end waits until the pod ended."""
        from urllib3.exceptions import HTTPError

        texts: list[str] = []
        left = PART_BYTES
        while left > 0:
            try:
                chunk = bytes(self._response.read(1 << 16))
            except (HTTPError, OSError):  # the next request goes on from the last line
                self.close()
                return texts, _End.BROKEN
            if not chunk:
                self.close()
                texts += self._new(self._rest) if self._rest and ended else []
                return texts, _End.REACHED
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                new = list(self._new(line))
                left -= len(line) if new else 0  # lines skipped cost nothing: else a busy second would never end
                texts += new
            self._rest = self._rest[:LINE_BYTES]
        return texts, _End.MORE

    def _new(self, line: bytes) -> Iterator[str]:
        """The line without its time stamp, unless it was handed out before."""
        stamp, _, text = line[:LINE_BYTES].decode("utf-8", "replace").partition(" ")
        key = _comparable(stamp)
        if key is None:  # the kubelet's own words, as `failed to try resolving symlinks`
            return
        if key < self._last:
            return
        if key == self._last:
            if self._skip > 0:
                self._skip -= 1
                return
            self._count += 1
        else:
            self._last, self._count, self._skip = key, 1, 0
        yield text.rstrip("\r")

    def _failed(self, error: KubeError) -> list[LogLine]:
        """Not yet, no more, or the node does not answer: said once, and tried again. Raises what cannot change."""
        self.close()
        self._pause_s = min(self._pause_s * 1.5, SLOWEST_S)
        self._next_at = time.monotonic() + self._pause_s
        if error.status == 404:
            self._done = True
            return []
        if error.status in (401, 403):
            raise error
        if error.status == 400 or self._complained:  # 400: the container waits to start
            return []
        self._complained = True
        return [LogLine(self.pod.name, f"[dlcloud] the output cannot be read at the moment: {error}")]


def _comparable(stamp: str) -> str | None:
    """`2026-01-02T03:04:05.1+01:00` in UTC with all nine digits: texts of these order as their times do."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        return None
    whole, fraction, zone = match.groups()
    if zone != "Z":
        whole = datetime.fromisoformat(whole + zone).astimezone(UTC).isoformat()[:19]
    return f"{whole}.{(fraction or '')[:9].ljust(9, '0')}"


def _is_owned(item: Mapping[str, Any], uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in item["metadata"].get("ownerReferences") or [])


def _pod(item: Mapping[str, Any]) -> Pod:
    metadata, status = item["metadata"], item.get("status") or {}
    labels = metadata.get("labels") or {}
    states = [c.get("state") or {} for c in status.get("containerStatuses") or [] if c.get("name") == CONTAINER]
    ended = status.get("phase") in ("Succeeded", "Failed")
    started = ended or any("running" in state or "terminated" in state for state in states)
    order = _number(labels.get(LABEL_INDEX)), _number(labels.get(LABEL_INCARNATION))
    return Pod(metadata["name"], metadata["uid"], order, started, ended or any("terminated" in s for s in states))


def _number(text: Any) -> int:
    return int(text) if str(text or "").isdigit() else 0
