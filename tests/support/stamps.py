"""A timestamping authority whose clock is the caller's (RFC 3161), so that stamps of any time can be made again.

Keys follow from names and signatures from keys: the same stamp comes out on every machine. OpenSSL and rfc3161-client,
which share no code with this, judge what it makes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_SHA256 = "2.16.840.1.101.3.4.2.1"
_ECDSA = "1.2.840.10045.4.3.2"
_SIGNED_DATA, _TST_INFO = "1.2.840.113549.1.7.2", "1.2.840.113549.1.9.16.1.4"
_CONTENT_TYPE, _MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.47"
_FROM, _UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    length = bytes([size]) if size < 128 else (n := size.to_bytes((size.bit_length() + 7) // 8, "big"))
    return bytes([tag]) + (length if size < 128 else bytes([128 + len(n)]) + n) + body


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    out = bytearray([40 * first + second])
    for number in rest:
        digits = [number & 127]
        while number := number >> 7:
            digits.append(number & 127 | 128)
        out += bytes(reversed(digits))
    return _der(0x06, bytes(out))


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _set(*parts: bytes) -> bytes:
    return _der(0x31, *sorted(parts))


@dataclass(frozen=True)
class Clockwork:
    """An authority of this name."""

    name: str

    def _key(self, role: str) -> ec.EllipticCurvePrivateKey:
        seed = hashlib.sha256(f"zkapex test authority {self.name} {role}".encode()).digest()
        return ec.derive_private_key(int.from_bytes(seed, "big") >> 1, ec.SECP256R1())

    def _subject(self, role: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.name} {role}")])

    def _certificate(self, role: str) -> x509.Certificate:
        root, extension = role == "root", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._subject(role))
            .issuer_name(self._subject("root"))
            .public_key(self._key(role).public_key())
            .serial_number(1 if root else 2)
            .not_valid_before(_FROM)
            .not_valid_after(_UNTIL)
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not root, key_cert_sign=root, crl_sign=root, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key(role).public_key()), critical=False)
        )
        if not root:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key("root").public_key())
            builder = builder.add_extension(extension, critical=True).add_extension(identifier, critical=False)
        return builder.sign(self._key("root"), SHA256(), ecdsa_deterministic=True)

    @cached_property
    def root(self) -> bytes:
        """The root certificate, PEM."""
        return self._certificate("root").public_bytes(Encoding.PEM)

    def stamp(self, payload: bytes, when: datetime) -> bytes:
        """The response to a request to stamp this, DER."""
        leaf, algorithm = self._certificate("signer"), _sequence(_oid(_SHA256), b"\x05\x00")
        imprint = _sequence(algorithm, _der(0x04, hashlib.sha256(payload).digest()))
        time = _der(0x18, when.strftime("%Y%m%d%H%M%SZ").encode())
        info = _sequence(_integer(1), _oid("1.2.3.4"), imprint, _integer(int(when.timestamp())), time)
        encoded = leaf.public_bytes(Encoding.DER)
        named = _sequence(_sequence(_sequence(_der(0x04, hashlib.sha256(encoded).digest()))))
        attributes = [
            _sequence(_oid(_CONTENT_TYPE), _set(_oid(_TST_INFO))),
            _sequence(_oid(_MESSAGE_DIGEST), _set(_der(0x04, hashlib.sha256(info).digest()))),
            _sequence(_oid(_SIGNING_CERTIFICATE), _set(named)),
        ]
        signature = self._key("signer").sign(_set(*attributes), ec.ECDSA(SHA256(), deterministic_signing=True))
        signer = _sequence(
            _integer(1),
            _sequence(leaf.issuer.public_bytes(), _integer(leaf.serial_number)),
            algorithm,
            _der(0xA0, *sorted(attributes)),
            _sequence(_oid(_ECDSA)),
            _der(0x04, signature),
        )
        content = _sequence(_oid(_TST_INFO), _der(0xA0, _der(0x04, info)))
        signed = _sequence(_integer(3), _set(algorithm), content, _der(0xA0, encoded), _set(signer))
        return _sequence(_sequence(_integer(0)), _sequence(_oid(_SIGNED_DATA), _der(0xA0, signed)))
