"""TLS contexts from files: what is asked for an encrypted key, and what is said of files that can't be used."""

from __future__ import annotations

import datetime
import logging
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from triochan import certificates
from triochan.certificates import PASSWORD_VARIABLE, CannotUseCertificate, make_context

TODAY = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def encrypted(key: bytes, password: bytes, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, form, BestAvailableEncryption(password)
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates and keys, good and bad."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate, key = issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()
    other = ed25519.Ed25519PrivateKey.generate()
    dates = {"expired": (TODAY - 9 * DAY, TODAY - DAY), "early": (TODAY + DAY, TODAY + 9 * DAY)}
    for name, (begin, end) in dates.items():
        dated = authority.issue_cert("localhost", not_before=begin, not_after=end)
        dated.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    contents = {
        "cert.pem": certificate,
        "key.pem": key,
        "both.pem": key + certificate,
        "other.pem": authority.issue_cert("localhost").private_key_pem.bytes(),
        "ed25519.pem": other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "encrypted.pem": encrypted(key, b"open sesame"),
        "traditional.pem": encrypted(key, b"open sesame", PrivateFormat.TraditionalOpenSSL),
        "encrypted-both.pem": encrypted(key, b"open sesame") + certificate,
        "cut-cert.pem": certificate[: len(certificate) // 2] + b"\n-----END CERTIFICATE-----\n",
        "cut-key.pem": key[: len(key) // 2],
        "cert.der": ssl.PEM_cert_to_DER_cert(certificate.decode()),
        "text.pem": b"nothing of that kind\n",
        "empty.pem": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    monkeypatch.chdir(files)
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr(certificates, "has_terminal", lambda: False)


@pytest.mark.parametrize(("certificate", "key"), [("cert.pem", "key.pem"), ("both.pem", None)])
def test_files_that_hold(certificate: str, key: str | None, caplog: pytest.LogCaptureFixture) -> None:
    assert make_context(certificate, key).get_ciphers()
    assert not caplog.records


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (
            "cert.pem",
            None,
            "cert.pem holds no private key: 'BEGIN PRIVATE KEY' is expected (PEM); give --ssl-keyfile",
        ),
        ("key.pem", "cert.pem", "key.pem holds no certificate"),
        ("key.pem", None, "key.pem holds no certificate"),
        ("cert.der", "key.pem", "cert.der holds no certificate"),
        ("text.pem", "key.pem", "text.pem holds no certificate"),
        ("empty.pem", None, "empty.pem holds no certificate"),
        ("cert.pem", "text.pem", "text.pem holds no private key"),
        ("cert.pem", "empty.pem", "empty.pem holds no private key"),
        ("cert.pem", "other.pem", "the key in other.pem does not belong to the certificate in cert.pem"),
        ("cert.pem", "ed25519.pem", "the key in ed25519.pem does not belong to the certificate in cert.pem"),
        ("cut-cert.pem", "key.pem", "in cut-cert.pem and key.pem can't be used: OpenSSL says "),
        ("cert.pem", "cut-key.pem", "in cert.pem and cut-key.pem can't be used: OpenSSL says "),
    ],
)
def test_files_that_do_not(certificate: str, key: str | None, said: str) -> None:
    with pytest.raises(CannotUseCertificate) as caught:
        make_context(certificate, key)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


ENCRYPTED = [("cert.pem", "encrypted.pem"), ("cert.pem", "traditional.pem"), ("encrypted-both.pem", None)]


@pytest.mark.parametrize(("certificate", "key"), ENCRYPTED)
class TestAnEncryptedKey:
    def test_without_a_terminal(self, certificate: str, key: str | None) -> None:
        with pytest.raises(CannotUseCertificate) as caught:
            make_context(certificate, key)
        assert f"the private key in {key or certificate} is encrypted" in str(caught.value)
        assert PASSWORD_VARIABLE in str(caught.value)

    def test_whose_password_is_in_the_environment(
        self, certificate: str, key: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
        assert make_context(certificate, key)

    def test_whose_password_is_asked_for(
        self, certificate: str, key: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        monkeypatch.setattr(certificates, "has_terminal", lambda: True)

        def ask(prompt: str) -> str:
            asked.append(prompt)
            return "open sesame"

        monkeypatch.setattr("getpass.getpass", ask)
        assert make_context(certificate, key)
        assert asked == [f"Password of the private key in {key or certificate}: "]

    def test_with_a_wrong_password(
        self, certificate: str, key: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PASSWORD_VARIABLE, "open barley")
        with pytest.raises(CannotUseCertificate, match=r"can't be decrypted: is the password right\?"):
            make_context(certificate, key)

    @pytest.mark.parametrize(("password", "size"), [("", 0), ("é" * 600, 1200)])
    def test_with_no_password(
        self, certificate: str, key: str | None, password: str, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PASSWORD_VARIABLE, password)
        with pytest.raises(CannotUseCertificate, match=f"of 1 to 1024 bytes; what was given has {size}$"):
            make_context(certificate, key)

    def test_whose_question_is_not_answered(
        self, certificate: str, key: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def end_of_file(prompt: str) -> str:
            raise EOFError

        monkeypatch.setattr(certificates, "has_terminal", lambda: True)
        monkeypatch.setattr("getpass.getpass", end_of_file)
        with pytest.raises(CannotUseCertificate, match=r"what was given has 0$"):
            make_context(certificate, key)


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (
            "expired.pem",
            "the certificate in expired.pem has expired: browsers and other clients will refuse it",
        ),
        (
            "early.pem",
            "the certificate in early.pem is not valid yet: browsers and other clients will refuse it",
        ),
    ],
)
def test_a_certificate_out_of_its_time_is_a_warning(
    certificate: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert make_context(certificate, None)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.WARNING, said)]


def test_what_no_client_could_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context without a cipher in common with the clients': what a key of an odd kind comes to."""
    made = ssl.create_default_context

    def odd(purpose: ssl.Purpose) -> ssl.SSLContext:
        context = made(purpose)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        return context

    monkeypatch.setattr(ssl, "create_default_context", odd)
    rsa = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("localhost", key_type=trustme.KeyType.RSA)
    with rsa.private_key_and_cert_chain_pem.tempfile() as path:
        with pytest.raises(CannotUseCertificate, match="no client could use the certificate and key in "):
            make_context(path, None)
