"""What the rendezvous server answers but for the protocol's own 200 and 204, and how it reads a request line.

May import aiohttp and core. No state, no decision about jobs.
"""

from __future__ import annotations

import json
import math
from typing import Any

from aiohttp import web

from dlcloud_operator.core.model import JobKey

METHODS = {"assignment": "GET", "report": "POST"}


class Refusal(Exception):
    """An answer other than 200 and 204: status and one sentence."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class NoVoice(Refusal):
    """Another replica leads: its answers count. The client is to connect again, and will be led to that one."""

    def __init__(self) -> None:
        sentence = "this replica of the operator does not lead; connect again"
        super().__init__(503, sentence, Retry_After="1", Connection="close")


def route(request: web.BaseRequest) -> tuple[JobKey, str, str]:
    """Job, pod and verb of `/v1/namespaces/{namespace}/jobs/{job}/pods/{pod}/{verb}`. Raises Refusal."""
    match request.path.split("/"):
        case ["", "v1", "namespaces", namespace, "jobs", job, "pods", pod, ("assignment" | "report") as verb]:
            if request.method != METHODS[verb]:
                raise Refusal(405, f"{verb} is asked with {METHODS[verb]}", Allow=METHODS[verb])
            return JobKey(namespace, job), pod, verb
        case _:
            raise Refusal(404, "there is nothing here")


def number(request: web.BaseRequest, name: str, default: float) -> float:
    """A number of 0 or more in the query. Raises Refusal."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 2**53:  # false for NaN
        raise Refusal(400, f"{name}: {text[:40]!r} is not a number of 0 or more")
    return number


def json_answer(status: int, content: Any, headers: dict[str, str] | None = None) -> web.Response:
    """An answer with a JSON body; the header `Connection: close` is honoured."""
    response = web.Response(
        status=status,
        body=json.dumps(content, allow_nan=False).encode(),
        headers=headers,
        content_type="application/json",
    )
    if headers and headers.get("Connection") == "close":
        response.force_close()
    return response
