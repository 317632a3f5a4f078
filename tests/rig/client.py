"""The administrator's requests to an API server: JSON in, JSON out, no retries, so that a test sees what happened.

May import the kubernetes library (for kubeconfigs and their credentials) and urllib3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import load_kube_config

JSON = "application/json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
MANAGER = "rig"


class KubeError(Exception):
    """A refusal: `status` is HTTP's (0: not reachable), `reason` Kubernetes' word, `message` what it says."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class KubeClient:
    """Requests as the user of a kubeconfig; paths as in /api/v1/namespaces. Safe to use from several threads.

    `query` becomes the query string (`fieldManager="x"`, `dryRun="All"`). Every method raises KubeError.
    """

    def __init__(self, kubeconfig: Path, timeout_s: float = 30.0) -> None:
        configuration = Configuration()
        load_kube_config(str(kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
        configuration.connection_pool_maxsize = 16
        self.url = str(configuration.host).rstrip("/")
        self._configuration = configuration
        self._timeout_s = timeout_s
        self._client: Any = ApiClient(configuration)

    def get(self, path: str, **query: Any) -> Any:
        """One object, or a list as it comes."""
        return self.request("GET", path, query=query)

    def text(self, path: str, **query: Any) -> str:
        """What is no JSON: /readyz, /metrics, logs."""
        return self._ask("GET", path, query, None, JSON).decode()

    def find(self, path: str, **query: Any) -> Any:
        """The object, or None where there is none."""
        try:
            return self.get(path, **query)
        except KubeError as error:
            if error.status != 404:
                raise
        return None

    def items(self, path: str, **query: Any) -> list[Any]:
        """The objects of a list, all pages of it."""
        found: list[Any] = []
        token = ""
        while True:
            page = self.get(path, limit=500, **query, **({"continue": token} if token else {}))
            found += page.get("items") or []
            token = page["metadata"].get("continue") or ""
            if not token:
                return found

    def create(self, path: str, body: Any, **query: Any) -> Any:
        return self.request("POST", path, body, query=query)

    def replace(self, path: str, body: Any, **query: Any) -> Any:
        return self.request("PUT", path, body, query=query)

    def merge(self, path: str, patch: Any, **query: Any) -> Any:
        """A merge patch: `{"spec": {"suspend": True}}`; None removes a field."""
        return self.request("PATCH", path, patch, MERGE, query)

    def apply(self, path: str, body: Any, **query: Any) -> Any:
        """Server-side apply, conflicts forced."""
        return self.request("PATCH", path, body, APPLY, {"fieldManager": MANAGER, "force": "true", **query})

    def delete(self, path: str, body: Any = None, **query: Any) -> Any:
        """Delete; `body` may be DeleteOptions. What is gone already is no error."""
        try:
            return self.request("DELETE", path, body, query=query)
        except KubeError as error:
            if error.status != 404:
                raise
        return None

    def watch(self, path: str, timeout_s: int = 60, **query: Any) -> Iterator[Any]:
        """Events `{"type": ..., "object": ...}` until the server ends the watch; KubeError when it is cut."""
        query = {"watch": "true", "timeoutSeconds": timeout_s, **query}
        response = self._open("GET", path, query, None, JSON, timeout_s + 10.0)
        try:
            for line in response:
                yield json.loads(line)
        except (urllib3.exceptions.HTTPError, OSError, json.JSONDecodeError) as error:
            raise KubeError(0, "NotReachable", str(error)) from error
        finally:
            response.close()

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = JSON, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Any request; the answer decoded."""
        return json.loads(self._ask(method, path, query or {}, body, content_type) or b"null")

    def close(self) -> None:
        """Give back the connections."""
        self._client.close()

    # --- inside ---

    def _ask(self, method: str, path: str, query: Mapping[str, Any], body: Any, content_type: str) -> bytes:
        response = self._open(method, path, query, body, content_type, self._timeout_s)
        try:
            return bytes(response.read())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeError(0, "NotReachable", str(error)) from error
        finally:
            response.release_conn()

    def _open(
        self, method: str, path: str, query: Mapping[str, Any], body: Any, content_type: str, timeout_s: float
    ) -> Any:
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": "rig"}
        settings: Any = self._configuration.auth_settings()
        headers |= {auth["key"]: auth["value"] for auth in settings.values()}
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                self.url + path + (f"?{urlencode(query)}" if query else ""),
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=timeout_s,
                retries=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeError(0, "NotReachable", str(error)) from error
        if response.status >= 300:
            raise refusal(response)
        return response


def refusal(response: Any) -> KubeError:
    """What a refused request's answer says."""
    content = response.read().decode(errors="replace")
    response.release_conn()
    try:
        status = json.loads(content)
        return KubeError(response.status, status.get("reason", ""), status.get("message", content))
    except (ValueError, AttributeError):
        return KubeError(response.status, "", content)
