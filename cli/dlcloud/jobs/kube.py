"""Requests to one API server: JSON in, JSON out, nothing of the library's generated classes (they cost a second).

May import the kubernetes library and urllib3, when the first request is made. Every failure is a KubeError.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from .kube_errors import KubeError, Server, refused, unreachable
from .kubeconfig import Connection

CONNECT_S, READ_S = 5.0, 10.0
_PAGE = 500
_AGAIN_S = (0.3, 1.0)  # pauses before a read is tried again
_AGAIN_STATUS = {429, 500, 502, 503, 504}
MERGE_PATCH = "application/merge-patch+json"


class KubeApi:
    """One API server. Safe to use from several threads."""

    def __init__(self, connection: Connection, connections: int = 8) -> None:
        from kubernetes.client import ApiClient

        configuration = connection.configuration
        configuration.connection_pool_maxsize = connections
        self.server = Server(configuration.host, connection.context, connection.user)
        self._configuration = configuration
        self._client: Any = ApiClient(configuration)

    def get(self, path: str, **query: Any) -> Any:
        """GET, tried again when the server is busy. Raises KubeError."""
        for pause_s in _AGAIN_S:
            try:
                return self._ask("GET", path, query)
            except KubeError as error:
                if error.status not in _AGAIN_STATUS:
                    raise
            time.sleep(pause_s)
        return self._ask("GET", path, query)

    def items(self, path: str, **query: Any) -> Iterator[Mapping[str, Any]]:
        """All objects of a list, read in pages. Raises KubeError."""
        token = ""
        while True:
            page = self.get(path, limit=_PAGE, **query, **({"continue": token} if token else {}))
            yield from page.get("items") or []
            token = str((page.get("metadata") or {}).get("continue") or "")
            if not token:
                return

    def send(self, method: str, path: str, body: Any, content_type: str = "application/json", **query: Any) -> Any:
        """POST, PATCH or DELETE, once. Raises KubeError."""
        return self._ask(method, path, query, body, content_type)

    def open(self, path: str, **query: Any) -> Any:
        """The answer to a GET as a stream (urllib3's response; the caller closes it). Raises KubeError."""
        response = self._request("GET", path, query, None, "")
        if response.status >= 300:
            raise refused(self.server, response.status, self._read(response))
        return response

    def close(self) -> None:
        """Give back the connections."""
        self._client.close()

    # --- inside ---

    def _ask(self, method: str, path: str, query: Mapping[str, Any], body: Any = None, content_type: str = "") -> Any:
        response = self._request(method, path, query, body, content_type)
        content = self._read(response)
        if response.status >= 300:
            raise refused(self.server, response.status, content)
        try:
            return json.loads(content)
        except ValueError:
            raise KubeError(f"{self.server} answered {path} with something that is no JSON; is it one?") from None

    def _request(self, method: str, path: str, query: Mapping[str, Any], body: Any, content_type: str) -> Any:
        import urllib3

        url = self.server.address + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json, */*", "User-Agent": "dlcloud"}
        # Asked for anew with every request: the library renews tokens that expire.
        headers |= {auth["key"]: auth["value"] for auth in self._configuration.auth_settings().values()}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            return self._client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, UnicodeError) as error:
            raise unreachable(self.server, error) from None

    def _read(self, response: Any) -> bytes:
        import urllib3

        try:
            return bytes(response.read())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(self.server, error) from None
        finally:
            response.release_conn()
