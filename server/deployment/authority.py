"""A certificate authority for one server, and the server's certificate: ECDSA on P-384, as Flower's clients accept."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from zkapex.errors import InputError

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 397
_EARLY: Final = timedelta(hours=1)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key from PEM.

    Raises
    ------
    InputError
        It is none, or not on an elliptic curve.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise InputError("a private key cannot be read", why=str(error)[:200]) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError("a private key is not on an elliptic curve")
    return key


def read_certificate(pem: bytes) -> x509.Certificate:
    """A certificate from PEM.

    Raises
    ------
    InputError
        It is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise InputError("a certificate cannot be read", why=str(error)[:200]) from None


def new_authority(name: str, now: datetime | None = None) -> tuple[bytes, bytes]:
    """A new authority: its key and its certificate, PEM. It may sign certificates of servers and no other authority."""
    at = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"zkapex {name}"[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _EARLY)
        .not_valid_after(at + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return key_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def new_server_certificate(
    authority_key: bytes, authority: bytes, hosts: tuple[str, ...], now: datetime | None = None
) -> tuple[bytes, bytes]:
    """A new key and a certificate for a server under these names and addresses, PEM."""
    at = now or datetime.now(UTC)
    issuer, issuing = read_certificate(authority), read_key(authority_key)
    key = ec.generate_private_key(ec.SECP384R1())
    names = [_name(host) for host in dict.fromkeys(hosts)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _EARLY)
        .not_valid_after(min(at + timedelta(days=SERVER_DAYS), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.public_key()), critical=False)
        .sign(issuing, hashes.SHA384())
    )
    return key_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def check_certificate(certificate: bytes, key: bytes, host: str, now: datetime | None = None) -> None:
    """Return only if an operator's own certificate is for this key and host, and valid today.

    Raises
    ------
    InputError
        It is not.
    """
    found, at = read_certificate(certificate), now or datetime.now(UTC)
    if found.public_key() != read_key(key).public_key():
        raise InputError("the server's certificate is for another key")
    if not found.not_valid_before_utc <= at <= found.not_valid_after_utc:
        raise InputError(
            "the server's certificate is not valid today",
            why=f"it is valid from {found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}",
        )
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if _name(host) not in names:
        raise InputError(f"the server's certificate is not for {host}", why="it is not among its alternative names")


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
