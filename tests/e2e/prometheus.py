"""A Prometheus of a test's own in the cluster, which asks dlcloud's pods as the chart's ServiceMonitor says.

May import the rig. It has the chart's alerts, and looks at them every few seconds instead of every half minute. Pods
are found here: Debian's Prometheus is built without Kubernetes' service discovery.
"""

from __future__ import annotations

from typing import Any

import yaml

from ..rig.client import KubeClient, KubeError
from ..rig.cluster import Cluster
from .release import is_ready
from .waiting import until

Object = dict[str, Any]
NAME = "prometheus"
PORT = 9090
INTERVAL_S = 5


class Prometheus:
    """`start()` in a namespace of a test's, with which it goes."""

    def __init__(self, cluster: Cluster, namespace: str, image: str) -> None:
        self._namespace, self._image, self._api = namespace, image, cluster.api
        self._pod = f"/api/v1/namespaces/{namespace}/pods/{NAME}"

    def start(self, monitor: Object, rules: Object) -> None:
        """With the rendered ServiceMonitor and PrometheusRule; returns when it answers."""
        core = f"/api/v1/namespaces/{self._namespace}"
        settings = yaml.safe_dump(configuration(monitor, targets(self._api, monitor)))
        files = {"prometheus.yml": settings, "rules.yml": yaml.safe_dump(rules["spec"])}
        self._api.create(f"{core}/configmaps", {"metadata": {"name": NAME}, "data": files})
        self._api.create(f"{core}/pods", {"metadata": {"name": NAME}, "spec": self._spec()})
        until("Prometheus is ready", lambda: is_ready(self._api.find(self._pod)), 240)

    # --- what it says ---

    def query(self, expression: str) -> list[Object]:
        """The samples of an instant query: `{"metric": labels, "value": [at, text]}`. Raises KubeError."""
        result = self._ask("query", query=expression)["result"]
        return list(result)

    def alerts(self) -> list[Object]:
        """Those that are pending or firing."""
        return list(self._ask("alerts")["alerts"])

    def rules(self) -> dict[str, Object]:
        """Its alerts by name, each with its `health` and `lastError`."""
        return {rule["name"]: rule for group in self._ask("rules")["groups"] for rule in group["rules"]}

    def targets(self) -> list[Object]:
        """What it asks."""
        return list(self._ask("targets", state="active")["activeTargets"])

    def names(self) -> set[str]:
        """The names of all series it has."""
        return set(self._ask("label/__name__/values"))

    def described(self) -> set[str]:
        """The names of all metrics that were described to it, samples or not."""
        return set(self._ask("metadata"))

    def _ask(self, what: str, **query: str) -> Any:
        pod = f"{self._pod}:{PORT}/proxy/api/v1/{what}"

        def answer() -> Any:
            try:
                return self._api.get(pod, **query)
            except KubeError as error:
                if error.status < 500 and error.status != 0:
                    raise
                return None

        return until(f"Prometheus answers {what}", answer, 60)["data"]

    # --- what it is ---

    def _spec(self) -> Object:
        container = {
            "name": NAME,
            "image": self._image,
            "command": [
                "prometheus",
                "--config.file=/etc/dlcloud-test/prometheus.yml",
                "--storage.tsdb.path=/data",
                f"--web.listen-address=:{PORT}",
            ],
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}},
            "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 2, "timeoutSeconds": 5},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "configuration", "mountPath": "/etc/dlcloud-test"},
                {"name": "data", "mountPath": "/data"},
            ],
        }
        user = {"runAsNonRoot": True, "runAsUser": 65534, "runAsGroup": 65534, "fsGroup": 65534}
        return {
            "automountServiceAccountToken": False,
            "containers": [container],
            "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "configuration", "configMap": {"name": NAME}}, {"name": "data", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 2,
        }


def configuration(monitor: Object, found: list[Object]) -> Object:
    """What the Prometheus operator makes of a ServiceMonitor with one endpoint, the targets already found."""
    metadata, endpoint = monitor["metadata"], monitor["spec"]["endpoints"][0]
    job = {
        "job_name": f"serviceMonitor/{metadata['namespace']}/{metadata['name']}/0",
        "honor_labels": endpoint["honorLabels"],
        "static_configs": found,
        "relabel_configs": [{"source_labels": ["service"], "target_label": "job"}],
    }
    often = f"{INTERVAL_S}s"
    return {
        "global": {"scrape_interval": often, "scrape_timeout": often, "evaluation_interval": often},
        "rule_files": ["rules.yml"],
        "scrape_configs": [job],
    }


def targets(api: KubeClient, monitor: Object) -> list[Object]:
    """The pods behind the Services that a ServiceMonitor selects, labelled as the Prometheus operator does."""
    namespace, endpoint = monitor["metadata"]["namespace"], monitor["spec"]["endpoints"][0]
    selector = ",".join(f"{label}={value}" for label, value in monitor["spec"]["selector"]["matchLabels"].items())
    found = []
    for service in api.items(f"/api/v1/namespaces/{namespace}/services", labelSelector=selector):
        name = service["metadata"]["name"]
        slices = api.items(
            f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
            labelSelector=f"kubernetes.io/service-name={name}",
        )
        for part in slices:
            ports = [port["port"] for port in part["ports"] or () if port["name"] == endpoint["port"]]
            for one in part["endpoints"] or ():
                labels = {"namespace": namespace, "service": name, "endpoint": endpoint["port"]}
                labels["pod"] = one["targetRef"]["name"]
                found += [{"targets": [f"{one['addresses'][0]}:{port}"], "labels": labels} for port in ports]
    return found
