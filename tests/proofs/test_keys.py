"""Keysets: rotation, revocation, expiry, and by when something was signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import zkapex
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zkapex.errors import FormatVersionError, InputError, SignatureError
from zkapex.proofs.keys.keyset import entry_of, make_keyset, open_keyset, revoke
from zkapex.proofs.keys.trust import Trust, TrustedKey
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.intoto import PAYLOAD_TYPE
from zkapex.proofs.records.signing import create_private_key, key_id, load_private_key, sign

ROOT, OLD, NEW = (Ed25519PrivateKey.generate() for _ in range(3))
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_keyset_is_its_roots() -> None:
    data = make_keyset("example", 3, [entry_of(OLD.public_key(), START)], ROOT, START)
    found = open_keyset(data, [ROOT.public_key()])
    assert (found.owner, found.sequence, found.keys[0].key_id) == ("example", 3, key_id(OLD.public_key()))
    with pytest.raises(SignatureError):
        open_keyset(data, [OLD.public_key()])
    later = sign(peek(data).replace(b"keyset/v1", b"keyset/v2"), PAYLOAD_TYPE, ROOT).to_bytes()
    with pytest.raises(FormatVersionError):
        open_keyset(later, [ROOT.public_key()])
    other = sign(peek(data).replace(b'"sequence":3', b'"sequence":-3'), PAYLOAD_TYPE, ROOT).to_bytes()
    with pytest.raises(SignatureError):
        open_keyset(other, [ROOT.public_key()])
    with pytest.raises(InputError):
        make_keyset("example", 0, [entry_of(OLD.public_key(), START)] * 2, ROOT, START)
    with pytest.raises(InputError):
        entry_of(OLD.public_key(), START, START)


@pytest.mark.parametrize(
    ("signed", "known", "now", "accepted"),
    [
        (5, None, 6, True),
        (-1, None, 6, False),  # before it was valid
        (5, -1, 6, False),  # known to be older than the key: the clock of one of them is wrong
        (5, None, 20, False),  # expired, and nothing shows when it signed
        (5, 6, 20, True),  # expired, and shown to have signed before
        (5, 12, 20, False),  # shown to exist only afterwards: may be back-dated
        (11, 6, 20, False),  # signed, as it says itself, after it expired
    ],
)
def test_when_a_signature_counts(signed: int, known: int | None, now: int, accepted: bool) -> None:
    expired = entry_of(OLD.public_key(), START, START + 10 * DAY)
    revoked = revoke(
        _keyset(entry_of(OLD.public_key(), START)), key_id(OLD.public_key()), START + 10 * DAY, "compromised"
    )
    for entry in (expired, revoked[0]):
        key = TrustedKey(OLD.public_key(), entry)
        times = (START + signed * DAY, None if known is None else START + known * DAY, START + now * DAY)
        if accepted:
            key.check(*times)
        else:
            with pytest.raises(SignatureError):
                key.check(*times)


def _keyset(*entries):  # type: ignore[no-untyped-def]
    return open_keyset(make_keyset("example", 0, entries, ROOT, START), [ROOT.public_key()])


def test_rotation_with_overlap() -> None:
    entries = [entry_of(OLD.public_key(), START, START + 10 * DAY), entry_of(NEW.public_key(), START + 8 * DAY)]
    trust = Trust.from_keyset(make_keyset("example", 1, entries, ROOT, START), [ROOT.public_key()])
    for key in (OLD, NEW):
        trust.find(key_id(key.public_key())).check(START + 9 * DAY, None, START + 9 * DAY)
    with pytest.raises(SignatureError, match="not trusted"):
        trust.find("ab" * 32)


def test_what_cannot_be_revoked() -> None:
    keyset = _keyset(entry_of(OLD.public_key(), START), entry_of(NEW.public_key(), START))
    for name in ("ab", "00" * 32, ""):
        with pytest.raises(InputError):
            revoke(keyset, name, START, "ceased")


def test_an_encrypted_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.pem"
    key = create_private_key(path, b"secret")
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_private_key(path, b"secret").private_bytes_raw() == key.private_bytes_raw()
    with pytest.raises(InputError, match="encrypted"):
        load_private_key(path)
    with pytest.raises(InputError, match="passphrase"):
        load_private_key(path, b"wrong")
    monkeypatch.setenv("ZKAPEX_KEY_PASSPHRASE", "secret")
    assert load_private_key(path).private_bytes_raw() == key.private_bytes_raw()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKAPEX_KEY_PASSPHRASE", "secret")
    root, key, keyset = tmp_path / "root.pem", tmp_path / "key.pem", tmp_path / "keyset.json"
    assert zkapex("keys", "create", root, "--encrypt")[0] == 0
    name = zkapex("keys", "create", key)[1].strip()
    assert zkapex("keys", "create", key)[0] == 10, "nothing is replaced"
    options = ("--root", root, "--key", tmp_path / "key.pub", "--owner", "example", "--valid-from", "2026-01-01")
    assert zkapex("keys", "add", keyset, *options)[0] == 0
    revoked = zkapex("keys", "revoke", keyset, "--root", root, "--key", name[:16], "--reason", "superseded")
    assert revoked[0] == 0, revoked
    code, out, _ = zkapex("keys", "show", keyset, "--root", tmp_path / "root.pub")
    assert code == 0
    assert f"{name}  from 2026-01-01, revoked" in out
    assert zkapex("keys", "show", keyset, "--root", tmp_path / "key.pub")[0] == 21
