"""A real Prometheus asks dlcloud's pods, with the chart's monitor and alerts; the dashboard has something to show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..cluster.place import Place
from ..rig.cluster import Cluster
from ..rig.helm import CHART
from . import evidence
from .faults import own_namespace
from .jobs import Jobs
from .prometheus import Prometheus
from .release import HOME, NAME, SYSTEM, Release
from .store import Store
from .waiting import until

Object = dict[str, Any]
pytestmark = pytest.mark.timeout(900)  # the first test of the module waits for all that the others look at
LONG, WAITING, FAILED = "long", "waiting", "failed"
ALERT = "DlcloudJobFailed"
NOWHERE = {"nodeSelector": {"kubernetes.io/hostname": "no-such-node"}}
# There only while something is wrong with a job's data or store.
NOT_NOW = {"dlcloud_job_warning"}
MONITORING = {
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
}


@dataclass
class Watched:
    """What Prometheus had to say of a job that trains, one that waits and one that fails."""

    namespace: str
    expressions: list[str]
    rules: Object
    targets: list[Object] = field(default_factory=list)
    answers: dict[str, list[Object]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    described: set[str] = field(default_factory=set)
    loaded: dict[str, Object] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)
    before: list[Object] = field(default_factory=list)
    fired: Object = field(default_factory=dict)
    alerts: list[Object] = field(default_factory=list)
    resolved: bool = False


@pytest.fixture(scope="module")
def watched(
    cluster: Cluster, installed: Release, store: Store, turns: Path, place: Place, namespaces_of_module: list[str]
) -> Iterator[Watched]:
    """Three jobs live under the eyes of a Prometheus; all is gone when this returns."""
    rendered = render(installed)
    with own_namespace(cluster, installed, store, turns, namespaces_of_module, alone=False) as jobs:
        prometheus = Prometheus(cluster, jobs.namespace, place.images.prometheus)
        jobs.create_long(LONG, workers={"count": 1})
        jobs.create(WAITING, workers={"count": 1}, scheduling=NOWHERE, checkpoint=None)
        prometheus.start(rendered["ServiceMonitor"], rendered["PrometheusRule"])
        found = Watched(jobs.namespace, expressions(rendered["ConfigMap"]), rendered["PrometheusRule"]["spec"])
        jobs.until_training(LONG, steps=5)
        observe(found, prometheus, jobs)
        alert(found, prometheus, jobs)
    yield found


def render(release: Release) -> dict[str, Object]:
    """The chart's objects for monitoring, as this release has or would have them."""
    text = release.helm(
        "template", NAME, str(CHART), "-n", HOME, "--kube-version", "1.36.0", "-s", "templates/monitoring.yaml",
        values=release.values(metrics=MONITORING),
    )  # fmt: skip
    return {one["kind"]: one for one in yaml.safe_load_all(text) if one}


def expressions(dashboard: Object) -> list[str]:
    """What the dashboard's panels ask, for all jobs of all namespaces."""
    panels = json.loads(dashboard["data"]["dlcloud.json"])["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [re.sub(r"\$(namespace|job)\b", ".*", text) for text in asked]


def observe(found: Watched, prometheus: Prometheus, jobs: Jobs) -> None:
    """Wait until everything that is asked for was seen twice, as rates need; then ask."""
    here = f'{{namespace="{jobs.namespace}", job="{LONG}"}}'
    until("its steps are scraped", lambda: prometheus.query(f"dlcloud_job_step{here} > 0"), 120)
    until("a rate is known", lambda: prometheus.query("rate(dlcloud_operator_reconciles_total[5m]) > 0"), 120)

    def unanswered() -> list[str]:
        found.answers = {text: prometheus.query(text) for text in found.expressions}
        return [text for text, samples in found.answers.items() if not samples and not any(n in text for n in NOT_NOW)]

    until("every panel of the dashboard has something to show", lambda: not unanswered(), 60)
    found.targets, found.names = prometheus.targets(), prometheus.names()
    found.described, found.loaded = prometheus.described(), prometheus.rules()
    seen = prometheus.query(f'dlcloud_job_phase{{namespace="{jobs.namespace}"}} == 1')
    found.phases = {one["metric"]["job"]: one["metric"]["phase"] for one in seen}
    found.before = prometheus.alerts()


def alert(found: Watched, prometheus: Prometheus, jobs: Jobs) -> None:
    """A job fails, and is deleted when that was noticed."""

    def firing() -> Object | None:
        for one in prometheus.alerts():
            if (one["labels"]["alertname"], one["labels"].get("job")) == (ALERT, FAILED) and one["state"] == "firing":
                return dict(one) if one["labels"]["namespace"] == jobs.namespace else None
        return None

    script = {"command": ["python3", "-c", "raise SystemExit('no such data')"]}
    jobs.create(
        FAILED, script=script, workers={"count": 1}, restart={"maxFailures": 0}, checkpoint=None, objectStore=None
    )
    status = jobs.until_phase(FAILED, "Failed")
    found.fired = until(f"{ALERT} fires", firing, 60)
    found.alerts = [one for one in prometheus.alerts() if one["labels"].get("namespace") == jobs.namespace]
    evidence.note("alert", name=ALERT, failed_at=status["completionTime"], active_at=found.fired["activeAt"])
    jobs.delete(FAILED)
    until(f"{ALERT} is resolved", lambda: firing() is None, 120)
    found.resolved = True


def names_in(text: str) -> set[str]:
    """The series that are asked for."""
    return set(re.findall(r"\b(?:dlcloud_(?:jobs?|operator)|process)_?[a-z_]*", text))


def test_prometheus_finds_the_operators_pods_by_the_charts_monitor(watched: Watched) -> None:
    assert watched.targets
    for target in watched.targets:
        assert target["health"] == "up", target["lastError"]
        labels = target["labels"]
        assert (labels["namespace"], labels["service"]) == (SYSTEM, "dlcloud-metrics")
        assert labels["pod"].startswith("dlcloud-operator-")


def test_a_series_has_the_namespace_and_name_of_its_job(watched: Watched) -> None:
    assert watched.phases == {LONG: "Running", WAITING: "Pending"}


def test_every_series_that_dashboard_and_alerts_ask_for_is_there(watched: Watched) -> None:
    asked = names_in(" ".join(watched.expressions)) | names_in(json.dumps(watched.rules))
    assert len(asked) > 30
    assert asked - watched.names <= NOT_NOW
    assert watched.described >= NOT_NOW


def test_the_dashboard_shows_the_job_that_trains(watched: Watched) -> None:
    of_jobs = {text: samples for text, samples in watched.answers.items() if "by (namespace, job)" in text}
    assert len(of_jobs) >= 8
    here = {
        text: {one["metric"]["job"] for one in samples if one["metric"].get("namespace") == watched.namespace}
        for text, samples in of_jobs.items()
    }
    assert [text for text, jobs in here.items() if LONG not in jobs and "waiting_since" not in text] == []
    assert [jobs for text, jobs in here.items() if "waiting_since" in text] == [{WAITING}]


def test_prometheus_takes_every_alert_of_the_chart(watched: Watched) -> None:
    given = {rule["alert"] for group in watched.rules["groups"] for rule in group["rules"]}
    assert set(watched.loaded) == given and len(given) >= 10
    assert [rule["lastError"] for rule in watched.loaded.values() if rule.get("health") != "ok"] == []


def test_nothing_alerts_while_all_is_well(watched: Watched) -> None:
    ours = [
        one["labels"] for one in watched.before if one["labels"].get("namespace", SYSTEM) in (SYSTEM, watched.namespace)
    ]
    assert ours == []


def test_an_alert_fires_for_a_job_that_has_failed_and_resolves_when_it_is_deleted(watched: Watched) -> None:
    assert watched.fired["labels"]["severity"] == "warning"
    summary = watched.fired["annotations"]["summary"]
    assert summary == f"TrainingJob {watched.namespace}/{FAILED} has failed"
    assert [(one["labels"]["alertname"], one["labels"]["job"]) for one in watched.alerts] == [(ALERT, FAILED)]
    assert watched.resolved
