"""A cluster: kubeconfig, API server, definition, operator, rights, nodes, namespace.

May import this package and the commands' own way to an API server. Reads only, and asks with dry runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from dlcloud_operator.api import GROUP, VERSION
from dlcloud_operator.api.crd import build_crd

from ..jobs.cluster import ClusterJobs
from ..jobs.errors import JobsError
from ..jobs.kube import KubeApi
from ..jobs.kube_errors import CRD_COMMAND, CRD_NAME, PLURAL, KubeError
from .crd import compare
from .findings import Finding, Skipped, fail, ok, skip, warn
from .quantities import quantity

MIN_KUBERNETES = (1, 29)  # the definition's rules use quantity() in CEL
OPERATOR_LABEL = "app.kubernetes.io/name=dlcloud-operator"
_NAMED = 5  # so many fields are named in a message
# resource, group, subresource, verbs; without the optional ones something is missing, but jobs run
_RIGHTS = (
    (PLURAL, GROUP, "", ("create", "get", "list", "watch", "patch", "delete")),
    ("pods", "", "", ("get", "list")),
)
_OPTIONAL = (
    ("pods", "", "log", ("get",), "`dlcloud logs` reads from the store alone"),
    ("events", "", "", ("list",), "`dlcloud describe` shows no events"),
    ("secrets", "", "", ("get",), "the store's keys must be in your environment for `dlcloud checkpoints` and `plot`"),
)


class ClusterChecks:
    """The checks; the first ones find what the later ones need."""

    def __init__(self, source: ClusterJobs) -> None:
        self.source = source
        self._reached = False

    def kubeconfig(self) -> Finding:
        """Whether there is one, with a context that can be used."""
        connection = self.source.connection
        text = f"context {connection.context}, user {connection.user}, namespace {connection.namespace}"
        return ok(f"{text}, from {connection.source}")

    def server(self) -> Finding:
        """Whether the API server answers, accepts us, and is new enough."""
        found = self._connected().get("/version")
        self._reached = True
        version = str(found.get("gitVersion") or "of unknown version")
        text = f"{self.source.connection.configuration.host} is Kubernetes {version}"
        numbers = tuple(int("".join(c for c in str(found.get(key)) if c.isdigit()) or 0) for key in ("major", "minor"))
        if numbers < MIN_KUBERNETES:
            wanted = ".".join(map(str, MIN_KUBERNETES))
            return fail(text, f"the definition of TrainingJob needs {wanted} or newer: upgrade the cluster")
        return ok(text)

    @cached_property
    def api(self) -> KubeApi:
        """The API server, for checks that need it. Raises Skipped when it was not reached."""
        if not self._reached:
            raise Skipped("needs the API server")
        return self._connected()

    def crd(self) -> Finding:
        """Whether the definition is installed, and the same as this program's."""
        install = f"an administrator installs it: {CRD_COMMAND}"
        try:
            found = self.api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}")
        except KubeError as error:
            if error.status == 404:
                return fail(f"{CRD_NAME} is not installed", install)
            if error.status != 403:
                raise
            return self._crd_by_use(install)
        return judge_crd(found, build_crd())

    def operator(self) -> Finding:
        """Whether somebody is there who runs the jobs."""
        try:
            found = list(self.api.items("/apis/apps/v1/deployments", labelSelector=OPERATOR_LABEL))
        except KubeError as error:
            if error.status != 403:
                raise
            return skip("you may not list Deployments of all namespaces, so it cannot be seen")
        if not found:
            text = f"no operator found (no Deployment with the label {OPERATOR_LABEL})"
            return warn(text, "jobs stay Pending until one runs: install the operator")
        names = [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in found]
        up = [n for n, item in zip(names, found, strict=True) if (item.get("status") or {}).get("availableReplicas")]
        if not up:
            where = f"kubectl -n {names[0].replace('/', ' describe deployment ')}"
            return fail(f"{', '.join(names)} has no available replica", f"see why: {where}")
        return ok(f"{', '.join(up)} is available")

    def rights(self) -> Finding:
        """What the user may do in the namespace."""
        wanted = [(r, g, s, v) for r, g, s, verbs in _RIGHTS for v in verbs]
        wished = [(r, g, s, v) for r, g, s, verbs, _ in _OPTIONAL for v in verbs]
        api = self.api
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda asked: self._may(api, *asked), [*wanted, *wished]))
        may = dict(zip([*wanted, *wished], answers, strict=True))
        namespace = self.source.connection.namespace
        denied = [f"{v} {_named(r, s)}" for r, _, s, v in wanted if not may[(r, _, s, v)]]
        if denied:
            text = f"user {self.source.connection.user} may not {', '.join(denied)} in namespace {namespace}"
            return fail(text, "ask an administrator for a Role with these verbs")
        lost = [f"without get {_named(r, s)} {why}" if verbs == ("get",) else f"without {verbs[0]} {_named(r, s)} {why}"
                for r, g, s, verbs, why in _OPTIONAL if not all(may[(r, g, s, v)] for v in verbs)]  # fmt: skip
        if lost:
            return warn("; ".join(lost), "ask for these rights if you want that")
        return ok(f"create, read, change and delete {PLURAL}, read pods and logs in namespace {namespace}")

    @cached_property
    def node_list(self) -> list[Mapping[str, Any]]:
        """All nodes. Raises Skipped without the right to list them."""
        try:
            return list(self.api.items("/api/v1/nodes"))
        except KubeError as error:
            if error.status == 403:
                raise Skipped("you may not list nodes, so their size is unknown") from None
            raise

    def nodes(self) -> Finding:
        """Nodes that take pods, and what they have."""
        ready = [node for node in self.node_list if is_usable(node)]
        if not ready:
            text = f"none of {len(self.node_list)} nodes is ready and schedulable"
            return fail(text, "look at them: kubectl get nodes")
        total = {
            name: sum(quantity((node["status"].get("allocatable") or {}).get(name, "0")) for node in ready)
            for name in ("cpu", "memory", "nvidia.com/gpu")
        }
        gpus = f"{total['nvidia.com/gpu']:.0f} nvidia.com/gpu" if total["nvidia.com/gpu"] else "no nvidia.com/gpu"
        size = f"{total['cpu']:g} CPU, {total['memory'] / 2**30:.0f} GiB, {gpus}"
        return ok(f"{len(ready)} of {len(self.node_list)} ready, {size}")

    def namespace(self) -> Finding:
        """Whether it is there and not going."""
        name = self.source.connection.namespace
        try:
            found = self.api.get(f"/api/v1/namespaces/{name}")
        except KubeError as error:
            if error.status == 404:
                return fail(f"{name} does not exist", f"make it: kubectl create namespace {name}; or give -n NAME")
            if error.status == 403:
                return skip(f"you may not read namespace {name} itself")
            raise
        if (found.get("status") or {}).get("phase") == "Terminating":
            return fail(f"{name} is being deleted", "give another one with -n NAME")
        level = (found["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce")
        return ok(f"{name}, pod security {level or 'as the cluster has it by default'}")

    # --- inside ---

    def _connected(self) -> KubeApi:
        try:
            return self.source.api
        except JobsError:
            raise Skipped("needs a kubeconfig") from None

    def _crd_by_use(self, install: str) -> Finding:
        """Without the right to read definitions: whether the API server serves it at all."""
        try:
            served = self.api.get(f"/apis/{GROUP}/{VERSION}").get("resources") or []
        except KubeError as error:
            if error.status == 404:
                return fail(f"{CRD_NAME} is not installed", install)
            raise
        if not any(resource.get("name") == PLURAL for resource in served):
            return fail(f"{CRD_NAME} is not installed", install)
        return ok(f"{CRD_NAME} is installed (you may not read it, so whether it is this program's is unknown)")

    def _may(self, api: KubeApi, resource: str, group: str, subresource: str, verb: str) -> bool:
        attributes = {
            "namespace": self.source.connection.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = api.send("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool((answer.get("status") or {}).get("allowed"))


def judge_crd(installed: Mapping[str, Any], own: Mapping[str, Any]) -> Finding:
    """Whether the cluster's definition is this program's, and which is newer if not."""
    conditions = (installed.get("status") or {}).get("conditions") or []
    if conditions and not any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions):
        why = next((str(c.get("message")) for c in conditions if c.get("status") == "False"), "no reason given")
        return fail(f"{CRD_NAME} is installed but not in force: {why}", "install it again")
    difference = compare(installed, own)
    update = f"an administrator updates it: {CRD_COMMAND}"
    if difference.none:
        return ok(f"{CRD_NAME}, the same as this program's")
    if difference.missing and not difference.surplus:
        return warn(f"{CRD_NAME} is older than this program: it lacks {_few(difference.missing)}", update)
    if difference.surplus and not difference.missing:
        return warn(
            f"{CRD_NAME} is newer than this program: it also has {_few(difference.surplus)}", "update dlcloud here"
        )
    if not difference.missing:
        return warn(f"{CRD_NAME} has other rules than this program for {_few(difference.changed)}", update)
    text = f"{CRD_NAME} is another one: it lacks {_few(difference.missing)} and has {_few(difference.surplus)}"
    return warn(text, "use the dlcloud of the same version as the operator")


def is_usable(node: Mapping[str, Any]) -> bool:
    """Ready, and not cordoned."""
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    return ready and not (node.get("spec") or {}).get("unschedulable")


def _few(paths: tuple[str, ...]) -> str:
    shown = ", ".join(path or "the whole object" for path in paths[:_NAMED])
    return shown + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")


def _named(resource: str, subresource: str) -> str:
    return f"{resource}/{subresource}" if subresource else resource
