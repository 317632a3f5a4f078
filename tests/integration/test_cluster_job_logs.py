"""Reading the output of a job's pods. No kubelet is at hand: a small HTTP server stands in for the API server's list of
pods and its log endpoint, and answers as the kubelet does (whole seconds in sinceTime, time stamps of nine digits).
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dlcloud.jobs.cluster import ClusterJobs
from dlcloud.jobs.cluster_logs import LINE_BYTES, PART_BYTES
from dlcloud.jobs.cluster_records import record_of
from dlcloud.jobs.errors import JobsError, Unreachable
from dlcloud.jobs.source import LogReader

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LIMIT_S = 30.0
UID = "job-uid"


@dataclass
class FakePod:
    """A pod whose container writes; `text` holds what it wrote, each line with its time."""

    name: str
    lines: list[tuple[datetime, str]] = field(default_factory=list)
    unfinished: str = ""
    phase: str = "Running"
    owner: str = UID
    status: int = 200  # of the log endpoint
    cut_after: int | None = None  # bytes, then the connection breaks; once
    zone: str = "Z"
    requests: int = 0

    def write(self, *texts: str, at_s: float = 0.0) -> None:
        self.lines += [(BEGAN + timedelta(seconds=at_s), text) for text in texts]

    def manifest(self) -> dict[str, Any]:
        index, incarnation = self.name.split("-")[1:]
        labels = {"dlcloud.dev/job": "job", "dlcloud.dev/index": index, "dlcloud.dev/incarnation": incarnation}
        state = {"running": {}} if self.phase == "Running" else {"terminated": {}}
        return {
            "metadata": {"name": self.name, "uid": f"u-{self.name}", "labels": labels,
                         "ownerReferences": [{"uid": self.owner}]},
            "status": {"phase": self.phase, "containerStatuses": [{"name": "trainer", "state": state}]},
        }  # fmt: skip

    def output(self, since: str) -> bytes:
        begin = datetime.fromisoformat(since) if since else BEGAN
        entries = [(at, f"{text}\n") for at, text in self.lines]
        if self.unfinished:
            entries.append((self.lines[-1][0] if self.lines else BEGAN, self.unfinished))
        return "".join(f"{self._stamp(at)} {text}" for at, text in entries if at >= begin).encode()

    def _stamp(self, at: datetime) -> str:
        if self.zone != "Z":
            hours = int(self.zone[:3])
            at += timedelta(hours=hours)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}000{self.zone}"


class FakeCluster:
    """Pods by name, served over HTTP."""

    def __init__(self) -> None:
        self.pods: dict[str, FakePod] = {}
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                names = parts.path.split("/")
                if parts.path.endswith("/log"):
                    self._log(cluster.pods.get(names[-2]), query)
                else:
                    items = [pod.manifest() for pod in cluster.pods.values()]
                    self._answer(200, json.dumps({"items": items, "metadata": {}}).encode())

            def _log(self, pod: FakePod | None, query: dict[str, str]) -> None:
                assert query["container"] == "trainer"
                assert query["timestamps"] == "true"
                if pod is None or pod.status != 200:
                    status = 404 if pod is None else pod.status
                    said = {"kind": "Status", "message": "no", "reason": "R", "code": status}
                    self._answer(status, json.dumps(said).encode())
                    return
                pod.requests += 1
                body = pod.output(query.get("sinceTime", ""))
                cut, pod.cut_after = pod.cut_after, None
                self._answer(200, body, cut)

            def _answer(self, status: int, body: bytes, cut: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body if cut is None else body[:cut])
                    if cut is not None:
                        self.wfile.flush()
                        self.connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, name: str, **fields: Any) -> FakePod:
        pod = self.pods[name] = FakePod(name, **fields)
        return pod

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def open_logs(cluster: FakeCluster, tmp_path: Path) -> Iterator[Callable[[], LogReader | None]]:
    readers: list[LogReader] = []

    def open_logs() -> LogReader | None:
        source = ClusterJobs(kubeconfig=kubeconfig(tmp_path, cluster.address))
        job = {"metadata": {"name": "job", "namespace": "team", "uid": UID}}
        reader = source.logs(record_of(job))
        readers.extend([reader] if reader else [])
        return reader

    yield open_logs
    for reader in readers:
        reader.close()


def kubeconfig(folder: Path, server: str) -> Path:
    content = {
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "current-context": "c",
    }
    file = folder / "kubeconfig"
    file.write_text(json.dumps(content))
    return file


def read_until(reader: LogReader, done: Callable[[list[str]], bool]) -> list[str]:
    """All lines as `pod: text`, until `done` of them."""
    found: list[str] = []
    give_up = time.monotonic() + LIMIT_S
    while not done(found):
        assert time.monotonic() < give_up, f"{len(found)} lines so far: {found[-3:]}"
        found += [f"{line.pod}: {line.text}" for line in reader.poll()]
        time.sleep(0.02)
    return found


def opened(open_logs: Callable[[], LogReader | None]) -> LogReader:
    reader = open_logs()
    assert reader is not None
    return reader


def test_without_pods_there_is_no_reader(cluster: FakeCluster, open_logs: Callable[[], LogReader | None]) -> None:
    cluster.add("other-0-1", owner="another job's uid").write("not ours")
    assert open_logs() is None


def test_each_line_comes_once_though_a_second_is_asked_for_again(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    pod = cluster.add("job-0-1")
    pod.write("a", "a", at_s=0.5)
    reader = opened(open_logs)
    found = read_until(reader, lambda lines: len(lines) == 2)
    pod.write("a", at_s=0.5)
    pod.write("b", at_s=0.75)
    found += read_until(reader, lambda lines: len(lines) == 2)
    pod.phase = "Succeeded"
    asked = pod.requests
    found += read_until(reader, lambda lines: bool(lines) or pod.requests > asked)
    assert found == ["job-0-1: a", "job-0-1: a", "job-0-1: a", "job-0-1: b"]


def test_lines_are_in_order_and_keep_their_writer(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    cluster.add("job-1-1", zone="+05:00").write("[rank 1] one", at_s=1)
    cluster.add("job-0-2").write("[rank 0] one", "[rank 0] two\r", at_s=2)
    found = read_until(opened(open_logs), lambda lines: len(lines) == 3)
    assert found == ["job-0-2: [rank 0] one", "job-0-2: [rank 0] two", "job-1-1: [rank 1] one"]


def test_times_of_another_zone_are_not_read_twice(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    pod = cluster.add("job-0-1", zone="+05:00")
    pod.write("a", at_s=1)
    reader = opened(open_logs)
    read_until(reader, lambda lines: len(lines) == 1)
    pod.write("b", at_s=2)
    assert read_until(reader, lambda lines: bool(lines)) == ["job-0-1: b"]


def test_a_line_without_its_end_waits_until_it_has_one_or_the_pod_ended(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    pod = cluster.add("job-0-1", unfinished="half a")
    reader = opened(open_logs)
    read_until(reader, lambda lines: pod.requests >= 1 or bool(lines))
    pod.unfinished = ""
    pod.write("half a line")
    assert read_until(reader, lambda lines: bool(lines)) == ["job-0-1: half a line"]
    pod.unfinished = "last words"
    pod.phase = "Failed"
    assert read_until(reader, lambda lines: bool(lines)) == ["job-0-1: last words"]


def test_a_flood_comes_in_bounded_parts_and_loses_nothing(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    pod = cluster.add("job-0-1", phase="Succeeded")
    pod.write(*(f"{number:06d} {'x' * 200}" for number in range(30_000)), at_s=0.25)  # 6 MB within one second
    reader = opened(open_logs)
    found, most = [], 0
    give_up = time.monotonic() + LIMIT_S
    while len(found) < 30_000 and time.monotonic() < give_up:
        lines = reader.poll()
        most = max(most, sum(len(line.text) for line in lines))
        found += [line.text[:6] for line in lines]
    assert found == [f"{number:06d}" for number in range(30_000)]
    assert most < 2 * PART_BYTES


def test_a_line_without_bounds_is_cut(cluster: FakeCluster, open_logs: Callable[[], LogReader | None]) -> None:
    pod = cluster.add("job-0-1")
    pod.write("y" * (1 << 20), "next")
    found = read_until(opened(open_logs), lambda lines: len(lines) == 2)
    assert len(found[0]) <= LINE_BYTES
    assert found[1] == "job-0-1: next"


def test_a_connection_that_breaks_costs_no_line(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    pod = cluster.add("job-0-1", phase="Succeeded", cut_after=50_000)
    pod.write(*(f"{number:06d}" for number in range(5000)), at_s=0.25)
    found = read_until(opened(open_logs), lambda lines: len(lines) >= 5000)
    assert found == [f"job-0-1: {number:06d}" for number in range(5000)]
    assert pod.requests == 2


def test_a_pod_that_is_made_later_is_read_and_one_that_is_gone_is_no_trouble(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    cluster.add("job-0-1").write("first")
    reader = opened(open_logs)
    read_until(reader, lambda lines: len(lines) == 1)
    del cluster.pods["job-0-1"]
    cluster.add("job-0-2").write("second")
    assert read_until(reader, lambda lines: bool(lines)) == ["job-0-2: second"]


def test_a_container_that_waits_to_start_says_nothing(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    waiting = cluster.add("job-0-1", status=400)
    cluster.add("job-1-1").write("b")
    reader = opened(open_logs)
    assert read_until(reader, lambda lines: bool(lines)) == ["job-1-1: b"]
    waiting.write("a")
    waiting.status = 200
    assert read_until(reader, lambda lines: bool(lines)) == ["job-0-1: a"]


def test_a_node_that_does_not_answer_is_told_once_and_read_again(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    pod = cluster.add("job-0-1", status=501)
    reader = opened(open_logs)
    (told,) = read_until(reader, lambda lines: bool(lines))
    assert told.startswith("job-0-1: [dlcloud] the output cannot be read at the moment: ")
    pod.status = 200
    pod.write("a")
    assert read_until(reader, lambda lines: bool(lines)) == ["job-0-1: a"]


def test_without_the_right_to_read_logs_that_is_the_answer(
    cluster: FakeCluster, open_logs: Callable[[], LogReader | None]
) -> None:
    cluster.add("job-0-1", status=403)
    with pytest.raises(JobsError, match=r"forbids it \(403\)"):
        opened(open_logs).poll()


def test_an_api_server_that_says_nothing_is_given_up_within_10_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"https://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no answer in time"):
            ClusterJobs(kubeconfig=kubeconfig(tmp_path, address)).records()
        assert time.monotonic() - began < 10
