"""The rendezvous server's TLS: a certificate that is replaced while connections run on, and the CA that pods trust.

May import the package's authority and options. A private key is never written to a disk: OpenSSL reads it from memory.

    certificates = open_certificates(options)                       # None: plain HTTP
    await rendezvous.start(host, port, certificates.context)        # the same object for ever
    tasks.create_task(certificates.run())                           # until cancelled; never raises
    RenderSettings(..., ca=certificates.ca_pem)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from .authority import CertificateError, Leaf, first_expiry, in_words, read_authority, read_server
from .options import Options

__all__ = ["CertificateError", "Certificates", "open_certificates", "rendezvous_names", "serve_from", "sign_with"]

log = logging.getLogger(__name__)

LEAF_LIFE = timedelta(days=30)
POLL_S = 30.0
_WARN_BEFORE = timedelta(days=30)
_WARN_EVERY = timedelta(days=1)

Source = Callable[[datetime], "tuple[Leaf, str]"]  # now -> the certificate to serve, and what to trust as PEM text


def rendezvous_names(url: str, also: Sequence[str] = ()) -> list[str]:
    """What the certificate is for: the host of the URL that pods call, its full name in the cluster, and `also`."""
    host = urlsplit(url).hostname or ""
    full = [f"{host}.cluster.local"] if host.endswith(".svc") else []
    return list(dict.fromkeys([host, *full, *also]))


def open_certificates(options: Options) -> Certificates | None:
    """What the flags ask for, None for plain HTTP. Raises CertificateError."""
    if options.tls_ca_dir is not None:
        return sign_with(options.tls_ca_dir, rendezvous_names(options.rendezvous_url))
    if options.tls_dir is not None:
        return serve_from(options.tls_dir, rendezvous_names(options.rendezvous_url)[0])
    return None


def sign_with(
    folder: Path,
    names: Sequence[str],
    life: timedelta = LEAF_LIFE,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    poll_s: float = POLL_S,
) -> Certificates:
    """Certificates signed here by the CA in `ca.crt` and `ca.key`, a new one after two thirds of each one's life.

    The CA is read once: pods that run hold its certificate in their environment. Raises CertificateError.
    """
    authority = read_authority(folder, "--tls-ca-dir")
    held: list[Leaf] = []

    def source(at: datetime) -> tuple[Leaf, str]:
        # A clock that was set back far counts as well: the certificate held would not be valid yet.
        if not held or not held[0].issued_at - timedelta(hours=1) <= at < held[0].issued_at + life * 2 / 3:
            if at >= authority.not_after:
                expired = in_words(authority.not_after)
                raise CertificateError(
                    f"--tls-ca-dir: the CA in {folder / 'ca.crt'} expired at {expired}; give another"
                )
            held[:] = [authority.sign(names, at, life)]
        return held[0], authority.pem

    return Certificates(source, names[0], "--tls-ca-dir", now, poll_s)


def serve_from(
    folder: Path,
    host: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    poll_s: float = POLL_S,
) -> Certificates:
    """The certificate in `tls.crt` and `tls.key`, trusted by `ca.crt`; read again when the files change.

    `host`: what pods call the server. Raises CertificateError.
    """

    def source(_: datetime) -> tuple[Leaf, str]:
        # A kubelet swaps the files of a Secret by one link: through it they belong together.
        swapped = folder / "..data"
        return read_server(swapped.resolve() if swapped.exists() else folder, "--tls-dir")

    return Certificates(source, host, "--tls-dir", now, poll_s)


class Certificates:
    """What the server shows now; `context` stays the same object for ever."""

    def __init__(
        self, source: Source, host: str, option: str, now: Callable[[], datetime], poll_s: float = POLL_S
    ) -> None:
        """Raises CertificateError when agents would refuse what `source` gives."""
        self._source, self._host, self._option, self._now, self._poll_s = source, host, option, now, poll_s
        self._warned_at: datetime | None = None
        self._complaint = ""
        leaf, self.ca_pem = source(now())
        self.leaf_expires_at, self.ca_expires_at = leaf.not_after, first_expiry(self.ca_pem)
        self._pem = leaf.pem
        self._current = self._checked(leaf, self.ca_pem)
        self._warn_of_expiry()
        # Each handshake asks for the newest; a certificate changed inside a context would leave the old one beside it
        # when its key is of another type.
        self.context = _empty_context()
        self.context.sni_callback = self._show

    async def run(self, renewed: Callable[[], None] = lambda: None) -> None:
        """Look for a new certificate again and again, until cancelled. Never raises: the old one stays in use.

        `renewed` is called after each change of the certificate or the CA.
        """
        while True:
            await asyncio.sleep(self._poll_s)
            if self.refresh():
                renewed()

    def refresh(self) -> bool:
        """Look now; whether there was a new certificate or CA."""
        try:
            leaf, ca_pem = self._source(self._now())
            if (leaf.pem, ca_pem) == (self._pem, self.ca_pem):
                self._complaint = ""
                self._warn_of_expiry()
                return False
            self._current = self._checked(leaf, ca_pem)
        except CertificateError as error:
            if str(error) != self._complaint:
                log.error("the certificate in use until now stays: %s", error)
            self._complaint = str(error)
            return False
        if ca_pem != self.ca_pem:
            log.warning("%s: another CA; pods that run trust the one they were started with", self._option)
        self._pem, self.ca_pem, self._complaint = leaf.pem, ca_pem, ""
        self.leaf_expires_at, self.ca_expires_at = leaf.not_after, first_expiry(ca_pem)
        log.info("a new certificate is served, valid until %s", in_words(leaf.not_after))
        self._warn_of_expiry()
        return True

    def _show(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _checked(self, leaf: Leaf, ca_pem: str) -> ssl.SSLContext:
        context = _context_of(leaf.pem, self._option)
        refusal = handshake_error(context, ca_pem, self._host, strict=False)
        if refusal:
            raise CertificateError(f"{self._option}: pods that call {self._host} would refuse the server: {refusal}")
        refusal = handshake_error(context, ca_pem, self._host, strict=True)
        if refusal:
            log.warning("%s: pods with Python 3.13 or later would refuse the server: %s", self._option, refusal)
        return context

    def _warn_of_expiry(self) -> None:
        now = self._now()
        if self._warned_at is not None and now - self._warned_at < _WARN_EVERY:
            return
        if self.ca_expires_at - now < _WARN_BEFORE:
            self._warned_at = now
            log.warning("%s: the CA expires at %s; make a new one", self._option, in_words(self.ca_expires_at))
        if self.leaf_expires_at - now < timedelta(days=3) and self._option == "--tls-dir":
            self._warned_at = now
            log.warning("%s: the certificate expires at %s", self._option, in_words(self.leaf_expires_at))


def handshake_error(server: ssl.SSLContext, ca_pem: str, host: str, strict: bool) -> str:
    """Why a client that trusts `ca_pem` refuses this server as `host`, "" when it does not; `strict` as Python 3.13."""
    client = ssl.create_default_context(cadata=ca_pem)
    flags = client.verify_flags & ~ssl.VERIFY_X509_STRICT
    client.verify_flags = flags | ssl.VERIFY_X509_STRICT if strict else flags
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling = client.wrap_bio(to_client, to_server, server_hostname=host)
    called = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(8):
            for side in (calling, called):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
            if calling.version() and calling.cipher():
                return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return error.reason or str(error)
    return "the handshake does not end"


def _context_of(pem: bytes, option: str) -> ssl.SSLContext:
    context = _empty_context()
    try:
        with _as_file(pem) as path:
            context.load_cert_chain(path)
    except ssl.SSLError as error:
        raise CertificateError(f"{option}: OpenSSL refuses the certificate: {error.reason or error}") from None
    return context


def _empty_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path that holds the data, in memory alone: the ssl module takes no key but from a file."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("certificate"), "wb", buffering=0) as file:
            file.write(data)
            yield f"/proc/self/fd/{file.fileno()}"
    else:  # no Linux: local use alone
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name
