"""Asks from inside the cluster whether the release works: the operator's health, its rendezvous, the bundled store.

May import sigv4.py (the trainer's, beside this file) and the standard library. It prints no credential.
"""

from __future__ import annotations

import os
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from sigv4 import Credentials, sign


class Wrong(Exception):
    """What was found instead of what should be."""


def answer(
    url: str, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] | None = None, ca_file: str = ""
) -> int:
    """The status of the answer. Raises OSError when there is none."""
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    request = urllib.request.Request(url, method=method, data=body or None, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def expect(found: int, wanted: tuple[int, ...], what: str) -> None:
    """Raise Wrong unless the status is one of those wanted."""
    if found not in wanted:
        raise Wrong(f"{what}: answered {found}, expected {' or '.join(map(str, wanted))}")


def check_health() -> None:
    """The operator is alive and ready."""
    for path in ("/healthz", "/readyz"):
        url = os.environ["HEALTH_URL"] + path
        expect(answer(url), (200,), url)


def check_rendezvous() -> None:
    """A leader answers over TLS with the CA that workers get, and takes nobody without a token."""
    url = f"{os.environ['RENDEZVOUS_URL']}/v1/namespaces/default/jobs/none/pods/none/assignment?after=0&wait=0"
    expect(answer(url, ca_file=os.environ["CA_FILE"]), (401,), url)


def check_store() -> None:
    """The jobs' keys write, read and delete, and a conditional write is conditional."""
    endpoint = os.environ["S3_ENDPOINT"]
    credentials = Credentials(os.environ["S3_ACCESS_KEY"], os.environ["S3_SECRET_KEY"])
    path = f"/{os.environ['BUCKETS'].split()[0]}/dlcloud-test/{secrets.token_hex(8)}"

    def call(method: str, body: bytes = b"", **headers: str) -> int:
        given = {"host": urlsplit(endpoint).netloc} | {name.replace("_", "-"): text for name, text in headers.items()}
        signed = sign(method, path, given, body, credentials, "us-east-1", time.time())
        return answer(endpoint + path, method, body, signed)

    try:
        expect(call("PUT", b"a", if_none_match="*", content_type="text/plain"), (200,), f"PUT {path}")
        expect(call("PUT", b"b", if_none_match="*", content_type="text/plain"), (412,), f"second PUT of {path}")
        expect(call("GET"), (200,), f"GET {path}")
    finally:
        expect(call("DELETE"), (204,), f"DELETE {path}")


def main() -> int:
    """Run every check, tried again for a while: 1 when one of them fails."""
    checks: dict[str, Callable[[], None]] = {"operator": check_health, "rendezvous": check_rendezvous}
    if os.environ.get("S3_ENDPOINT") and os.environ.get("BUCKETS"):
        checks["object store"] = check_store
    give_up = time.monotonic() + float(os.environ.get("WAIT_S", "60"))
    failed = False
    for name, check in checks.items():
        while True:
            try:
                check()
                sys.stdout.write(f"{name}: ok\n")
                break
            except (OSError, Wrong) as problem:
                if time.monotonic() > give_up:
                    sys.stderr.write(f"{name}: {problem}\n")
                    failed = True
                    break
            time.sleep(1.0)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
