"""The NetworkPolicy of a job: its workers talk to each other, and nobody else talks to them.

May import core and api. Pure. Egress is left alone unless the operator was given rules: the address of an object
store outside the cluster can only be given as ports or address ranges, which nobody but the administrator knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dlcloud_operator.api import API_VERSION, LABEL_JOB
from dlcloud_operator.core.model import JobView

API = "networking.k8s.io/v1"
KIND = "NetworkPolicy"
# 5353 too: a policy sees the port of the DNS pod behind the service, and some distributions use that one.
_DNS_PORTS = [{"protocol": protocol, "port": port} for port in (53, 5353) for protocol in ("UDP", "TCP")]
_RULE_KEYS = {"to", "ports"}


class NetworkPolicies:
    """Renders one policy for each job, named like the job."""

    def __init__(
        self, operator_namespace: str, rendezvous_port: int, egress: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """`egress`: rules of a NetworkPolicy (v1) for what workers may reach beside each other, DNS and the operator;
        None: anything."""
        self._always = [
            {"ports": _DNS_PORTS},
            {
                "to": [
                    {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
                        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "dlcloud-operator"}},
                    }
                ],
                "ports": [{"protocol": "TCP", "port": rendezvous_port}],
            },
        ]
        self._egress = None if egress is None else [dict(rule) for rule in egress]

    def objects(self, job: JobView) -> Sequence[Mapping[str, Any]]:
        """The manifests of what this job owns beside its pods."""
        workers = {"podSelector": {"matchLabels": {LABEL_JOB: job.key.name}}}
        spec: dict[str, Any] = {**workers, "policyTypes": ["Ingress"], "ingress": [{"from": [workers]}]}
        if self._egress is not None:
            spec["policyTypes"] = ["Ingress", "Egress"]
            spec["egress"] = [{"to": [workers]}, *self._always, *self._egress]
        owner = {"apiVersion": API_VERSION, "kind": "TrainingJob", "name": job.key.name, "uid": job.uid}
        metadata = {
            "name": job.key.name,
            "namespace": job.key.namespace,
            "labels": {"app.kubernetes.io/managed-by": "dlcloud", LABEL_JOB: job.key.name},
            "ownerReferences": [{**owner, "controller": True}],
        }
        return [{"apiVersion": API, "kind": KIND, "metadata": metadata, "spec": spec}]


def parse_egress(text: str) -> list[dict[str, Any]]:
    """Egress rules from JSON. Raises ValueError for anything but a list of rules."""
    try:
        rules = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"egress rules: not JSON ({error}); give a list of NetworkPolicy egress rules") from None
    if not isinstance(rules, list):
        raise ValueError(f"egress rules: {type(rules).__name__} given; give a list of NetworkPolicy egress rules")
    for number, rule in enumerate(rules):
        if not isinstance(rule, dict):
            raise ValueError(f"egress rules[{number}]: {json.dumps(rule)[:80]} given; give an object with to and ports")
        if unknown := set(rule) - _RULE_KEYS:
            raise ValueError(f"egress rules[{number}]: unknown key {min(unknown)!r}; allowed are to and ports")
        for key in _RULE_KEYS & set(rule):
            if not isinstance(rule[key], list):
                raise ValueError(f"egress rules[{number}].{key}: not a list; give a list, as in a NetworkPolicy")
    return rules
