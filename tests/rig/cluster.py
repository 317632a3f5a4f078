"""A cluster as tests use it: its administrator's client and kubectl, namespaces, users and tokens.

May import this package. Starts and stops nothing: it is the same for the rig's control plane and for any other cluster.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from . import keys
from .client import KubeClient, KubeError
from .processes import RigError, until

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
DEFINITION = Path(__file__).parents[2] / "charts" / "templates" / "crd-trainingjobs.yaml"
KUBECTL_S = 60


class KubectlError(Exception):
    """kubectl ended with another code than 0; the message is what it said."""


class Cluster:
    """One cluster, by a kubeconfig of its administrator. `folder` takes the kubeconfigs made here."""

    def __init__(self, kubeconfig: Path, folder: Path, kubectl: Path, pki: Path | None = None) -> None:
        """`pki`: the folder of its keys, where they are ours."""
        self.kubeconfig, self.folder, self.pki = kubeconfig, folder, pki
        self._kubectl = kubectl

    # --- requests ---

    @cached_property
    def api(self) -> KubeClient:
        """Requests as the administrator."""
        return KubeClient(self.kubeconfig)

    @property
    def url(self) -> str:
        """Of the API server."""
        return self.api.url

    @cached_property
    def ca(self) -> bytes:
        """The certificates, as PEM, that the API server's is signed with."""
        path = self.api._configuration.ssl_ca_cert  # the library has decoded what the kubeconfig embeds
        if not path:
            raise RigError(f"{self.kubeconfig} names no certificate authority")
        return Path(path).read_bytes()

    def kubectl(self, *arguments: str, given: Any = None, kubeconfig: Path | None = None, fails: bool = False) -> str:
        """kubectl's output; with `fails` what it says about the refusal. `given` goes to its input: text, or as JSON.

        A process of 0.1 s: for what a user types. Raises KubectlError where it ends otherwise than expected.
        """
        done = subprocess.run(
            [self._kubectl, "--kubeconfig", kubeconfig or self.kubeconfig, "--request-timeout=30s", *arguments],
            input=given if given is None or isinstance(given, str) else json.dumps(given),
            capture_output=True,
            text=True,
            timeout=KUBECTL_S,
            check=False,
        )
        if (done.returncode != 0) != fails:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stderr if fails else done.stdout

    def apply_definition(self) -> None:
        """Apply the TrainingJob's definition and return when the API server serves it."""
        body = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))
        name, group = body["metadata"]["name"], body["spec"]["group"]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        self.api.apply(path, body)
        jobs = f"/apis/{group}/{body['spec']['versions'][0]['name']}/{body['spec']['names']['plural']}"

        def served() -> bool:
            conditions = self.api.get(path)["status"].get("conditions") or ()
            established = any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
            return established and self.api.find(jobs, limit=1) is not None

        until(f"{name} is served", served, 30)

    # --- namespaces ---

    def make_namespace(self, prefix: str = "test", labels: Mapping[str, str] = RESTRICTED) -> str:
        """A new namespace with a default service account; its name."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels)}})
        # Its controller makes it a moment later: pods are refused until then.
        with contextlib.suppress(KubeError):
            self.api.create(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
        return name

    def delete_namespace(self, name: str) -> None:
        """Ask for its deletion, which goes on in the background."""
        self.api.delete(f"/api/v1/namespaces/{name}", propagationPolicy="Background")

    def release_namespace(self, name: str) -> None:
        """Remove a namespace that is no longer used; in a control plane that is thrown away, only its jobs and pods.

        The controller asks for every kind of object there is: 0.25 s of CPU for each namespace.
        """
        if self.pki is None:
            return self.delete_namespace(name)
        for path in (f"/apis/dlcloud.dev/v1/namespaces/{name}/trainingjobs", f"/api/v1/namespaces/{name}/pods"):
            self.api.delete(path, gracePeriodSeconds=0, propagationPolicy="Background")
        return None

    @contextlib.contextmanager
    def namespace(self, prefix: str = "test", labels: Mapping[str, str] = RESTRICTED) -> Iterator[str]:
        """A namespace for the length of a block."""
        name = self.make_namespace(prefix, labels)
        try:
            yield name
        finally:
            self.release_namespace(name)

    # --- users ---

    def make_service_account(self, namespace: str, name: str, rules: Sequence[Mapping[str, Any]] = ()) -> None:
        """A service account with a role of these rules in its namespace: `{"apiGroups", "resources", "verbs"}`."""
        self.api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        if not rules:
            return
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        self.api.create(f"{rbac}/roles", {"metadata": {"name": name}, "rules": list(rules)})
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        self.api.create(f"{rbac}/rolebindings", binding)

    def token(
        self,
        namespace: str,
        name: str,
        *,
        audiences: Sequence[str] = (),
        expires_s: int = 3600,
        pod: Mapping[str, Any] | None = None,
    ) -> str:
        """A token of a service account by TokenRequest (at least 600 s); `pod`: the pod object it is bound to."""
        spec: dict[str, Any] = {"expirationSeconds": expires_s, "audiences": list(audiences)}
        if pod is not None:
            metadata = pod["metadata"]
            bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
            spec["boundObjectRef"] = bound
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self.api.create(path, {"spec": spec})["status"]["token"])

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token of the service account, which must exist."""
        return self.kubeconfig_with({"token": self.token(namespace, name)}, namespace)

    def kubeconfig_for_user(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate, of a user without rights. Raises RigError on a foreign cluster."""
        if self.pki is None:
            raise RigError(f"the keys of {self.url} are not ours: use a service account")
        return self.kubeconfig_with(keys.certificate_user(self.pki, user, groups))

    def kubeconfig_with(self, user: Mapping[str, Any], namespace: str = "default") -> Path:
        """A kubeconfig with these credentials, as kubectl spells them: `{"token": ...}`."""
        path = self.folder / f"kubeconfig-{secrets.token_hex(4)}"
        return keys.write_kubeconfig(path, self.url, self.ca, dict(user), namespace)
