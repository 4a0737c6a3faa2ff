"""A server's TLS context from its files, and what is wrong with them, said before the first client finds out."""

from __future__ import annotations

import getpass
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from .exceptions import ImproperlyConfigured
from .standard_streams import has_terminal

logger = logging.getLogger("triochan.server")

PASSWORD_VARIABLE = "TRIOCHAN_SSL_KEYFILE_PASSWORD"
"""The environment variable with the password of an encrypted private key."""

_MAX_PASSWORD = 1024
"""Bytes; as many as Python's ssl takes."""
_ROUNDS = 10
"""Turns of a handshake in memory; TLS 1.2 takes three."""
_EXPIRED, _NOT_YET_VALID = 10, 9
"""What a verification says (X509_V_ERR_CERT_HAS_EXPIRED and …_NOT_YET_VALID of OpenSSL's x509_vfy.h)."""


class CannotUseCertificate(ImproperlyConfigured):
    """A certificate or its key; the text is for who runs the server."""


def make_context(
    certificate: str,
    key: str | None = None,
    *,
    password: str | None = None,
    password_file: str | None = None,
) -> ssl.SSLContext:
    """A server's context, which offers HTTP/1.1 by ALPN (RFC 7301).

    A certificate that clients will not take for its dates is logged as a warning: it may be one for tests. For a
    certificate that is renewed while a server runs: ``serve(…, ssl_context=partial(make_context, "cert.pem",
    "key.pem"))``.

    Args:
        certificate: a PEM file with the certificate, those that lead from it to its root, and perhaps the key.
        key: a PEM file with the private key; None: it is in ``certificate``.
        password: of an encrypted key.
        password_file: the file whose first line it is (nginx: ssl_password_file). Where neither is given, the
            password is that of :data:`PASSWORD_VARIABLE`, or is asked for at the terminal.

    Raises:
        CannotUseCertificate: a file can't be read, there is no certificate or no key, they do not go together, or no
            client could use them.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    holder = key or certificate
    certificates = _read(certificate)
    keys = _read(key) if key else certificates
    if b"CERTIFICATE-----" not in certificates:
        raise CannotUseCertificate(
            f"{certificate} holds no certificate: 'BEGIN CERTIFICATE' is expected (PEM)"
        )
    if b"PRIVATE KEY-----" not in keys:
        where = "" if key else "; give --ssl-keyfile the file that does"
        raise CannotUseCertificate(
            f"{holder} holds no private key: 'BEGIN PRIVATE KEY' is expected (PEM){where}"
        )
    if password_file is not None:
        password = _first_line(password_file)
    asked = _Password(holder, password)
    try:
        context.load_cert_chain(certificate, key, asked)
    except ssl.SSLError as error:
        raise CannotUseCertificate(_why(error, certificate, holder, asked.given)) from None
    _try(context, certificate)
    return context


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CannotUseCertificate(f"{path}: {error.strerror}") from None


def _first_line(path: str) -> str:
    lines = _read(path).splitlines()
    try:
        return lines[0].decode() if lines else ""
    except UnicodeDecodeError:
        raise CannotUseCertificate(f"{path}: the first line is no UTF-8") from None


class _Password:
    """Asked for the password of an encrypted key.

    Args:
        holder: the file with the key.
        said: the password, where it was said already.
    """

    def __init__(self, holder: str, said: str | None) -> None:
        self._holder = holder
        self._said = said
        self.given = False

    def __call__(self) -> str:
        password = self._said
        if password is None:
            password = os.environ.get(PASSWORD_VARIABLE)
        if password is None:
            if not has_terminal():
                raise CannotUseCertificate(
                    f"the private key in {self._holder} is encrypted, and there is no terminal to ask for its "
                    f"password; give the password in the environment variable {PASSWORD_VARIABLE} or in a file, by "
                    "--ssl-keyfile-password-file"
                )
            try:
                password = getpass.getpass(f"Password of the private key in {self._holder}: ")
            except EOFError:
                password = ""
        if not 0 < len(password.encode()) <= _MAX_PASSWORD:
            raise CannotUseCertificate(
                f"the password of the private key in {self._holder} is one of 1 to {_MAX_PASSWORD} bytes; "
                f"what was given has {len(password.encode())}"
            )
        self.given = True
        return password


def _why(error: ssl.SSLError, certificate: str, holder: str, encrypted: bool) -> str:
    # OpenSSL gives no reason where a block ends early or is garbage within.
    reason = error.reason or "what stands between the PEM lines can't be read"
    # The last: a key of another type than the certificate's is kept for a certificate that does not come.
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return f"the key in {holder} does not belong to the certificate in {certificate}"
    if encrypted:
        return (
            f"the private key in {holder} can't be decrypted: is the password right? (OpenSSL says {reason})"
        )
    files = certificate if holder == certificate else f"{certificate} and {holder}"
    return f"the certificate and its private key in {files} can't be used: OpenSSL says {reason}"


def _try(context: ssl.SSLContext, certificate: str) -> None:
    """Shake hands with ourselves, in memory, as a client that trusts just this certificate."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends: list[Callable[[], None]] = [
        client.wrap_bio(there, here).do_handshake,
        context.wrap_bio(here, there, server_side=True).do_handshake,
    ]
    try:
        for _ in range(_ROUNDS):
            for shake in ends[:]:
                try:
                    shake()
                except ssl.SSLWantReadError:
                    continue
                ends.remove(shake)
    except ssl.SSLCertVerificationError as error:
        when = {_EXPIRED: "has expired", _NOT_YET_VALID: "is not valid yet"}.get(error.verify_code)
        logger.warning(
            "the certificate in %s %s: browsers and other clients will refuse it",
            certificate,
            when or f"does not hold ({error.verify_message})",
        )
    except ssl.SSLError as error:
        raise CannotUseCertificate(
            f"no client could use the certificate and key in {certificate}: OpenSSL says {error.reason or error}"
        ) from None
