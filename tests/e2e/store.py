"""The bundled S3 server as seen from this machine: what a job has left there.

May import the rigs and the minio client. Reaches the server through `kubectl port-forward`, again after it broke.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import urllib3
from minio import Minio

from ..rig.binaries import find_programs
from ..rig.processes import Program, RigError, free_ports
from .jobs import Jobs
from .release import STORE, SYSTEM, Release
from .waiting import until

BUCKET = "checkpoints"
Record = dict[str, Any]


class Store:
    """Objects of the bundled server; `close()` ends the forwarding."""

    def __init__(self, release: Release, folder: Path) -> None:
        self._release, self._folder = release, folder
        self._lock = threading.Lock()
        self._forward: Program | None = None
        self._client: Minio | None = None
        self.endpoint = ""

    def client(self) -> Minio:
        """A client that reaches the server now. Raises RigError when it cannot be reached within 60 s."""
        with self._lock:
            if self._client is None or not self._answers(self._client):
                self._connect()
            assert self._client is not None
            return self._client

    def keys(self, prefix: str, bucket: str = BUCKET) -> list[str]:
        """The keys below a prefix."""
        return [str(one.object_name) for one in self.client().list_objects(bucket, prefix, recursive=True)]

    def read(self, key: str, bucket: str = BUCKET) -> bytes:
        """An object's bytes."""
        answer = self.client().get_object(bucket, key)
        try:
            return bytes(answer.read())
        finally:
            answer.close()
            answer.release_conn()

    def prefix(self, name: str, jobs: Jobs) -> str:
        """Where a job that exists keeps its checkpoints."""
        return f"{jobs.namespace}/{name}/{jobs.get(name)['metadata']['uid']}/"

    def head(self, name: str, jobs: Jobs) -> Record:
        """The job's commit point (docs/protocol.md, section 4)."""
        return self.head_at(self.prefix(name, jobs))

    def head_at(self, prefix: str) -> Record:
        """The same by the prefix, also when the job is gone."""
        found: Record = json.loads(self.read(prefix + "head.json"))
        return found

    def records(self, name: str, jobs: Jobs) -> list[Record]:
        """What the job measured, in the order of its rounds; each with its `round` and `at` (seconds, epoch)."""
        return self.records_at(self.prefix(name, jobs))

    def records_at(self, prefix: str) -> list[Record]:
        """The same by the prefix, also when the job is gone."""
        found: list[Record] = []
        for key in sorted(self.keys(prefix + "metrics/")):
            number = int(key.split("/")[-2])
            for line in self.read(key).splitlines():
                record = json.loads(line)
                found.append({**record, "round": number, "at": datetime.fromisoformat(record["time"]).timestamp()})
        return found

    def steps(self, name: str, jobs: Jobs) -> list[Record]:
        """The steps of the training, one record each where `logEverySteps` is 1."""
        return self.steps_at(self.prefix(name, jobs))

    def steps_at(self, prefix: str) -> list[Record]:
        """The same by the prefix, also when the job is gone."""
        return [record for record in self.records_at(prefix) if record["kind"] == "train"]

    def losses(self, name: str, jobs: Jobs) -> dict[int, float]:
        """Step -> loss, of the round that made the step last."""
        return {record["step"]: record["loss"] for record in self.steps(name, jobs)}

    def close(self) -> None:
        if self._forward is not None:
            self._forward.stop(grace_s=0)

    # --- inside ---

    def _connect(self) -> None:
        access, secret = self._release.store_keys()

        def reach() -> Minio | None:
            if self._forward is not None:
                self._forward.stop(grace_s=0)
            port = free_ports(1)[0]
            kubectl = find_programs(("kubectl",))["kubectl"]
            self._forward = Program("port-forward", self._folder / "port-forward.log", os.getpid())
            self._forward.start([
                str(kubectl), "--kubeconfig", str(self._release.cluster.kubeconfig), "-n", SYSTEM,
                "port-forward", f"svc/{STORE}", f"{port}:8333", "--address", "127.0.0.1",
            ], os.environ)  # fmt: skip
            self.endpoint = f"http://127.0.0.1:{port}"
            pool = urllib3.PoolManager(timeout=urllib3.Timeout(10), retries=urllib3.Retry(2, backoff_factor=0.2))
            client = Minio(f"127.0.0.1:{port}", access, secret, secure=False, region="us-east-1", http_client=pool)
            with contextlib.suppress(RigError):
                until("the store answers", lambda: self._answers(client), 8, self._forward)
                return client
            return None

        self._client = until("the store is reached", reach, 60)

    @staticmethod
    def _answers(client: Minio) -> bool:
        try:
            return bool(client.bucket_exists(BUCKET))
        except Exception:
            return False
