"""Keys on disk and DSSE envelopes: whatever is changed, verification raises."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import Party, Provider

from zkapex.errors import Error, InputError, ProtocolError, SignatureError, StorageError
from zkapex.proofs.messages import Enrolment, UnlearnRequest
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.sealed import restore, seal, unseal, unseal_enrolment
from zkapex.proofs.records.signing import (
    MAX_ENVELOPE_BYTES,
    Envelope,
    create_private_key,
    key_id,
    load_or_create_private_key,
    load_private_key,
    load_public_key,
    pre_authentication_encoding,
    public_key_from_hex,
    public_key_hex,
    save_public_key,
    sign,
    verify,
)

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()
TYPE = "application/vnd.test+json"
ENVELOPE = sign(b'{"a":1}', TYPE, KEY)


def test_pre_authentication_encoding_is_the_published_one() -> None:
    """The example of the DSSE protocol document."""
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@given(st.binary(max_size=200))
def test_what_is_signed_comes_back(payload: bytes) -> None:
    envelope = Envelope.from_bytes(sign(payload, TYPE, KEY).to_bytes())
    assert verify(envelope, TYPE, [OTHER.public_key(), PUBLIC]) == payload


def test_every_changed_byte_is_noticed() -> None:
    data = ENVELOPE.to_bytes()
    for position in range(len(data)):
        for change in (1, 2, 32, 128):
            altered = bytearray(data)
            altered[position] ^= change
            with pytest.raises(SignatureError):
                verify(Envelope.from_bytes(bytes(altered)), TYPE, [PUBLIC])


@settings(max_examples=300)
@given(st.data())
def test_inserted_and_deleted_bytes_are_noticed(data: st.DataObject) -> None:
    raw = ENVELOPE.to_bytes()
    at = data.draw(st.integers(0, len(raw)))
    insert = data.draw(st.binary(max_size=3))
    end = data.draw(st.integers(at, min(at + 3, len(raw))))
    altered = raw[:at] + insert + raw[end:]
    if altered != raw:
        with pytest.raises(SignatureError):
            verify(Envelope.from_bytes(altered), TYPE, [PUBLIC])


def test_untrusted_wrong_and_missing_signatures_are_refused() -> None:
    with pytest.raises(SignatureError, match="not by a trusted key"):
        verify(ENVELOPE, TYPE, [OTHER.public_key()])
    with pytest.raises(SignatureError, match="not by a trusted key"):
        verify(ENVELOPE, TYPE, [])
    with pytest.raises(SignatureError, match="was expected"):
        verify(ENVELOPE, "application/other", [PUBLIC])
    with pytest.raises(SignatureError, match="not signed"):
        verify(Envelope(TYPE, b"", ()), TYPE, [PUBLIC])
    forged = Envelope(TYPE, b'{"a":2}', ENVELOPE.signatures)
    with pytest.raises(SignatureError, match="wrong"):
        verify(forged, TYPE, [PUBLIC])


def test_a_second_signature_must_be_trusted_too() -> None:
    both = Envelope(TYPE, ENVELOPE.payload, ENVELOPE.signatures + sign(ENVELOPE.payload, TYPE, OTHER).signatures)
    both = Envelope.from_bytes(both.to_bytes())
    assert verify(both, TYPE, [PUBLIC, OTHER.public_key()]) == ENVELOPE.payload
    with pytest.raises(SignatureError):
        verify(both, TYPE, [PUBLIC])


def envelope_with(**changes: object) -> bytes:
    document = json.loads(ENVELOPE.to_bytes())
    return json.dumps(document | changes, separators=(",", ":")).encode() + b"\n"


SIGNATURES = json.loads(ENVELOPE.to_bytes())["signatures"]
MALFORMED = {
    "empty": b"",
    "no JSON": b"not json\n",
    "no object": b"[]\n",
    "deep": b"[" * 100_000,
    "no UTF-8": b"\xff\n",
    "unknown field": envelope_with(extra=1),
    "repeated field": ENVELOPE.to_bytes()[:-2] + b',"payloadType":"x"}\n',
    "no newline": ENVELOPE.to_bytes()[:-1],
    "spaces": json.dumps(json.loads(ENVELOPE.to_bytes())).encode() + b"\n",
    "payload no string": envelope_with(payload=3),
    "payload no base64": envelope_with(payload="e30"),
    "payload url-safe": envelope_with(payload=base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode()),
    "padding bits": envelope_with(payload="e31="),
    "payload type no string": envelope_with(payloadType=None),
    "payload type odd": envelope_with(payloadType="a b"),
    "no signatures": envelope_with(signatures=[]),
    "many signatures": envelope_with(signatures=[s | {"keyid": f"{i:064x}"} for i in range(9) for s in SIGNATURES]),
    "repeated signature": envelope_with(signatures=SIGNATURES * 2),
    "key id odd": envelope_with(signatures=[SIGNATURES[0] | {"keyid": "AB" * 32}]),
    "key id no string": envelope_with(signatures=[SIGNATURES[0] | {"keyid": ["x"]}]),
    "signature field": envelope_with(signatures=[SIGNATURES[0] | {"extra": 1}]),
    "signatures no list": envelope_with(signatures={"keyid": "x"}),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_envelopes_are_refused(data: bytes) -> None:
    with pytest.raises(SignatureError):
        Envelope.from_bytes(data)


def test_too_large_an_envelope_is_refused() -> None:
    with pytest.raises(SignatureError, match="too large"):
        Envelope.from_bytes(b" " * (MAX_ENVELOPE_BYTES + 1))


def test_signature_of_the_wrong_length_is_wrong() -> None:
    short = envelope_with(signatures=[SIGNATURES[0] | {"sig": "AAAA"}])
    with pytest.raises(SignatureError, match="wrong"):
        verify(Envelope.from_bytes(short), TYPE, [PUBLIC])


def test_private_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "server.pem"
    key = create_private_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_private_key(path).private_bytes_raw() == key.private_bytes_raw()
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(InputError, match="exists already"):
        create_private_key(path)
    assert load_or_create_private_key(path).private_bytes_raw() == key.private_bytes_raw()
    path.chmod(0o640)
    with pytest.raises(InputError, match="read by others"):
        load_private_key(path)


def test_a_key_is_made_when_there_is_none(tmp_path: Path) -> None:
    key = load_or_create_private_key(tmp_path / "new.pem")
    assert load_private_key(tmp_path / "new.pem").private_bytes_raw() == key.private_bytes_raw()


def test_public_keys_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "server.pub"
    save_public_key(PUBLIC, path)
    save_public_key(PUBLIC, path)
    assert key_id(load_public_key(path)) == key_id(PUBLIC) == sha256_hex(PUBLIC.public_bytes_raw())
    with pytest.raises(InputError, match="exists already"):
        save_public_key(OTHER.public_key(), path)
    assert public_key_from_hex(public_key_hex(PUBLIC)).public_bytes_raw() == PUBLIC.public_bytes_raw()
    for bad in ("", "zz" * 32, "00" * 31):
        with pytest.raises(SignatureError, match="malformed"):
            public_key_from_hex(bad)


def test_other_files_are_no_keys(tmp_path: Path) -> None:
    elliptic = generate_private_key(SECP256R1())
    files = {
        "garbage": b"garbage",
        "empty": b"",
        "private": elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "public": elliptic.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
        for load in (load_private_key, load_public_key):
            with pytest.raises(InputError):
                load(tmp_path / name)
    for missing in (tmp_path / "missing", tmp_path, tmp_path / "empty" / "below"):
        with pytest.raises(InputError):
            load_private_key(missing)


def test_a_folder_that_cannot_be_written_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="could not be written"):
        create_private_key(Path("/proc/no-such-folder/key.pem"))


def test_sealed_records_come_back_verified() -> None:
    provider, party = Provider(), Party("a")
    sealed = provider.ask(party)
    assert unseal(UnlearnRequest, sealed.envelope, [provider.key.public_key()]) == sealed
    assert restore(UnlearnRequest, sealed.envelope) == sealed
    assert sealed.digest == sha256_hex(sealed.envelope)
    with pytest.raises(SignatureError):
        unseal(UnlearnRequest, sealed.envelope, [party.key.public_key()])
    with pytest.raises(SignatureError, match="was expected"):
        unseal(Enrolment, sealed.envelope, [provider.key.public_key()])


def test_a_signed_record_must_still_be_a_record() -> None:
    envelope = sign(b"{}", UnlearnRequest.payload_type(), KEY).to_bytes()
    with pytest.raises(ProtocolError):
        unseal(UnlearnRequest, envelope, [PUBLIC])


def test_enrolments_prove_possession_of_the_key_they_name() -> None:
    honest, thief = Party("a"), Party("b")
    sealed = honest.enrol()
    assert unseal_enrolment(sealed.envelope) == sealed
    stolen = [
        seal(sealed.record, thief.key).envelope,  # somebody else's enrolment under one's own signature
        thief.enrol(client_id=honest.client_id).envelope,  # somebody else's id with one's own key
        thief.enrol(public_key="ff" * 32).envelope,
        Provider().ask(honest).envelope,
    ]
    for envelope in stolen:
        with pytest.raises(SignatureError):
            unseal_enrolment(envelope)


def test_errors_explain_themselves() -> None:
    with pytest.raises(Error) as caught:
        verify(ENVELOPE, TYPE, [])
    assert "--trust" in caught.value.explain()


@pytest.mark.parametrize("y", [0, 1, -1, "order 8", "minus order 8"])
@pytest.mark.parametrize("sign_bit", [0, 1 << 255])
def test_keys_of_small_order_are_refused(y: int | str, sign_bit: int) -> None:
    """Under the identity as key one constant signature is valid for every message."""
    prime = 2**255 - 19
    eighth = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
    value = {"order 8": eighth, "minus order 8": prime - eighth}.get(str(y), y)
    raw = (int(value) % prime | sign_bit).to_bytes(32, "little")
    with pytest.raises(SignatureError, match="anybody"):
        public_key_from_hex(raw.hex())
