"""RFC 3161: what an authority of OpenSSL's has stamped, and what it has not."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from authority import Authority

from zkapex.errors import InputError, TimestampError
from zkapex.proofs.receipts.timestamp import Authorities, request_stamp

PAYLOAD = b"what was signed"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa"))


def test_a_stamp_over_the_wire_is_what_openssl_accepts(authority: Authority, tmp_path: Path) -> None:
    with authority.serving() as url:
        stamp = request_stamp(PAYLOAD, url)
    when = Authorities.read([authority.root]).check(stamp, PAYLOAD)
    assert abs((datetime.now(UTC) - when).total_seconds()) < 300
    (tmp_path / "stamp.tsr").write_bytes(stamp)
    (tmp_path / "payload").write_bytes(PAYLOAD)
    command = ["openssl", "ts", "-verify", "-data", "payload", "-in", "stamp.tsr", "-CAfile", str(authority.root)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "Verification: OK" in done.stdout + done.stderr


def test_stamps_that_are_refused(authority: Authority, tmp_path: Path) -> None:
    stamp = authority.stamp_data(PAYLOAD)
    trusted = Authorities.read([authority.root])
    trusted.check(stamp, PAYLOAD)
    with pytest.raises(TimestampError, match="something else"):
        trusted.check(stamp, b"another payload")
    with pytest.raises(TimestampError, match="not by a timestamping authority"):
        Authorities.read([Authority(tmp_path / "other").root]).check(stamp, PAYLOAD)
    for junk in (b"", b"junk", stamp[:-20], stamp[:200]):
        with pytest.raises(TimestampError):
            trusted.check(junk, PAYLOAD)
    for position in range(0, len(stamp), 97):
        altered = bytearray(stamp)
        altered[position] ^= 1
        try:
            assert trusted.check(bytes(altered), PAYLOAD) == trusted.check(stamp, PAYLOAD)  # outside what is signed
        except TimestampError:
            continue


def test_authorities_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    for path in (tmp_path / "junk", tmp_path / "missing"):
        with pytest.raises(InputError):
            Authorities.read([path])
    with pytest.raises(InputError):
        request_stamp(PAYLOAD, "file:///etc/passwd")
    with pytest.raises(TimestampError):
        request_stamp(PAYLOAD, "http://127.0.0.1:9")
