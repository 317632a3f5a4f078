"""The rendezvous server's certificates over real TLS: the chart's CA, rotation under running connections, bad files."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from dlcloud_operator.kube.certificates import (
    CertificateError,
    Certificates,
    handshake_error,
    rendezvous_names,
    serve_from,
    sign_with,
)

from ...rig.binaries import find_programs

HOST = "dlcloud-rendezvous.dlcloud-system.svc"
PEM = serialization.Encoding.PEM
CHART = Path(__file__).parents[3] / "charts"


def write_key(path: Path, key: Any, passphrase: bytes = b"") -> None:
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, hidden))


def certify(
    subject: str,
    key: Any,
    issuer: str,
    issuer_key: Any,
    ca: bool = False,
    days: float = 365,
    names: tuple[str, ...] = (),
    identifiers: bool = True,
) -> bytes:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(True, False, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(usage, critical=True)
    )
    if identifiers:
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        builder = builder.add_extension(aki, critical=False)
    if names:
        general: list[x509.GeneralName] = []
        for name in names:
            try:
                general.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                general.append(x509.DNSName(name))
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(PEM)


@pytest.fixture
def ca_dir(tmp_path: Path) -> Path:
    """`ca.crt` and `ca.key` as the chart makes them."""
    return write_ca(tmp_path / "ca")


def write_ca(folder: Path, days: float = 3650, ca: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.crt").write_bytes(certify("the ca", key, "the ca", key, ca=ca, days=days))
    write_key(folder / "ca.key", key)
    return folder


@pytest.fixture
def tls_dir(tmp_path: Path, ca_dir: Path) -> Path:
    """`tls.crt`, `tls.key` and `ca.crt` as cert-manager makes them."""
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "ca.crt").write_bytes((ca_dir / "ca.crt").read_bytes())
    issue(folder, ca_dir)
    return folder


def issue(
    folder: Path, ca_dir: Path, key: Any = None, names: tuple[str, ...] = (HOST, "localhost"), **more: Any
) -> None:
    key = key or ec.generate_private_key(ec.SECP256R1())
    ca_key = serialization.load_pem_private_key((ca_dir / "ca.key").read_bytes(), None)
    (folder / "tls.crt").write_bytes(certify("server", key, "the ca", ca_key, names=names, **more))
    write_key(folder / "tls.key", key)


@asynccontextmanager
async def echo(certificates: Certificates) -> AsyncIterator[int]:
    """A server that says back each line; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificates.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Caller:
    """A connection as an agent makes it."""

    def __init__(self, port: int, ca_pem: str, strict: bool = True) -> None:
        self._port = port
        self._context = ssl.create_default_context(cadata=ca_pem)
        if strict:
            self._context.verify_flags |= ssl.VERIFY_X509_STRICT

    async def connect(self, host: str = "localhost") -> x509.Certificate:
        """Shake hands; what the server showed."""
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context, server_hostname=host
        )
        return x509.load_der_x509_certificate(self.writer.get_extra_info("ssl_object").getpeercert(True))

    async def say(self, text: bytes) -> bytes:
        self.writer.write(text + b"\n")
        return (await asyncio.wait_for(self.reader.readline(), 5)).strip()

    def close(self) -> None:
        self.writer.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


# --- the operator signs its own ---


def test_a_certificate_signed_by_the_charts_ca_passes_the_strictest_clients(tmp_path: Path) -> None:
    command = [find_programs(("helm",))["helm"], "template", "rel", CHART, "--kube-version", "1.34.0"]
    command += ["--show-only", "templates/tls.yaml"]
    rendered = subprocess.run(command, capture_output=True, check=True, timeout=60)
    for name, value in yaml.safe_load(rendered.stdout)["data"].items():
        (tmp_path / name).write_bytes(base64.b64decode(value))
    certificates = sign_with(tmp_path, rendezvous_names(f"https://{HOST}:8443", also=["127.0.0.1"]))

    async def scenario() -> None:
        async with echo(certificates) as port:
            for host in (HOST, f"{HOST}.cluster.local", "127.0.0.1"):
                caller = Caller(port, certificates.ca_pem)
                shown = await caller.connect(host)
                assert await caller.say(b"hello") == b"hello"
                assert shown.public_key().curve.name == "secp256r1"  # type: ignore[union-attr]
                left = shown.not_valid_after_utc - datetime.now(UTC)
                assert timedelta(days=29, hours=23) < left <= timedelta(days=30)
                caller.close()
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                await Caller(port, certificates.ca_pem).connect("elsewhere.svc")

    run(scenario)


def test_a_new_certificate_is_shown_to_new_callers_and_those_that_talk_go_on(ca_dir: Path) -> None:
    certificates = sign_with(ca_dir, ["localhost"], life=timedelta(seconds=3), poll_s=0.05)
    ca = certificates.ca_pem

    async def scenario() -> None:
        renewing = asyncio.create_task(certificates.run())
        async with echo(certificates) as port:
            first, later = Caller(port, ca), Caller(port, ca)
            serial = (await first.connect()).serial_number
            while (await later.connect()).serial_number == serial:
                later.close()
                await asyncio.sleep(0.05)
            assert await first.say(b"still here") == b"still here"
            assert await later.say(b"new") == b"new"
            assert certificates.ca_pem == ca
            for caller in (first, later):
                caller.close()
        renewing.cancel()

    run(scenario)


def test_a_certificate_is_renewed_after_two_thirds_of_its_life_and_when_the_clock_is_set_far_back(ca_dir: Path) -> None:
    at = [datetime.now(UTC) - timedelta(minutes=20)]
    certificates = sign_with(ca_dir, ["localhost"], life=timedelta(minutes=60), now=lambda: at[0])
    assert not certificates.refresh()
    at[0] += timedelta(minutes=39)
    assert not certificates.refresh()
    at[0] += timedelta(minutes=2)
    assert certificates.refresh()
    assert certificates.leaf_expires_at == at[0] + timedelta(minutes=60)
    at[0] -= timedelta(minutes=59)
    assert not certificates.refresh()
    at[0] -= timedelta(minutes=2)
    assert certificates.refresh()


def test_no_key_is_written_to_a_disk(ca_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    certificates = sign_with(ca_dir, ["localhost"])
    assert handshake_error(certificates.context, certificates.ca_pem, "localhost", strict=True) == ""
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def test_nothing_older_than_tls_1_2_is_spoken(ca_dir: Path) -> None:
    certificates = sign_with(ca_dir, ["localhost"])
    assert certificates.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert certificates._current.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_ca_that_ends_soon_is_told_once_a_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    at = [datetime.now(UTC)]
    certificates = sign_with(write_ca(tmp_path, days=20), ["localhost"], now=lambda: at[0])
    certificates.refresh()
    assert [record.getMessage() for record in caplog.records] == [
        f"--tls-ca-dir: the CA expires at {certificates.ca_expires_at:%Y-%m-%d %H:%M} UTC; make a new one"
    ]
    at[0] += timedelta(days=1)
    certificates.refresh()
    assert len(caplog.records) == 2


def test_a_certificate_does_not_outlive_its_ca(tmp_path: Path) -> None:
    certificates = sign_with(write_ca(tmp_path, days=5), ["localhost"])
    assert certificates.leaf_expires_at == certificates.ca_expires_at


# --- certificates from files ---


def test_files_that_change_are_served_with_a_key_of_another_type_too(tls_dir: Path, ca_dir: Path) -> None:
    issue(tls_dir, ca_dir, rsa.generate_private_key(65537, 2048))
    certificates = serve_from(tls_dir, HOST)

    async def scenario() -> None:
        async with echo(certificates) as port:
            old, new = Caller(port, certificates.ca_pem), Caller(port, certificates.ca_pem)
            assert isinstance((await old.connect()).public_key(), rsa.RSAPublicKey)
            issue(tls_dir, ca_dir)
            assert certificates.refresh()
            assert isinstance((await new.connect()).public_key(), ec.EllipticCurvePublicKey)
            assert await old.say(b"still here") == b"still here"
            for caller in (old, new):
                caller.close()

    run(scenario)


def test_files_that_are_broken_leave_the_old_certificate_and_are_told_once(
    tls_dir: Path, ca_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = serve_from(tls_dir, HOST)
    write_key(tls_dir / "tls.key", ec.generate_private_key(ec.SECP256R1()))
    assert not certificates.refresh()
    assert not certificates.refresh()
    [record] = caplog.records
    assert "stays" in record.getMessage()
    assert "does not fit" in record.getMessage()
    assert handshake_error(certificates.context, certificates.ca_pem, HOST, strict=True) == ""
    issue(tls_dir, ca_dir)
    assert certificates.refresh()


def test_files_are_read_through_the_link_that_a_kubelet_swaps(tmp_path: Path, tls_dir: Path, ca_dir: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "..data").symlink_to(tls_dir)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (mounted / name).symlink_to(Path("..data") / name)
    certificates = serve_from(mounted, HOST)
    following = tmp_path / "following"
    following.mkdir()
    (following / "ca.crt").write_bytes((ca_dir / "ca.crt").read_bytes())
    issue(following, ca_dir)
    (mounted / "..tmp").symlink_to(following)
    (mounted / "..tmp").rename(mounted / "..data")
    assert certificates.refresh()


def test_a_certificate_that_new_python_refuses_is_warned_of(
    tls_dir: Path, ca_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issue(tls_dir, ca_dir, identifiers=False)
    serve_from(tls_dir, HOST)
    assert "Python 3.13 or later would refuse the server" in caplog.text


# --- what cannot be used ---


def _nothing(folder: Path) -> None:
    pass


def _drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _text(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("secret text") and None


def _other_key(name: str) -> Callable[[Path], None]:
    return lambda folder: write_key(folder / name, ec.generate_private_key(ec.SECP256R1()))


def _locked_key(folder: Path) -> None:
    write_key(folder / "ca.key", ec.generate_private_key(ec.SECP256R1()), b"secret")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_drop("ca.crt"), "cannot read {}/ca.crt: No such file or directory; it is to hold the certificate of the CA"),
        (_drop("ca.key"), "cannot read {}/ca.key: No such file or directory; it is to hold the CA's key"),
        (_text("ca.crt"), "{}/ca.crt holds no certificate in PEM form"),
        (_text("ca.key"), "{}/ca.key holds no private key in PEM form"),
        (_other_key("ca.key"), "the key in {}/ca.key does not fit the certificate in {}/ca.crt"),
        (_locked_key, "{}/ca.key is encrypted; give the CA's key without a passphrase"),
        (lambda folder: write_ca(folder, ca=False), "may not sign others"),
        (lambda folder: write_ca(folder, days=-1), "the CA in {}/ca.crt expired at "),
    ],
    ids=["no ca.crt", "no ca.key", "no PEM", "no key", "another key", "a passphrase", "no CA", "expired"],
)
def test_a_ca_that_cannot_be_used_is_one_sentence(ca_dir: Path, spoil: Callable[[Path], Any], told: str) -> None:
    spoil(ca_dir)
    with pytest.raises(CertificateError) as error:
        sign_with(ca_dir, ["localhost"])
    text = str(error.value)
    assert text.startswith("--tls-ca-dir: ")
    assert told.replace("{}", str(ca_dir)) in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_drop("tls.key"), "cannot read {}/tls.key"),
        (_drop("ca.crt"), "it is to hold the CA that pods are to trust"),
        (_other_key("tls.key"), "the key in {}/tls.key does not fit the first certificate in {}/tls.crt"),
        (lambda folder: issue(folder, folder.parent / "ca", names=("other",)), f"Hostname mismatch, .*{HOST}"),
        (lambda folder: issue(folder, folder.parent / "ca", days=-1), "certificate has expired"),
        (lambda folder: issue(folder, write_ca(folder.parent / "stranger")), "certificate signature failure|unable to"),
    ],
    ids=["no key", "no CA", "another key", "another host", "expired", "another CA"],
)
def test_a_certificate_that_cannot_be_used_is_one_sentence(
    tls_dir: Path, spoil: Callable[[Path], Any], told: str
) -> None:
    spoil(tls_dir)
    with pytest.raises(CertificateError, match=told.replace("{}", str(tls_dir))) as error:
        serve_from(tls_dir, HOST)
    assert str(error.value).startswith("--tls-dir: ")


def test_the_names_follow_the_url_that_pods_call() -> None:
    assert rendezvous_names(f"https://{HOST}:8443") == [HOST, f"{HOST}.cluster.local"]
    assert rendezvous_names("https://127.0.0.1:1234", also=["localhost"]) == ["127.0.0.1", "localhost"]
