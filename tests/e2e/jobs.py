"""TrainingJobs on real nodes in the words of a test: made, waited for, looked into, their processes found.

May import the rigs. `FAULTY` is the job that faults are tried on: long enough to be hit, every step recorded.
"""

from __future__ import annotations

import copy
from typing import Any

from ..rig.jobs import Jobs as PlainJobs
from ..rig.jobs import Object, manifest
from .waiting import until

STORE: Object = {"endpoint": "http://dlcloud-s3:8333", "credentialsSecret": "dlcloud-s3"}
DIGITS: Object = {
    "workload": "cnn",
    "data": {"uri": "builtin://digits"},
    "parameters": {"epochs": 2, "batchSize": 64, "logEverySteps": 1},
    "workers": {"count": 2, "cpu": "1", "memory": "768Mi"},
    # Many tests share few cores: a pod may use a whole one, and is scheduled as if it needed a tenth of it.
    "podTemplate": {"spec": {"containers": [{"name": "trainer", "resources": {"requests": {"cpu": "100m"}}}]}},
    "checkpoint": {"uri": "s3://checkpoints/", "everySeconds": 2},
    "objectStore": STORE,
}
TRAINER = "trainer"
_FIND_RANKS = """
import os, sys, time
def find_ranks():
    parents, zygotes = {}, set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[pid] = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1]
            if b"dlcloud_trainer.zygote" in open(f"/proc/{pid}/cmdline", "rb").read():
                zygotes.add(pid)
        except OSError:
            pass
    return [int(pid) for pid, parent in parents.items() if parent in zygotes]
"""
# A new rank has worked 30 ms: it has said that it lives, and is far from its first step.
_HOLD_RANK = (
    _FIND_RANKS
    + """
end = time.monotonic() + 15
while time.monotonic() < end:
    for pid in find_ranks():
        if sum(map(int, open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[11:13])) >= 3:
            os.kill(pid, 19)
            print(pid)
            sys.exit()
    time.sleep(0.01)
"""
)


class Jobs(PlainJobs):
    """The TrainingJobs of one namespace that the bundled store knows. Pods need seconds here, not milliseconds."""

    LIMIT_S = 300.0
    POLL_S = 0.3

    def create(self, name: str, **spec: Any) -> Object:
        """`DIGITS` on two workers, with these keys of its spec changed or merged into (None: left out).

        A `script` takes the place of workload, data and parameters.
        """
        merged: Object = copy.deepcopy(DIGITS)
        if spec.get("script"):
            for key in ("workload", "data", "parameters"):
                merged.pop(key)
        for key, value in spec.items():
            inner = merged.get(key)
            merged[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
        merged = {key: value for key, value in merged.items() if value is not None}
        found: Object = self.api.create(self.path, manifest(name, merged))
        return found

    def create_long(self, name: str, **spec: Any) -> Object:
        """A job that trains for minutes: something to be killed. Small batches: many steps, checkpoints every 2 s."""
        parameters = {"epochs": 200, "batchSize": 32, "logEverySteps": 1}
        return self.create(name, **{**spec, "parameters": {**parameters, **(spec.get("parameters") or {})}})

    def until_training(self, name: str, steps: int = 10, round: int = 1, limit_s: float | None = None) -> Object:
        """The status once round `round` (or a later one) runs, has told of `steps` steps and committed a checkpoint."""

        def look(status: Object) -> Object | None:
            now = status.get("round") or {}
            done = (status.get("progress") or {}).get("step") or 0
            there = status.get("phase") == "Running" and now.get("number", 0) >= round
            return status if there and done >= steps and status.get("checkpoint") else None

        found: Object = self.until(name, f"{name} trains in round {round} or later", look, limit_s)
        return found

    def until_goes_on(self, name: str, than: Object, limit_s: float | None = None) -> Object:
        """The status once a later round than that of the status `than` has gone further than it."""
        furthest = (than.get("progress") or {}).get("step") or 0
        number = than["round"]["number"] + 1
        seen: dict[int, int] = {}  # round -> the first step told in it, which may still be the last of the one before

        def look(status: Object) -> Object | None:
            now = (status.get("round") or {}).get("number", 0)
            step = (status.get("progress") or {}).get("step") or 0
            there = status.get("phase") == "Running" and now >= number and status.get("checkpoint")
            return status if there and step != seen.setdefault(now, step) and step > furthest else None

        found: Object = self.until(name, f"{name} gets beyond step {furthest} in round {number}", look, limit_s)
        return found

    # --- workers ---

    def pod(self, job: str, worker: int) -> Object:
        """The newest pod of a worker's index that is not being deleted. Raises LookupError."""
        there = [
            pod
            for pod in self.pods(job)
            if pod["metadata"]["labels"].get("dlcloud.dev/index") == str(worker)
            and "deletionTimestamp" not in pod["metadata"]
        ]
        if not there:
            raise LookupError(f"{job} has no worker {worker}")
        return max(there, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def uids(self, job: str) -> dict[int, str]:
        """Worker index -> uid of its newest pod."""
        indexes = {int(pod["metadata"]["labels"]["dlcloud.dev/index"]) for pod in self.pods(job)}
        return {index: self.pod(job, index)["metadata"]["uid"] for index in sorted(indexes)}

    def delete_pod(self, pod: Object, grace_s: int | None = None) -> None:
        """Delete it as a user does (`kubectl delete pod`), or with another grace period."""
        body = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        self.api.delete(f"{self.pods_path}/{pod['metadata']['name']}", body)

    def logs(self, pod: Object | str, **query: Any) -> str:
        """A pod's output so far."""
        name = pod if isinstance(pod, str) else pod["metadata"]["name"]
        return self.api.text(f"{self.pods_path}/{name}/log", container=TRAINER, **query)

    def exec(self, pod: Object | str, *command: str, fails: bool = False) -> str:
        """The output of a command in the pod's container."""
        name = pod if isinstance(pod, str) else pod["metadata"]["name"]
        return self.cluster.kubectl("exec", "-n", self.namespace, name, "-c", TRAINER, "--", *command, fails=fails)

    def rank_pids(self, pod: Object | str) -> list[int]:
        """Process ids, as the pod counts, of the ranks that run in it now: the children of its zygote."""
        told = self.exec(pod, "python3", "-c", _FIND_RANKS + "print(*find_ranks())")
        return [int(pid) for pid in told.split()]

    def kill_rank(self, pod: Object | str, signal: int = 9) -> float:
        """Send a signal to one rank of the pod, from inside; when that was, in seconds since the epoch.

        Raises AssertionError where no rank runs.
        """
        script = f"{_FIND_RANKS}\nfor pid in find_ranks()[:1]:\n    print(time.time())\n    os.kill(pid, {signal})"
        told = self.exec(pod, "python3", "-c", script)
        assert told, "no rank runs in the pod"
        return float(told)

    def hold_rank(self, pod: Object | str) -> None:
        """Freeze the pod's rank at its beginning, as soon as there is one: training waits until `let_go`.

        So that a short job is where a test wants it, however fast or slow the machine is.
        """
        until("the pod has a rank", lambda: self.exec(pod, "python3", "-c", _HOLD_RANK), self.LIMIT_S)

    def let_go(self, pod: Object | str) -> None:
        """Let a rank that was held go on."""
        self.kill_rank(pod, signal=18)

    # --- afterwards ---

    def until_clean(self, job: str, limit_s: float = 90.0) -> None:
        """Delete the job; nothing that was made for it may be left in the namespace."""
        self.delete(job)
        self.until_gone(job, limit_s)
        policies = f"/apis/networking.k8s.io/v1/namespaces/{self.namespace}/networkpolicies"
        own = {"labelSelector": f"dlcloud.dev/job={job}"}
        until(f"no network policy of {job} is left", lambda: not self.api.items(policies, **own), limit_s)
