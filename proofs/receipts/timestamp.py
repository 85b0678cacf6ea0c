"""When something was signed at the latest, as a timestamping authority says (RFC 3161)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, Hash, HashAlgorithm
from rfc3161_client import (
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)
from rfc3161_client.base import HashAlgorithm as Rfc3161Hash

from zkapex.errors import InputError, TimestampError

MAX_STAMP_BYTES = 2**20
_TIMEOUT_S = 30
_HASHES: dict[str, type[HashAlgorithm]] = {
    "2.16.840.1.101.3.4.2.1": SHA256,
    "2.16.840.1.101.3.4.2.2": SHA384,
    "2.16.840.1.101.3.4.2.3": SHA512,
}


@dataclass(frozen=True)
class Authorities:
    """Root certificates of timestamping authorities somebody trusts."""

    roots: tuple[x509.Certificate, ...]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Authorities:
        """Read certificates in PEM, one or more in a file.

        Raises
        ------
        InputError
            A file is missing or holds no certificate.
        """
        found: list[x509.Certificate] = []
        for path in paths:
            try:
                found += x509.load_pem_x509_certificates(path.read_bytes())
            except (OSError, ValueError) as error:
                raise InputError(f"{path} holds no certificate of a timestamping authority", why=str(error)) from error
        return cls(tuple(found))

    def check(self, stamp: bytes, payload: bytes) -> datetime:
        """The time at which an authority has stamped a payload, UTC.

        Parameters
        ----------
        stamp : bytes
            The authority's response (``TimeStampResp``, DER).
        payload : bytes
            What was signed, without its envelope.

        Raises
        ------
        TimestampError
            The stamp is malformed, of something else, or not by one of these authorities.
        """
        response = check_imprint(stamp, payload)
        when = response.tst_info.gen_time
        reasons = []
        for root in self.roots:
            builder = VerifierBuilder().add_root_certificate(root)
            try:
                builder.build().verify_message(response, payload)
                return when
            except (VerificationError, ValueError) as error:
                reasons.append(str(error))
        raise TimestampError(
            "receipt.tsr is not by a timestamping authority that is trusted",
            why="; ".join(reasons) or "none is named",
            fix="name the authority's root certificate with --tsa",
        )


def check_imprint(stamp: bytes, payload: bytes) -> TimeStampResponse:
    """Check that a stamp is one of this payload, whoever made it.

    Raises
    ------
    TimestampError
        It is malformed, or of something else.
    """
    try:
        if len(stamp) > MAX_STAMP_BYTES:
            raise ValueError("it is too large")
        response = decode_timestamp_response(stamp)
        imprint = response.tst_info.message_imprint
        algorithm = _HASHES[imprint.hash_algorithm.dotted_string]
    except (ValueError, KeyError, TypeError) as error:
        raise TimestampError("receipt.tsr is not a timestamp", why=str(error)) from error
    digest = Hash(algorithm())
    digest.update(payload)
    if digest.finalize() != imprint.message:
        raise TimestampError("receipt.tsr is a timestamp of something else")
    return response


def request_stamp(payload: bytes, url: str) -> bytes:
    """Have an authority stamp a payload; its response, which `Authorities.check` reads.

    Raises
    ------
    InputError
        `url` is no http(s) address.
    TimestampError
        The authority did not stamp it.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url} is no address of a timestamping authority", fix="it begins with https:// or http://")
    asked = TimestampRequestBuilder().data(payload).hash_algorithm(Rfc3161Hash.SHA256).nonce(nonce=True)
    asked = asked.cert_request(cert_request=True)
    body = asked.build().as_bytes()
    import urllib.request  # a tenth of a CPU second, which verifying does without

    request = urllib.request.Request(  # noqa: S310 (scheme checked above)
        url, body, {"Content-Type": "application/timestamp-query"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310
            stamp = bytes(reply.read(MAX_STAMP_BYTES + 1))
        decode_timestamp_response(stamp)
    except (OSError, ValueError) as error:
        raise TimestampError(f"the authority {url} did not stamp it", why=str(error)) from error
    return stamp
