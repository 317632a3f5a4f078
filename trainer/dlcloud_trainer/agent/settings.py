"""The pod's environment as values.

May import the standard library only. Every mistake here is one sentence that names the variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

FORK_LIMIT_S = 20.0


class SettingsError(Exception):
    """A variable of the pod's environment is missing or unusable."""


class Settings(NamedTuple):
    """Who this pod is, and where its operator listens."""

    url: str
    token_file: str
    ca: str  # PEM text, empty for plain HTTP or the system's authorities
    namespace: str
    job: str
    job_uid: str
    worker: int
    pod: str
    pod_uid: str
    address: str
    workload: str  # empty for a script
    processes: int
    drain_s: float
    termination_log: str  # empty: none is written
    fork_limit_s: float

    @property
    def path(self) -> str:
        """Base path of this pod on the rendezvous server, below the URL's own path."""
        return f"/v1/namespaces/{self.namespace}/jobs/{self.job}/pods/{self.pod}"


def read_settings(env: Mapping[str, str]) -> Settings:
    """The settings in an environment. Raises SettingsError."""

    def text(name: str) -> str:
        value = env.get(name, "")
        if not value:
            raise SettingsError(f"the environment variable {name} is not set; the operator sets it in each of its pods")
        return value

    def number(name: str, default: str, least: float) -> float:
        value = env.get(name) or default
        try:
            parsed = float(value)
        except ValueError:
            parsed = float("nan")
        if not least <= parsed < 1e9:
            raise SettingsError(f"{name}: {value!r} is not a number of at least {least:g}")
        return parsed

    url = text("DLCLOUD_RENDEZVOUS_URL").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"DLCLOUD_RENDEZVOUS_URL: {url!r} is not a URL; it begins with https:// or http://")
    settings = Settings(
        url=url,
        token_file=text("DLCLOUD_TOKEN_FILE"),
        ca=env.get("DLCLOUD_CA", ""),
        namespace=text("DLCLOUD_NAMESPACE"),
        job=text("DLCLOUD_JOB"),
        job_uid=text("DLCLOUD_JOB_UID"),
        worker=int(number("DLCLOUD_INDEX", text("DLCLOUD_INDEX"), 0)),
        pod=text("DLCLOUD_POD"),
        pod_uid=text("DLCLOUD_POD_UID"),
        address=text("DLCLOUD_POD_IP"),
        workload=env.get("DLCLOUD_WORKLOAD", ""),
        processes=int(number("DLCLOUD_PROCESSES", "1", 1)),
        drain_s=number("DLCLOUD_DRAIN_S", "30", 0),
        termination_log=env.get("DLCLOUD_TERMINATION_LOG", ""),
        fork_limit_s=number("DLCLOUD_FORK_LIMIT_S", str(FORK_LIMIT_S), 0.01),
    )
    read_token(settings.token_file)
    return settings


def read_token(path: str) -> str:
    """The token, read again each time because it rotates. Raises SettingsError."""
    try:
        token = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"DLCLOUD_TOKEN_FILE: cannot read {path}: {reason}") from None
    if not token or any(ord(char) < 33 or ord(char) > 126 for char in token):
        raise SettingsError(f"DLCLOUD_TOKEN_FILE: {path} holds no token")
    return token
