"""The alerts fire when they should and not otherwise, on Prometheus' own rule tester; the dashboard asks in PromQL."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from dlcloud_operator.api import TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.observer import QueueState
from dlcloud_operator.kube.metrics import Metrics

from .helm import CHART, one, render
from .matrix import MATRIX

PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not on the PATH (Debian: prometheus), nor does PROMTOOL name it"
)
OPERATOR, OURS = 'service="dlcloud-metrics", namespace="dlcloud-system"', 'service="dlcloud-metrics"'
JOB = f'{{namespace="research", job="mnist", {OURS}}}'
MINUTES = 65  # when it is looked at; series have a value each 30 s, and are constant or count
HEALTHY = {
    f'up{{job="dlcloud-metrics", {OPERATOR}}}': "1x200",
    f'dlcloud_operator_leader{{pod="a", {OPERATOR}}}': "1x200",
    f'dlcloud_operator_leader{{pod="b", {OPERATOR}}}': "0x200",
    f"dlcloud_operator_queue_oldest_age_seconds{{{OPERATOR}}}": "0x200",
    f"dlcloud_operator_queue_oldest_busy_seconds{{{OPERATOR}}}": "0x200",
    f'dlcloud_operator_api_requests_total{{verb="get", code="2xx", {OPERATOR}}}': "0+30x200",
    f'dlcloud_operator_api_requests_total{{verb="get", code="5xx", {OPERATOR}}}': "0x200",
    f"dlcloud_operator_certificate_expiry_timestamp_seconds{{{OPERATOR}}}": "864000x200",
    f'dlcloud_job_phase{{phase="Running", {JOB[1:]}': "1x200",
    f"dlcloud_job_restarts_total{JOB}": "1x200",
    f"dlcloud_job_round_start_timestamp_seconds{JOB}": "0x200",
    f"dlcloud_job_last_progress_timestamp_seconds{JOB}": "0+30x200",
    f"dlcloud_job_checkpoint_interval_seconds{JOB}": "60x200",
    f"dlcloud_job_last_checkpoint_timestamp_seconds{JOB}": "0+30x200",
}
FRESH = {f"dlcloud_job_round_start_timestamp_seconds{JOB}": "0+30x200"}
# what is different, what fires
SCENARIOS: dict[str, tuple[dict[str, str | None], set[str]]] = {
    "all is well": ({}, set()),
    "a job has failed": (
        {
            f'dlcloud_job_phase{{phase="Running", {JOB[1:]}': None,
            f'dlcloud_job_phase{{phase="Failed", {JOB[1:]}': "1x200",
        },
        {"DlcloudJobFailed"},
    ),
    "a job restarts every minute": ({f"dlcloud_job_restarts_total{JOB}": "0+0.5x200"}, {"DlcloudJobFailing"}),
    "steps have stopped": ({f"dlcloud_job_last_progress_timestamp_seconds{JOB}": "600x200"}, {"DlcloudJobNoProgress"}),
    "steps stopped before the restart": (
        {f"dlcloud_job_last_progress_timestamp_seconds{JOB}": "600x200", **FRESH},
        set(),
    ),
    "a suspended job makes no step": (
        {
            f"dlcloud_job_last_progress_timestamp_seconds{JOB}": "600x200",
            f'dlcloud_job_phase{{phase="Running", {JOB[1:]}': None,
        },
        set(),
    ),
    "workers are missing": ({f"dlcloud_job_waiting_since_timestamp_seconds{JOB}": "0x200"}, {"DlcloudJobWaiting"}),
    "no commit for long": (
        {f"dlcloud_job_last_checkpoint_timestamp_seconds{JOB}": "600x200"},
        {"DlcloudCheckpointTooOld"},
    ),
    "no commit for long, as asked for": (
        {
            f"dlcloud_job_last_checkpoint_timestamp_seconds{JOB}": "600x200",
            f"dlcloud_job_checkpoint_interval_seconds{JOB}": "3600x200",
        },
        set(),
    ),
    "the last commit was before the restart": (
        {f"dlcloud_job_last_checkpoint_timestamp_seconds{JOB}": "600x200", **FRESH},
        set(),
    ),
    "never a commit": ({f"dlcloud_job_last_checkpoint_timestamp_seconds{JOB}": None}, {"DlcloudNoCheckpoint"}),
    "no operator is there": ({f'up{{job="dlcloud-metrics", {OPERATOR}}}': None}, {"DlcloudOperatorDown"}),
    "no operator answers": ({f'up{{job="dlcloud-metrics", {OPERATOR}}}': "0x200"}, {"DlcloudOperatorDown"}),
    "none leads": ({f'dlcloud_operator_leader{{pod="a", {OPERATOR}}}': "0x200"}, {"DlcloudNoLeader"}),
    "a job waits in the queue": (
        {f"dlcloud_operator_queue_oldest_age_seconds{{{OPERATOR}}}": "90x200"},
        {"DlcloudQueueStuck"},
    ),
    "a pass does not end": (
        {f"dlcloud_operator_queue_oldest_busy_seconds{{{OPERATOR}}}": "90x200"},
        {"DlcloudQueueStuck"},
    ),
    "the API server fails": (
        {f'dlcloud_operator_api_requests_total{{verb="get", code="5xx", {OPERATOR}}}': "0+3x200"},
        {"DlcloudApiErrors"},
    ),
    "the certificate is not renewed": (
        {f"dlcloud_operator_certificate_expiry_timestamp_seconds{{{OPERATOR}}}": "100000x200"},
        {"DlcloudCertificateExpires"},
    ),
    "another release is in trouble": ({'dlcloud_operator_leader{service="other", namespace="x"}': "0x200"}, set()),
}


def promtool(*arguments: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> dict[str, object]:
    return dict(one(render(MATRIX["monitoring"]), "PrometheusRule")["spec"])


@needs_promtool
@pytest.mark.parametrize(("changes", "firing"), SCENARIOS.values(), ids=SCENARIOS.keys())
def test_an_alert_fires_when_it_should_and_no_other(
    changes: dict[str, str | None], firing: set[str], tmp_path: Path
) -> None:
    series = {name: values for name, values in (HEALTHY | changes).items() if values is not None}
    look = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{MINUTES}m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)],
    }
    test = {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [look],
    }
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    given = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(given))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


@needs_promtool
def test_every_alert_has_a_scenario_in_which_it_fires() -> None:
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    assert {rule["alert"] for group in groups for rule in group["rules"]} == set().union(
        *(f for _, f in SCENARIOS.values())
    )


def dashboard_expressions() -> list[str]:
    panels = json.loads((CHART / "dashboards" / "dlcloud.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@needs_promtool
def test_the_dashboards_expressions_are_promql(tmp_path: Path) -> None:
    recorded = [{"record": f"dashboard:{number}", "expr": text} for number, text in enumerate(dashboard_expressions())]
    for rule in recorded:
        rule["record"] = rule["record"].translate(str.maketrans("0123456789", "abcdefghij"))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", str(tmp_path / "rules.yaml"))


def test_no_placeholder_is_left_in_the_alerts() -> None:
    assert re.findall(r"\b[A-Z_]{4,}\b", json.dumps(rules())) == []


class IdleQueue:
    def queue_state(self) -> QueueState:
        return QueueState(urgent=0, resync=0, busy=0, oldest_age_s=0.0, oldest_busy_s=0.0)


def test_every_series_that_is_asked_for_is_one_the_operator_has() -> None:
    spec = TrainingJobSpec.model_validate(
        {"workload": "cnn", "data": {"uri": "builtin://digits"}, "workers": {"count": 1}}
    )
    now = datetime(2026, 1, 2, tzinfo=UTC)
    job = JobView(JobKey("a", "b"), "uid", "1", 1, now, TrainingJobStatus(), spec)
    metrics = Metrics("1", lambda: [job], now=lambda: now)
    metrics.leader = lambda: True
    metrics.watch_engine(IdleQueue())
    text, _ = asyncio.run(metrics.exposition())
    known = set(re.findall(r"^# TYPE (\S+)", text.decode(), re.MULTILINE))
    asked = " ".join([*dashboard_expressions(), (CHART / "files" / "alerts.yaml").read_text()])
    names = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bdlcloud_(?:jobs?|operator)[a-z_]*", asked)}
    assert len(names) > 20
    assert names - known == set()
