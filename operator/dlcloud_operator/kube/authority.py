"""Reads certificates and keys in PEM form, and signs the operator's own short-lived one with the chart's CA.

May import cryptography. Every mistake in a file is one sentence that names it; no key is ever logged or written.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATED = timedelta(hours=1)  # a node whose clock is behind must not refuse a new certificate
_PEM = serialization.Encoding.PEM


class CertificateError(Exception):
    """A certificate or key cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Leaf:
    """A server's certificate as agents see it."""

    pem: bytes  # chain, then key
    issued_at: datetime
    not_after: datetime


@dataclass(frozen=True)
class Authority:
    """A CA whose key is at hand."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes
    pem: str  # everything clients are to trust, certificates only

    @property
    def not_after(self) -> datetime:
        return self.certificate.not_valid_after_utc

    def sign(self, names: Sequence[str], now: datetime, life: timedelta) -> Leaf:
        """A new key (ECDSA P-256) and a server certificate for it; `names` are host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        not_after = min(now + life, self.not_after)
        ours = self.certificate.extensions
        try:
            ski = ours.get_extension_for_class(x509.SubjectKeyIdentifier).value
            aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)
        except x509.ExtensionNotFound:
            aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)  # digital signature alone
        signing = None if isinstance(self.key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dlcloud-rendezvous")]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(not_after)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            # Clients of Python 3.13 and later verify strictly: both identifiers are asked for then.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(aki, critical=False)
            .sign(self.key, signing)
        )
        chain = certificate.public_bytes(_PEM)
        if self.certificate.issuer != self.certificate.subject:
            chain += self.certificate.public_bytes(_PEM)
        return Leaf(chain + _private_pem(key), now, not_after)


def read_authority(folder: Path, option: str) -> Authority:
    """The CA in `ca.crt` and `ca.key`. Raises CertificateError; `option` is the flag that named the folder."""
    known = read_certificates(folder / "ca.crt", option, "the certificate of the CA")
    key = read_key(folder / "ca.key", option, "the CA's key")
    fitting = [one for one in known if one.public_key() == key.public_key()]
    if not fitting:
        raise CertificateError(
            f"{option}: the key in {folder / 'ca.key'} does not fit the certificate in {folder / 'ca.crt'};"
            " give the two files of one CA"
        )
    certificate = fitting[0]
    if not _may_sign(certificate):
        raise CertificateError(
            f"{option}: the certificate in {folder / 'ca.crt'} may not sign others (basicConstraints CA:TRUE and key"
            " usage keyCertSign are needed); give a CA, or a server's certificate with --tls-dir"
        )
    return Authority(certificate, cast(CertificateIssuerPrivateKeyTypes, key), certificates_pem(known))


def read_server(folder: Path, option: str) -> tuple[Leaf, str]:
    """The server's certificate in `tls.crt` and `tls.key`, and the CAs in `ca.crt`. Raises CertificateError."""
    chain = read_certificates(folder / "tls.crt", option, "the server's certificate")
    key = read_key(folder / "tls.key", option, "the server's key")
    trusted = read_certificates(folder / "ca.crt", option, "the CA that pods are to trust")
    if chain[0].public_key() != key.public_key():
        raise CertificateError(
            f"{option}: the key in {folder / 'tls.key'} does not fit the first certificate in {folder / 'tls.crt'};"
            " give the two files of one certificate"
        )
    pem = certificates_pem(chain).encode() + _private_pem(key)
    return Leaf(pem, chain[0].not_valid_before_utc, chain[0].not_valid_after_utc), certificates_pem(trusted)


def read_certificates(path: Path, option: str, what: str) -> list[x509.Certificate]:
    """All certificates of a file. Raises CertificateError."""
    data = _read(path, option, what)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise CertificateError(f"{option}: {path} holds no certificate in PEM form; give {what}") from None


def read_key(path: Path, option: str, what: str) -> PrivateKeyTypes:
    """A private key. Raises CertificateError, which quotes nothing of it."""
    data = _read(path, option, what)
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise CertificateError(f"{option}: {path} is encrypted; give {what} without a passphrase") from None
    except Exception:  # whatever the library says may quote the key
        raise CertificateError(f"{option}: {path} holds no private key in PEM form; give {what}") from None


def certificates_pem(certificates: Sequence[x509.Certificate]) -> str:
    """The certificates as PEM text, without the comments that may stand around them."""
    return "".join(one.public_bytes(_PEM).decode() for one in certificates)


def first_expiry(pem: str) -> datetime:
    """When the first of these certificates expires."""
    return min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(pem.encode()))


def in_words(at: datetime) -> str:
    """A time for a sentence."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _read(path: Path, option: str, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CertificateError(f"{option}: cannot read {path}: {reason}; it is to hold {what}") from None


def _may_sign(certificate: x509.Certificate) -> bool:
    extensions = certificate.extensions
    try:
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
