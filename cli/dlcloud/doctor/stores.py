"""Object stores: the user's own S3 server, the small one of local runs, folders.

May import this package and urllib3. What a run does with a store is done by a process of the trainer; keys reach it by
its environment, as a pod's do.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from dlcloud_operator.api import Encryption, TrainingJobSpec

from ..objects import Access, _client
from ..store import LOCAL_SECRET, secrets_of
from .findings import Finding, fail, ok, split_remedy, warn
from .programs import Bench, Ended

MAX_SKEW_S = 300.0  # S3 servers refuse signatures that are 15 minutes off; tokens expire earlier
_TRIAL_BUCKET = "doctor"


@dataclass(frozen=True)
class Use:
    """One URI of a job, and what a run does with it."""

    what: str  # the field
    uri: str
    write: bool


def uses_of(spec: TrainingJobSpec) -> list[Use]:
    """The object stores a job names, but for its data."""
    found = [Use("checkpoint.uri", spec.checkpoint.uri, True)] if spec.checkpoint else []
    return found + ([Use("resumeFrom", spec.resume_from, False)] if spec.resume_from else [])


def server(access: Access, ca_file: str = "") -> Finding:
    """Whether something answers at the endpoint, with a certificate we trust, and at our time of day."""
    import urllib3

    pool = urllib3.PoolManager(timeout=5, retries=False, ca_certs=ca_file or access.ca_file or None)
    began = time.monotonic()
    try:
        response = pool.request("GET", f"{access.endpoint}/", redirect=False)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        return fail(f"{access.endpoint}: {_why(error)}", _remedy(error, access.endpoint))
    finally:
        pool.clear()
    took = f"{access.endpoint} answers in {(time.monotonic() - began) * 1000:.0f} ms"
    return judge_clock(took, response.headers.get("Date", ""), datetime.now(UTC))


def judge_clock(text: str, date: str, now: datetime) -> Finding:
    """`text`, and whether the server's Date header is near our own clock."""
    try:
        skew_s = (now - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a zone
        return ok(text)
    if abs(skew_s) <= MAX_SKEW_S:
        return ok(text)
    direction = "ahead of" if skew_s > 0 else "behind"
    message = f"{text}, but the clock of this machine is {abs(skew_s) / 60:.0f} minutes {direction} the server's"
    return fail(message, "signed requests will be refused: set the clock (timedatectl set-ntp true)")


def try_store(
    bench: Bench, use: Use, access: Access | None, environ: Mapping[str, str], encryption: Encryption | None = None
) -> Finding:
    """Have the trainer put, get, list, delete and write with conditions below a random folder; or only read."""
    request = {"what": use.what, "uri": use.uri, "write": use.write, **_address(access, encryption)}
    ended = bench.python("dlcloud_trainer.checks.store", given={"stores": [request]}, env=environment(environ, access))
    return judge_steps(use.uri, use.write, ended, bench.limit_s)


def try_data(bench: Bench, workload: str, uri: str, access: Access | None, environ: Mapping[str, str]) -> Finding:
    """Have the workload read its data, whole."""
    data = {"workload": workload, "uri": uri, **_address(access, None)}
    ended = bench.python("dlcloud_trainer.checks.store", given={"data": data}, env=environment(environ, access))
    if ended.code is None:
        return warn(
            f"{uri}: not read within {bench.limit_s:g} s", "a slow store makes every start slow: copy it nearer"
        )
    return judge_steps(uri, False, ended, bench.limit_s)


def judge_steps(uri: str, write: bool, ended: Ended, limit_s: float) -> Finding:
    """From what the trainer's process told."""
    steps = ended.objects()
    wrong = next((step for step in steps if not step.get("ok")), None)
    if wrong is not None:
        message, remedy = split_remedy(str(wrong["message"]))
        return fail(f"{wrong['step']}: {message}" if uri in message else f"{uri}: {wrong['step']}: {message}", remedy)
    if ended.code is None:
        done = ", ".join(str(step["step"]) for step in steps) or "no step"
        return fail(f"{uri}: no end within {limit_s:g} s ({done} done)", "look at the server and the network to it")
    if not steps:
        return fail(ended.last_words, "install the trainer's packages: pip install 'dlcloud[trainer]'")
    said = str(steps[-1].get("message") or "")
    seconds = sum(float(step.get("seconds") or 0) for step in steps)
    if not write:
        return ok(f"{uri}: can be read" + (f", {said}" if said else ""))
    return ok(f"{uri}: put, get, list, delete and conditional writes work ({seconds:.2f} s)")


def embedded(bench: Bench, environ: Mapping[str, str]) -> Finding:
    """Start the S3 server of local runs on an empty folder, use it, stop it."""
    from ..jobs.local_store import embedded_server
    from ..local import weed

    try:
        program = weed.find()
    except weed.StoreFailed as error:
        return fail(*split_remedy(str(error)))
    folder = bench.folder() / "store"
    (folder / "data").mkdir(parents=True)
    began = time.monotonic()
    with embedded_server(folder) as access:
        started_s = time.monotonic() - began
        _client(access).make_bucket(_TRIAL_BUCKET)
        use = Use("checkpoint.uri", f"s3://{_TRIAL_BUCKET}/trial/", True)
        found = try_store(bench, use, access, environ)
    if found.state != "ok":
        return fail(f"{program}: {found.message}", found.remedy)
    return ok(f"{program} starts in {started_s:.1f} s, takes objects and keeps conditions")


def environment(environ: Mapping[str, str], access: Access | None) -> dict[str, str]:
    """A process's environment with these keys and no others."""
    own = {name: value for name, value in environ.items() if not name.startswith(("AWS_", "DLCLOUD_STORE"))}
    if access is None:
        return own
    if (urlsplit(access.endpoint).hostname or "") in ("127.0.0.1", "localhost", "::1"):
        for name in ("no_proxy", "NO_PROXY"):
            own[name] = ",".join(filter(None, [own.get(name, ""), "127.0.0.1,localhost,::1"]))
    return own | secrets_of(access)[LOCAL_SECRET]


def _address(access: Access | None, encryption: Encryption | None) -> dict[str, str]:
    found = {} if access is None else {"endpoint": access.endpoint, "region": access.region, "caFile": access.ca_file}
    if encryption is not None:
        found |= {"encryption": encryption.type.value, "kmsKeyId": encryption.kms_key_id}
    return found


def _why(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "shows a certificate that is not trusted"
    if "WRONG_VERSION_NUMBER" in text or "record layer" in text:
        return "speaks no TLS"
    for sign, words in (
        ("Name or service not known", "the host name does not resolve"),
        ("Temporary failure in name", "the host name does not resolve"),
        ("nodename nor servname", "the host name does not resolve"),
        ("Failed to resolve", "the host name does not resolve"),
        ("refused", "refuses connections"),
        ("timed out", "does not answer within 5 s"),
    ):
        if sign in text:
            return words
    return "hangs up: it is no HTTP server, or it wants https://" if "aborted" in text else "cannot be reached"


def _remedy(error: Exception, endpoint: str) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "name its CA: AWS_CA_BUNDLE=FILE here, objectStore.caConfigMap in a cluster"
    if "WRONG_VERSION_NUMBER" in text or "record layer" in text:
        return f"use http://{urlsplit(endpoint).netloc}"
    return "start the server, or correct the endpoint (--endpoint URL, $AWS_ENDPOINT_URL, objectStore.endpoint)"


def needs_server(uses: Sequence[Use], data_uri: str) -> bool:
    """Whether any of it lies on an S3 server."""
    return any(uri.startswith("s3://") for uri in (*(use.uri for use in uses), data_uri))
