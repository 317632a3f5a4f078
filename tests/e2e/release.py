"""One dlcloud in the cluster, put there by helm as a user would: `Release`.

May import the rigs. What a test changes it puts back: all tests share it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from ..cluster.place import Place
from ..cluster.values import chart_values
from ..rig.cluster import Cluster
from ..rig.helm import CHART, HelmError, helm
from .waiting import until

NAME = "dlcloud"
HOME = "default"  # where helm keeps the release; what it brings goes to SYSTEM
SYSTEM = "dlcloud-system"
STORE = "dlcloud-s3"
OPERATOR = "dlcloud-operator"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainingjobs.dlcloud.dev"
READY_S = 180

Object = dict[str, Any]


class Release:
    """`install()`, then `admit(namespace)` for each namespace whose jobs use the bundled store."""

    def __init__(self, cluster: Cluster, place: Place) -> None:
        self.cluster, self.place, self.api = cluster, place, cluster.api

    def values(self, **more: Any) -> Object:
        """The chart's values of this cluster: images that are there already, and no more."""
        return {**chart_values(self.place.images), **more}

    def helm(self, *arguments: str, values: Mapping[str, Any] | None = None, timeout_s: float = READY_S + 60) -> str:
        """helm on this cluster. Raises HelmError."""
        return helm(*arguments, values=values, kubeconfig=self.cluster.kubeconfig, timeout_s=timeout_s)

    @property
    def state(self) -> str:
        """helm's word for the release: "deployed", "failed", "pending-install"; "" where there is none."""
        found = json.loads(self.helm("list", "-n", HOME, "-a", "-o", "json"))
        return next((str(one["status"]) for one in found if one["name"] == NAME), "")

    def install(self, **more: Any) -> None:
        """Install it, or bring the one that is there up to date; return when it leads and the store has its buckets."""
        state = self.state
        if state.startswith("pending"):  # helm was killed on the way, and refuses to do anything but this
            self.helm("uninstall", NAME, "-n", HOME, "--wait")
        if self.place.kind == "given" and not state and self.api.find(DEFINITION) is not None:
            raise HelmError(
                "KUBECONFIG: this cluster has TrainingJobs of another dlcloud, which these tests would take over; "
                "give a cluster without (or: helm uninstall it, kubectl delete crd trainingjobs.dlcloud.dev)"
            )
        self.upgrade(**more)

    def upgrade(self, **more: Any) -> None:
        """`helm upgrade --install` with these values and no others; waits as `install`."""
        limit = f"{READY_S}s"
        self.helm(
            "upgrade", "--install", NAME, str(CHART), "-n", HOME, "--wait", "--timeout", limit,
            values=self.values(**more),
        )  # fmt: skip
        self.wait_leading()

    @property
    def is_current(self) -> bool:
        """Whether it is deployed as `install` would, with the images of now, and leads."""
        told = "" if self.state != "deployed" else self.helm("get", "values", NAME, "-n", HOME, "-o", "json")
        return bool(told) and json.loads(told) == self.values() and self.leader() is not None

    # --- the operator ---

    def operator_pods(self) -> list[Object]:
        """Those that are not being deleted, oldest first."""
        found = self.api.items(f"/api/v1/namespaces/{SYSTEM}/pods", labelSelector=f"app.kubernetes.io/name={OPERATOR}")
        there = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(there, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def leader(self) -> Object | None:
        """The pod that leads and is ready."""
        for pod in self.operator_pods():
            if pod["metadata"]["labels"].get("dlcloud.dev/leader") == "true" and is_ready(pod):
                return pod
        return None

    def wait_leading(self, limit_s: float = READY_S) -> Object:
        """The leading pod, once there is one."""
        found: Object = until("an operator leads", self.leader, limit_s)
        return found

    def scale_operator(self, replicas: int) -> None:
        """With 0 it returns when the pods are gone, else when one leads."""
        path = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{OPERATOR}"
        self.api.merge(path, {"spec": {"replicas": replicas}})
        if replicas:
            self.wait_leading()
        else:
            until("the operator is gone", lambda: not self._pods_of(OPERATOR), READY_S)

    def operator_logs(self) -> str:
        """Of all operator pods there are."""
        told = []
        for pod in self.operator_pods():
            told.append(self.api.text(f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}/log"))
        return "\n".join(told)

    # --- the store ---

    def scale_store(self, replicas: int) -> None:
        """With 0 it returns when the pod is gone, else when it is ready. Its volume stays."""
        self.api.merge(f"/apis/apps/v1/namespaces/{SYSTEM}/statefulsets/{STORE}", {"spec": {"replicas": replicas}})
        path = f"/api/v1/namespaces/{SYSTEM}/pods/{STORE}-0"
        if replicas:
            until("the store is ready", lambda: is_ready(self.api.find(path)), READY_S)
        else:
            until("the store is gone", lambda: self.api.find(path) is None, READY_S)

    def store_keys(self) -> tuple[str, str]:
        """Access key and secret key, as jobs have them."""
        data = self.api.get(f"/api/v1/namespaces/{SYSTEM}/secrets/{STORE}")["data"]
        access, secret = (
            base64.b64decode(data[name]).decode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        )
        return access, secret

    def admit(self, namespace: str) -> None:
        """Give a namespace what the chart gives those in `s3.jobNamespaces`: the store's Service and the jobs' keys.

        Without an upgrade of the release for each test.
        """
        access, secret = self.store_keys()
        keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        core = f"/api/v1/namespaces/{namespace}"
        self.api.create(f"{core}/secrets", {"metadata": {"name": STORE}, "stringData": keys})
        service = {"type": "ExternalName", "externalName": f"{STORE}.{SYSTEM}.svc.cluster.local"}
        self.api.create(f"{core}/services", {"metadata": {"name": STORE}, "spec": service})

    # --- inside ---

    def _pods_of(self, name: str) -> list[Object]:
        path = f"/api/v1/namespaces/{SYSTEM}/pods"
        return self.api.items(path, labelSelector=f"app.kubernetes.io/name={name}")


def is_ready(pod: Object | None) -> bool:
    """Whether the pod's condition Ready holds."""
    conditions = ((pod or {}).get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
