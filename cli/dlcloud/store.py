"""Which S3 server a local run uses, and with which keys.

May import the API and the objects module. Looks at one lock file; starts nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dlcloud_operator.api import Encryption, EncryptionType, InvalidManifest, Problem, TrainingJob

from .objects import Access

LOCAL_SECRET = "dlcloud-local-store"  # the name the local pods know the keys by
LOCAL_CA = "dlcloud-local-ca"
CUSTOMER_KEY = "AWS_SSE_CUSTOMER_KEY_BASE64"


@dataclass(frozen=True)
class StoreNeed:
    """What a job needs of a store: its buckets, and whether it reads what must already be there."""

    buckets: tuple[str, ...]
    reads: bool


def store_need(job: TrainingJob) -> StoreNeed:
    """The buckets of checkpoint, data and resumeFrom; empty when all of them are files or built in."""
    reading = [job.spec.data.uri if job.spec.data else "", job.spec.resume_from]
    uris = [job.spec.checkpoint.uri if job.spec.checkpoint else "", *reading]
    buckets = sorted({urlsplit(uri).netloc for uri in uris if uri.startswith("s3://")})
    return StoreNeed(tuple(buckets), any(uri.startswith("s3://") for uri in reading))


def given_access(endpoint: str, region: str, environ: Mapping[str, str]) -> Access:
    """Access to the user's own server, keys from the environment. Raises InvalidManifest with what is missing."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        message = f"{endpoint!r} is not an S3 server's address; give http://host:port or https://host without a path"
        raise InvalidManifest((Problem("--endpoint", message),))
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not environ.get(name)]
    if missing:
        message = f"{' and '.join(missing)} not set; the workers need them to reach {endpoint}: export them"
        raise InvalidManifest((Problem("--endpoint", message),))
    return Access(
        endpoint=f"{parts.scheme}://{parts.netloc}",
        access_key=environ["AWS_ACCESS_KEY_ID"],
        secret_key=environ["AWS_SECRET_ACCESS_KEY"],
        session_token=environ.get("AWS_SESSION_TOKEN", ""),
        region=region,
        ca_file=environ.get("AWS_CA_BUNDLE", ""),
        customer_key=environ.get(CUSTOMER_KEY, ""),
    )


def is_locked(folder: Path) -> bool:
    """Whether a run uses the embedded store in this folder at this moment."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        with contextlib.suppress(OSError):
            os.close(lock)
    return False


def with_store(job: TrainingJob, access: Access, *, embedded: bool = False) -> TrainingJob:
    """The job with its objectStore pointing to `access` instead of to the cluster's. The `embedded` server has keys of
    its own and no key service: there, whatever is asked for becomes SSE-S3."""
    encryption = job.spec.object_store.encryption
    if encryption is not None and embedded:
        encryption = Encryption(type=EncryptionType.SSE_S3)
    changed = job.spec.object_store.model_copy(
        update={
            "endpoint": access.endpoint,
            "region": access.region,
            "credentials_secret": LOCAL_SECRET,
            "ca_config_map": LOCAL_CA if access.ca_file else "",
            "encryption": encryption,
        }
    )
    return job.model_copy(update={"spec": job.spec.model_copy(update={"object_store": changed})})


def secrets_of(access: Access) -> dict[str, dict[str, str]]:
    """The Secret the local pods get: the keys by the names of docs/protocol.md, section 1."""
    keys = {"AWS_ACCESS_KEY_ID": access.access_key, "AWS_SECRET_ACCESS_KEY": access.secret_key}
    if access.session_token:
        keys["AWS_SESSION_TOKEN"] = access.session_token
    if access.customer_key:
        keys[CUSTOMER_KEY] = access.customer_key
    return {LOCAL_SECRET: keys}


def config_maps_of(access: Access) -> dict[str, dict[str, str]]:
    """The ConfigMap with the CA of the user's own server, when it has one. Raises OSError."""
    return {LOCAL_CA: {"ca.crt": Path(access.ca_file).read_text()}} if access.ca_file else {}
