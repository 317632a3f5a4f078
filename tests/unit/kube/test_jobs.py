"""TrainingJobs as the API server gives them: what reaches the core, and what is wrong with a job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcloud_operator.api import ObjectStore, Phase, TrainingJobStatus
from dlcloud_operator.core import plan
from dlcloud_operator.core.model import JobKey, JobView, Reports, WriteStatus
from dlcloud_operator.engine.render import PodRenderer, RenderSettings
from dlcloud_operator.kube import jobs as module
from dlcloud_operator.kube.jobs import JobReader

from .objects import CREATED, Json, job
from .test_pods import ANYTHING

OWN = "dlcloud-system"
S3 = {"checkpoint": {"uri": "s3://checkpoints/"}}
DEFAULTS = ObjectStore(endpoint="http://dlcloud-s3:8333", region="eu-1", credentials_secret="dlcloud-s3")


def read(raw: Json, **options: Any) -> JobView:
    return JobReader(OWN, **options).read(raw)


def problems(raw: Json, **options: Any) -> dict[str, str]:
    return {problem.path: problem.message for problem in read(raw, **options).problems}


def store(spec: Json, defaults: ObjectStore | None = DEFAULTS) -> ObjectStore:
    view = read(job(spec), object_store_defaults=defaults)
    assert view.spec is not None
    return view.spec.object_store


# --- reading ---


def test_a_job_is_read() -> None:
    view = read(job(status={"phase": "Running", "restarts": 2}))
    assert (view.key, view.uid, view.resource_version) == (JobKey("default", "digits"), "job-uid", "12")
    assert (view.generation, view.created_at, view.deleting, view.problems) == (1, CREATED, False, ())
    assert (view.status.phase, view.status.restarts) == (Phase.RUNNING, 2)
    assert view.spec is not None and view.spec.workers.count == 2


def test_a_job_being_deleted_says_so() -> None:
    assert read(job(metadata={"deletionTimestamp": "2026-01-02T03:05:00Z"})).deleting


def test_a_job_nobody_has_seen_has_an_empty_status() -> None:
    assert read(job()).status == TrainingJobStatus()


def test_a_status_of_a_newer_operator_is_read_as_far_as_it_is_understood() -> None:
    assert read(job(status={"phase": "Hibernating", "restarts": 2, "new": {}})).status.restarts == 2


def test_a_field_of_a_newer_crd_does_not_fail_the_job() -> None:
    assert problems(job({"elastic": {"min": 1}})) == {}


def test_what_is_wrong_names_the_field() -> None:
    found = problems(job({"parameters": {"epoch": 3}, "workers": {"count": 0}}))
    assert set(found) == {"spec.parameters.epoch", "spec.workers.count"}
    assert "did you mean epochs" in found["spec.parameters.epoch"]


def test_a_job_with_problems_fails_as_an_invalid_spec() -> None:
    now = CREATED + timedelta(seconds=1)
    actions = plan(read(job({"parameters": {"epoch": 3}})), (), Reports(now), now)
    (write,) = [action for action in actions if isinstance(action, WriteStatus)]
    assert write.status.phase is Phase.FAILED
    assert write.status.message.startswith("spec.parameters.epoch: is not a parameter of cnn")


# --- places ---


def test_a_job_in_the_operators_own_namespace_is_refused() -> None:
    found = problems(job(metadata={"namespace": OWN}))
    assert list(found) == ["metadata.namespace"]
    assert "create the job in another namespace" in found["metadata.namespace"]


@pytest.mark.parametrize("name", ["a" * 51, "a.b"])
def test_a_name_that_no_pod_name_can_be_made_of_is_refused(name: str) -> None:
    assert set(problems(job(metadata={"name": name}))) == {"metadata.name"}


# --- podTemplate ---


def test_a_privileged_pod_is_refused_unless_the_operator_allows_it() -> None:
    raw = job({"podTemplate": {"spec": {"hostNetwork": True}}})
    assert set(problems(raw)) == {"spec.podTemplate.spec.hostNetwork"}
    assert problems(raw, allow_privileged=True) == {}


def test_a_template_that_cannot_be_merged_is_a_problem_before_any_pod_exists() -> None:
    renderer = PodRenderer(RenderSettings("https://rendezvous:8443"))
    raw = job({"podTemplate": {"spec": {"containers": [{"name": "trainer", "env": "A=1"}]}}})
    found = problems(raw, renderer=renderer)
    assert set(found) == {"spec.podTemplate.spec.containers[0].env"}


def test_a_template_that_can_be_merged_is_none() -> None:
    renderer = PodRenderer(RenderSettings("https://rendezvous:8443"))
    raw = job({"podTemplate": {"spec": {"containers": [{"name": "trainer", "env": [{"name": "A", "value": "1"}]}]}}})
    assert problems(raw, renderer=renderer) == {}


# --- object store ---


def test_a_job_without_an_endpoint_uses_the_operators_store() -> None:
    assert store(S3) == DEFAULTS


def test_a_job_with_an_endpoint_of_its_own_never_gets_the_operators_credentials() -> None:
    found = store({**S3, "objectStore": {"endpoint": "https://foreign.example"}})
    assert (found.endpoint, found.credentials_secret, found.region) == ("https://foreign.example", "", "us-east-1")


def test_a_jobs_own_credentials_and_region_stay() -> None:
    found = store({**S3, "objectStore": {"credentialsSecret": "mine", "region": "ap-2"}})
    assert (found.endpoint, found.credentials_secret, found.region) == (DEFAULTS.endpoint, "mine", "ap-2")


def test_the_region_the_api_server_fills_in_counts_as_not_given() -> None:
    assert store({**S3, "objectStore": {"region": "us-east-1"}}).region == "eu-1"


def test_a_job_that_needs_no_server_needs_no_secret() -> None:
    assert store({"checkpoint": {"uri": "file:///data"}}) == ObjectStore()


def test_data_on_a_server_needs_the_store_as_well() -> None:
    assert store({"data": {"uri": "s3://datasets/mnist"}}) == DEFAULTS


def test_an_operator_without_a_store_leaves_the_job_as_it_is() -> None:
    assert store(S3, None) == ObjectStore()


def test_an_operator_with_an_empty_store_gives_nothing_and_keeps_nothing() -> None:
    assert read(job(S3), object_store_defaults=ObjectStore()).given_store is None


def test_a_rule_the_operators_store_breaks_is_a_problem() -> None:
    raw = job({**S3, "objectStore": {"encryption": {"type": "SSE-C"}, "credentialsSecret": "s3"}})
    assert set(problems(raw, object_store_defaults=DEFAULTS)) == {"spec.objectStore.endpoint"}


def test_the_store_a_job_is_given_is_kept_in_its_status() -> None:
    now = CREATED + timedelta(seconds=1)
    view = read(job(S3), object_store_defaults=DEFAULTS)
    (write,) = [action for action in plan(view, (), Reports(now), now) if isinstance(action, WriteStatus)]
    kept = write.status.object_store
    assert kept is not None
    assert (kept.endpoint, kept.region, kept.credentials_secret) == ("http://dlcloud-s3:8333", "eu-1", "dlcloud-s3")


def test_a_job_with_a_store_of_its_own_has_none_in_its_status() -> None:
    raw = job({**S3, "objectStore": {"endpoint": "https://foreign.example"}})
    assert read(raw, object_store_defaults=DEFAULTS).given_store is None


def test_an_operator_given_another_store_leaves_running_jobs_where_they_are() -> None:
    status = {"phase": "Running", "objectStore": {"endpoint": "http://old:1", "credentialsSecret": "old"}}
    view = read(job(S3, status=status), object_store_defaults=DEFAULTS)
    assert view.spec is not None
    assert (view.spec.object_store.endpoint, view.spec.object_store.credentials_secret) == ("http://old:1", "old")


def test_an_operator_given_a_store_leaves_running_jobs_without_one_where_they_are() -> None:
    view = read(job(S3, status={"phase": "Running"}), object_store_defaults=DEFAULTS)
    assert view.spec is not None and view.spec.object_store == ObjectStore()


# --- the cache ---


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The specs that were parsed."""
    found: list[Any] = []
    parse = module.parse_spec

    def counted(spec: Any, **options: bool) -> Any:
        found.append(spec)
        return parse(spec, **options)

    monkeypatch.setattr(module, "parse_spec", counted)
    return found


def test_a_status_write_does_not_parse_the_spec_again(parses: list[Any]) -> None:
    reader = JobReader(OWN)
    first = reader.read(job())
    second = reader.read(job(metadata={"resourceVersion": "13"}, status={"phase": "Running"}))
    assert len(parses) == 1
    assert second.spec is first.spec
    assert (second.resource_version, second.status.phase) == ("13", Phase.RUNNING)


def test_a_changed_spec_is_parsed_again(parses: list[Any]) -> None:
    reader = JobReader(OWN)
    reader.read(job())
    view = reader.read(job({"suspend": True}, metadata={"generation": 2}))
    assert view.spec is not None and view.spec.suspend
    assert len(parses) == 2


def test_a_job_of_the_same_name_created_again_is_parsed_again(parses: list[Any]) -> None:
    reader = JobReader(OWN)
    reader.read(job())
    reader.read(job(metadata={"uid": "another"}))
    assert len(parses) == 2


def test_problems_are_remembered_as_well(parses: list[Any]) -> None:
    reader = JobReader(OWN)
    raw = job({"parameters": {"epoch": 3}})
    assert reader.read(raw).problems == reader.read(raw).problems != ()
    assert len(parses) == 1


def test_the_jobs_read_longest_ago_are_forgotten_first(parses: list[Any]) -> None:
    reader = JobReader(OWN, cached_specs=2)
    for uid in ("a", "b", "a", "c", "a"):
        reader.read(job(metadata={"uid": uid}))
    assert len(parses) == 3
    reader.read(job(metadata={"uid": "b"}))
    assert len(parses) == 4


def test_a_job_that_is_gone_is_forgotten(parses: list[Any]) -> None:
    reader = JobReader(OWN)
    reader.read(job())
    reader.forget("job-uid")
    reader.read(job())
    assert len(parses) == 2


# --- anything at all ---


@given(ANYTHING)
@settings(max_examples=200)
def test_nothing_whatever_makes_it_raise(raw: Any) -> None:
    read(raw)


@given(ANYTHING, st.sampled_from(["metadata", "spec", "status"]))
@settings(max_examples=200)
def test_a_job_with_anything_as_a_part_does_not_make_it_raise(anything: Any, part: str) -> None:
    read({**job(status={}), part: anything})


@given(st.dictionaries(st.sampled_from([*TrainingJobStatus.model_fields, "conditions", "recovery", "round"]), ANYTHING))
@settings(max_examples=200)
def test_a_status_of_anything_does_not_make_it_raise(status: Any) -> None:
    read(job(status=status))


def test_an_error_of_the_parser_is_a_problem_of_this_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RecursionError

    monkeypatch.setattr(module, "parse_spec", broken)
    assert problems(job()) == {"spec": "cannot be read: RecursionError; simplify it"}


def test_a_time_that_is_none_is_the_beginning_of_time() -> None:
    assert read(job(metadata={"creationTimestamp": "yesterday"})).created_at == datetime(1970, 1, 1, tzinfo=UTC)
