"""The NetworkPolicy of a job, and how one that is there is told from one that must be mended."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dlcloud_operator.api import LABEL_JOB
from dlcloud_operator.engine.network_policy import NetworkPolicies, parse_egress
from dlcloud_operator.engine.objects import covers, patch_for

from .memory_cluster import job_view

RULES = [{"ports": [{"port": 443}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]


def policy(egress: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    (found,) = NetworkPolicies("dlcloud-system", 8443, egress).objects(job_view())
    return dict(found)


def stored(manifest: dict[str, Any]) -> dict[str, Any]:
    """As an API server would give it back: with fields of its own, and defaults filled in."""
    found = copy.deepcopy(manifest)
    found["metadata"] |= {"uid": "p1", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}
    for rule in found["spec"].get("egress", []):
        for port in rule.get("ports", []):
            port.setdefault("protocol", "TCP")
    return found


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def test_only_a_jobs_own_workers_reach_its_workers() -> None:
    workers = {"podSelector": {"matchLabels": {LABEL_JOB: "mnist"}}}
    assert policy()["spec"] == {**workers, "policyTypes": ["Ingress"], "ingress": [{"from": [workers]}]}


def test_the_policy_belongs_to_its_job_and_goes_with_it() -> None:
    metadata = policy()["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("mnist", "default")
    assert metadata["labels"] == {"app.kubernetes.io/managed-by": "dlcloud", LABEL_JOB: "mnist"}
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("TrainingJob", "job-uid", True)
    assert "blockOwnerDeletion" not in owner


def test_given_egress_rules_come_beside_workers_dns_and_the_operator() -> None:
    spec = policy(RULES)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    own, dns, operator, *given = spec["egress"]
    assert own["to"][0]["podSelector"]["matchLabels"] == {LABEL_JOB: "mnist"}
    assert {(port["protocol"], port["port"]) for port in dns["ports"]} >= {("UDP", 53), ("TCP", 53)}
    assert operator["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "dlcloud-system"}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8443}]
    assert given == RULES


def test_no_rules_at_all_still_let_workers_reach_dns_and_the_operator() -> None:
    assert len(policy([])["spec"]["egress"]) == 3


@pytest.mark.parametrize("egress", [None, [], RULES], ids=["open", "closed", "rules"])
def test_what_an_api_server_fills_in_makes_no_difference(egress: list[dict[str, Any]] | None) -> None:
    wanted = policy(egress)
    assert covers(stored(wanted), wanted)


def test_an_empty_list_that_the_api_server_leaves_out_makes_no_difference() -> None:
    wanted = policy([{"to": [], "ports": [{"protocol": "TCP", "port": 443}]}])
    found = stored(wanted)
    del found["spec"]["egress"][-1]["to"]
    assert covers(found, wanted)


def _widen(found: dict[str, Any]) -> None:
    found["spec"]["ingress"].append({})


def _aim_elsewhere(found: dict[str, Any]) -> None:
    found["spec"]["podSelector"] = {"matchLabels": {LABEL_JOB: "other"}}


def _take_away(found: dict[str, Any]) -> None:
    found["metadata"]["ownerReferences"][0]["uid"] = "another"


def _strip(found: dict[str, Any]) -> None:
    del found["metadata"]["labels"]


@pytest.mark.parametrize("change", [_widen, _aim_elsewhere, _take_away, _strip])
def test_what_says_something_else_is_noticed_and_mended(change: Any) -> None:
    wanted = policy()
    found = stored(wanted)
    change(found)
    assert not covers(found, wanted)
    assert covers(merged(found, patch_for(found, wanted)), wanted)


@pytest.mark.parametrize(
    ("before", "after"), [(None, RULES), (RULES, None), (RULES, [])], ids=["close", "open", "stricter"]
)
def test_other_egress_rules_are_noticed_and_nothing_is_left_of_the_old(before: Any, after: Any) -> None:
    found, wanted = stored(policy(before)), policy(after)
    assert not covers(found, wanted)
    assert merged(found, patch_for(found, wanted))["spec"] == wanted["spec"]


def test_a_patch_cannot_hit_a_later_object_of_the_name() -> None:
    assert patch_for(stored(policy()), policy())["metadata"]["uid"] == "p1"


def test_egress_rules_are_read_from_json() -> None:
    assert parse_egress('[{"ports": [{"port": 443}]}]') == [{"ports": [{"port": 443}]}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not JSON"),
        ("{}", "dict given; give a list"),
        ("[1]", r"rules\[0\]: 1 given; give an object"),
        ('[{"from": []}]', "unknown key 'from'; allowed are to and ports"),
        ('[{"ports": {"port": 1}}]', r"rules\[0\]\.ports: not a list"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_egress(text)
