"""Associations over TLS, with certificates made on the spot."""

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Authority that signs certificates for 127.0.0.1, strict enough for Python 3.13 (RFC 5280); its own is ``ca``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self._signed(self._name, self._key, authority=True))

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(True, *[False] * 4, authority, authority, False, False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def pair(self, name: str) -> tuple[Path, Path]:
        """Issues a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, private = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(self._signed(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, False))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def client(authority: Authority, own: Authority | None = None) -> tuple[ssl.SSLContext, str]:
    context = ssl.create_default_context(cafile=authority.ca)
    if own is not None:
        context.load_cert_chain(*own.pair("scanner"))
    return context, "127.0.0.1"


def test_a_study_comes_and_goes_by_tls(
    authority: Authority,
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    eventually: Callable[..., Any],
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.load_cert_chain(*authority.pair("pacs"))
    context.verify_mode = ssl.CERT_REQUIRED
    peer = pacs(ssl_context=context)
    certificate, key = authority.pair("node")
    node = listen(send_to=peer.port, send_tls=True, tls_cert=certificate, tls_key=key, tls_ca=authority.ca)
    assert scanner(node.port, tls=client(authority, authority)).send(study()) == [0, 0, 0]
    node.complete()
    eventually(lambda: len(peer.received) == 3)


def test_a_client_without_a_certificate_of_the_authority_is_kept_out(
    authority: Authority,
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    eventually: Callable[..., Any],
) -> None:
    certificate, key = authority.pair("node")
    node = listen(tls_cert=certificate, tls_key=key, tls_ca=authority.ca)
    stranger = Authority(tmp_path / "stranger")
    for tls in (client(authority), client(authority, stranger), None):
        seen = caplog.text.count("TLS failed")
        assert not scanner(node.port, tls=tls).associate().is_established
        eventually(lambda seen=seen: caplog.text.count("TLS failed") > seen)
    association = scanner(node.port, tls=client(authority, authority)).associate()
    assert association.send_c_echo().Status == 0
    association.release()


def test_without_authorities_a_client_needs_no_certificate(
    authority: Authority, listen: Callable[..., Any], scanner: Callable[..., Any]
) -> None:
    certificate, key = authority.pair("node")
    association = scanner(listen(tls_cert=certificate, tls_key=key).port, tls=client(authority)).associate()
    assert association.send_c_echo().Status == 0
    association.release()


def test_a_silent_client_keeps_nobody_waiting(
    authority: Authority, listen: Callable[..., Any], scanner: Callable[..., Any]
) -> None:
    certificate, key = authority.pair("node")
    node = listen(tls_cert=certificate, tls_key=key)
    with socket.create_connection(("127.0.0.1", node.port)):
        association = scanner(node.port, tls=client(authority)).associate()
        assert association.send_c_echo().Status == 0
        association.release()


def test_results_go_to_no_peer_of_another_authority(
    authority: Authority,
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*Authority(tmp_path / "stranger").pair("pacs"))
    peer = pacs(ssl_context=context)
    node = listen(send_to=peer.port, send_tls=True, tls_ca=authority.ca)
    node.send(study())
    eventually(lambda: "cannot be reached" in caplog.text)
    assert "certificate verify failed" in caplog.text
    assert not peer.received


def test_a_peer_whose_certificate_is_wrong_is_told_of_in_lines(
    authority: Authority,
    start_verb: Callable[..., Any],
    scanner: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    eventually: Callable[..., Any],
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.pair("pacs"))
    peer = f"PACS@127.0.0.1:{pacs(ssl_context=context).port}"
    node = start_verb("--quiet-seconds", "0.5", "--send-to", peer, "--send-tls")
    scanner(node.port).send(study())
    eventually(lambda: "cannot be reached" in node.text)
    assert node.text.count("certificate verify failed") == 1
    assert "Traceback" not in node.text
