"""Writes what SeaweedFS starts with: the two identities, and a certificate that closes its second port.

Beside S3 it listens on a gRPC port where anybody could add an identity; that port shall ask for a client certificate
of a CA whose key is not even written down. May import cryptography and the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = timedelta(days=3650)


def identities(env: Mapping[str, str]) -> dict[str, object]:
    """The administrator, who makes buckets, and the jobs, who read and write in those given and nowhere else."""

    def identity(name: str, prefix: str, actions: list[str]) -> dict[str, object]:
        keys = {"accessKey": env[f"{prefix}_ACCESS_KEY_ID"], "secretKey": env[f"{prefix}_SECRET_ACCESS_KEY"]}
        return {"name": name, "credentials": [keys], "actions": actions}

    verbs = ("Read", "Write", "List", "Tagging")
    jobs = [f"{verb}:{bucket}" for bucket in env["BUCKETS"].split() for verb in verbs]
    return {"identities": [identity("admin", "ADMIN", ["Admin", *verbs]), identity("jobs", "AWS", jobs)]}


def certificate() -> tuple[bytes, bytes, bytes]:
    """The CA nobody can sign with, a certificate of it and that one's key, in PEM."""
    authority, ca_key = _signed("nobody", None)
    leaf, key = _signed("s3", (authority, ca_key))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return authority.public_bytes(serialization.Encoding.PEM), leaf.public_bytes(serialization.Encoding.PEM), private


def _signed(
    name: str, by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by[0].subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    )
    return builder.sign(by[1] if by else key, hashes.SHA256()), key


def main(folder: Path) -> None:
    """Write s3.json, security.toml and its three files into the folder."""
    os.umask(0o077)
    ca, leaf, key = certificate()
    security = (
        f'[grpc]\nca = "{folder}/ca.crt"\n\n[grpc.s3]\ncert = "{folder}/tls.crt"\nkey = "{folder}/tls.key"\n'
    ).encode()
    config = json.dumps(identities(os.environ)).encode()
    files = {"ca.crt": ca, "tls.crt": leaf, "tls.key": key, "security.toml": security, "s3.json": config}
    for name, content in files.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
