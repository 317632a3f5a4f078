"""Keys and certificates of one control plane, and kubeconfigs made with them.

May import cryptography and yaml. Writes private keys readable by this user alone.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 365
NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def make_all(folder: Path) -> None:
    """Into `folder`: ca.*, serving.*, the service accounts' key sa.*, and tokens.csv with the administrator's token."""
    folder.mkdir(mode=0o700, parents=True)
    make_ca(folder)
    key, certificate = make_certificate(folder, "kube-apiserver", serving=True)
    write_private(folder / "serving.key", key)
    (folder / "serving.crt").write_bytes(certificate)
    # RSA, as in most clusters: what verifies tokens shall meet the usual kind.
    signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_private(folder / "sa.key", private_pem(signing))
    (folder / "sa.pub").write_bytes(
        signing.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    write_private(folder / "tokens.csv", f'{secrets.token_urlsafe(24)},admin,admin,"system:masters"\n'.encode())


def make_ca(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = common_name("rig")
    builder = described(name, name, key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    # Python 3.13 and later ask for these of an authority.
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # to sign certificates and lists
    builder = builder.add_extension(usage, critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
    write_private(folder / "ca.key", private_pem(key))
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def make_certificate(
    folder: Path, user: str, groups: Sequence[str] = (), *, serving: bool = False
) -> tuple[bytes, bytes]:
    """A key and a certificate of the folder's authority, as PEM: of the server, or of a user with groups."""
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = described(common_name(user, groups), authority.subject, key.public_key())
    if serving:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        alternatives = x509.SubjectAlternativeName([address, *map(x509.DNSName, NAMES)])
        builder = builder.add_extension(alternatives, critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(issuer, critical=False)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if serving else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    return private_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def admin_token(folder: Path) -> str:
    """The token of the member of system:masters."""
    return (folder / "tokens.csv").read_text().split(",")[0]


def write_kubeconfig(path: Path, url: str, ca: bytes, user: dict[str, Any], namespace: str = "default") -> Path:
    """A kubeconfig of one context; `user` is its credentials, as kubectl spells them."""
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(ca).decode()}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rig", "cluster": cluster}],
        "users": [{"name": "rig", "user": user}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig", "namespace": namespace}}],
        "current-context": "rig",
    }
    write_private(path, yaml.safe_dump(content).encode())
    return path


def certificate_user(folder: Path, user: str, groups: Sequence[str]) -> dict[str, Any]:
    """A kubeconfig's user entry with a client certificate."""
    key, certificate = make_certificate(folder, user, groups)
    return {
        "client-key-data": base64.b64encode(key).decode(),
        "client-certificate-data": base64.b64encode(certificate).decode(),
    }


def write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def common_name(name: str, groups: Sequence[str] = ()) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def described(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
    )


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
