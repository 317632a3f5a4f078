"""Makes the buckets of the bundled S3 server, waiting for the server; what is there already stays.

May import sigv4.py (the trainer's, beside this file) and the standard library. It prints no credential.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from sigv4 import Credentials, sign

_POLL_S = 1.0


def make_bucket(endpoint: str, credentials: Credentials, name: str) -> str:
    """What is wrong, empty when the bucket is there. Raises OSError when nobody answers."""
    headers = sign("PUT", f"/{name}", {"host": urlsplit(endpoint).netloc}, b"", credentials, "us-east-1", time.time())
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10):
            return ""
    except urllib.error.HTTPError as error:
        text = error.read(2000).decode("utf-8", "replace")
        return "" if "BucketAlready" in text else f"{error.code} {text}"


def main() -> int:
    """Make all of them: 1 when one could not be made within the time."""
    endpoint = os.environ["S3_ENDPOINT"]
    credentials = Credentials(os.environ["S3_ACCESS_KEY"], os.environ["S3_SECRET_KEY"])
    give_up = time.monotonic() + float(os.environ.get("WAIT_S", "240"))
    for name in os.environ["BUCKETS"].split():
        problem = "not tried"
        while problem:
            try:
                problem = make_bucket(endpoint, credentials, name)
            except OSError as error:
                problem = str(error)
            if problem and time.monotonic() > give_up:
                sys.stderr.write(f"bucket {name} could not be made at {endpoint}: {problem}\n")
                return 1
            if problem:
                time.sleep(_POLL_S)
        sys.stdout.write(f"bucket {name} is there\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
