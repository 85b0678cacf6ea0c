"""Records: one encoding each, strict bounds, versions told apart from damage."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import BLOCK_FISHER, DAMPENING, MASK_ONLY, NOW, Party, Provider, make_manifest
from pydantic import ValidationError

from zkapex.errors import FormatVersionError, ProtocolError
from zkapex.proofs.messages import (
    Audit,
    ChunkCommitment,
    ChunkProof,
    Claims,
    EnrolRequest,
    EvaluateReply,
    GuardBlock,
    LayerSpec,
    ModelManifest,
    PersonaliseRequest,
    Proposal,
    ProposeRequest,
    ProveRequest,
    ProveResponse,
    Score,
    UnlearnRequest,
)
from zkapex.proofs.records.record import Record, encode_parts

PARTY, PROVIDER = Party("a"), Provider()
ENROLMENT = PARTY.enrol().record
REQUEST = PROVIDER.ask(PARTY).record
RESPONSE = PARTY.respond(REQUEST).record
RECORDS: list[Record] = [
    make_manifest(),
    PersonaliseRequest(
        federation="f",
        epochs=3,
        learning_rate=1e-05,
        seed=7,
        weights_digest="00" * 32,
        nonce="00" * 32,
        server_key="00" * 32,
    ),
    EnrolRequest(federation="f", manifest=make_manifest(), nonce="00" * 32, server_key="00" * 32),
    ENROLMENT,
    REQUEST,
    PROVIDER.ask(PARTY, sample=2).record,
    RESPONSE,
    ProveRequest(request_id="r1", client_id=PARTY.client_id, chunks=(3, 1)),
    ProveResponse(
        request_id="r1",
        client_id=PARTY.client_id,
        proofs=(ChunkProof(chunk=1, proof=b"\x00\xff", prove_cpu_s=1.5, peak_rss_mb=800.0),),
    ),
    ProposeRequest(
        request_id="r1",
        client_id=PARTY.client_id,
        manifest_digest="00" * 32,
        weights_digest="00" * 32,
        scorers=("aware", "taylor"),
        fractions=(0.001, 0.01),
        concentration=0.0,
        forget_target=0.93,
        margin=0.0,
        retain_cost=0.05,
        nonce="00" * 32,
    ),
    Proposal(
        request_id="r1",
        client_id=PARTY.client_id,
        manifest_digest="00" * 32,
        nonce="00" * 32,
        mask=REQUEST.mask,
        guards=REQUEST.guards,
        claims=Claims(
            scorer="aware",
            fraction=0.01,
            forget=0.9,
            forget_raised=0.92,
            retain=0.95,
            personal=0.8,
            retain_loss=-0.01,
            personal_loss=0.02,
            reaches_target=True,
            within_cost=True,
        ),
    ),
    EvaluateReply(
        client_id=PARTY.client_id,
        request_id="r1",
        scores=(Score(model="before", data="personal", correct=3, total=4),),
    ),
]
by_kind = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.kind)


@by_kind
def test_round_trip(record: Record) -> None:
    again = type(record).from_bytes(record.to_bytes())
    assert again == record
    assert again.digest() == record.digest()


def test_kinds_and_digests_differ() -> None:
    assert len({record.digest() for record in RECORDS}) == len(RECORDS)
    assert len({record.payload_type() for record in RECORDS}) == len({type(record) for record in RECORDS})


@by_kind
def test_only_the_one_encoding_is_accepted(record: Record) -> None:
    data = record.to_bytes()
    repeated = data[:-1] + b',"format":' + json.dumps(json.loads(data)["format"]).encode() + b"}"
    reordered = json.dumps(dict(reversed(json.loads(data).items())), separators=(",", ":"), ensure_ascii=False).encode()
    for other in (
        data + b"\n",
        b" " + data,
        repeated,
        reordered,
        json.dumps(json.loads(data)).encode(),
        b"\xef\xbb\xbf" + data,
    ):
        with pytest.raises(ProtocolError):
            type(record).from_bytes(other)


@by_kind
def test_unknown_fields_missing_fields_and_other_kinds_are_refused(record: Record) -> None:
    document = json.loads(record.to_bytes())
    for key in document.keys() - {"enrolment_digest"}:  # which came later, and may be absent
        rest = {k: v for k, v in document.items() if k != key}
        with pytest.raises(ProtocolError):
            type(record).from_bytes(_encode(rest))
    with pytest.raises(ProtocolError, match="malformed"):
        type(record).from_bytes(_encode(document | {"extra": 1}))
    with pytest.raises(ProtocolError):
        type(record).from_bytes(_encode(document | {"format": "zkapex.nothing.v1"}))


@by_kind
def test_an_unknown_version_is_named_as_such(record: Record) -> None:
    document = json.loads(record.to_bytes())
    document["format"] = document["format"][:-1] + "2"
    with pytest.raises(FormatVersionError, match="v2"):
        type(record).from_bytes(_encode(document | {"new_field": 1}))


@settings(max_examples=300)
@given(
    st.binary(max_size=64)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_garbage_raises_only_our_errors(data: bytes) -> None:
    for kind in (ModelManifest, UnlearnRequest):
        with pytest.raises(ProtocolError):
            kind.from_bytes(data)


@settings(max_examples=300)
@given(st.data())
def test_no_flipped_bit_goes_unnoticed(data: st.DataObject) -> None:
    """A changed record either fails to parse or is another record with another digest."""
    record = data.draw(st.sampled_from(RECORDS))
    raw = bytearray(record.to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = type(record).from_bytes(bytes(raw))
    except (ProtocolError, FormatVersionError):
        return
    assert other != record
    assert other.digest() != record.digest()


def test_too_large_a_record_is_refused_unparsed() -> None:
    with pytest.raises(ProtocolError, match="too large"):
        ModelManifest.from_bytes(b" " * (ModelManifest.max_bytes + 1))


def test_times_are_utc_and_exact() -> None:
    assert UnlearnRequest.from_bytes(REQUEST.to_bytes()).issued_at == NOW
    for bad in (datetime(2026, 1, 1), NOW.astimezone(timezone(timedelta(hours=1)))):
        with pytest.raises(ValidationError):
            UnlearnRequest(**dict(REQUEST) | {"issued_at": bad})


BAD_FIELDS = [
    (ENROLMENT, "client_id", "AB" * 32),
    (ENROLMENT, "theta", ("00" * 63,)),
    (ENROLMENT, "theta", ("AA" * 64,)),
    (ENROLMENT, "theta", ()),
    (ENROLMENT, "revision", -1),
    (ENROLMENT, "revision", True),
    (ENROLMENT, "damping", float("nan")),
    (ENROLMENT, "damping", -0.1),
    (REQUEST, "request_id", "../x"),
    (REQUEST, "request_id", "r1\n"),
    (REQUEST, "operator", ""),
    (REQUEST, "tau_s", -1),
    (REQUEST, "tau_s", 2**63),
    (REQUEST, "mask", REQUEST.mask + REQUEST.mask[:1]),
    (REQUEST, "guards", REQUEST.guards + REQUEST.guards[:1]),
    (REQUEST, "expires_at", NOW),
    (RESPONSE, "commitments", RESPONSE.commitments[::-1]),
    (RESPONSE, "commitments", RESPONSE.commitments[:1] * 2),
    (RECORDS[7], "chunks", (1, 1)),
    (RECORDS[7], "chunks", tuple(range(65))),
    (RECORDS[9], "scores", ()),
]


@pytest.mark.parametrize(
    ("record", "field", "value"), BAD_FIELDS, ids=lambda v: v if isinstance(v, str) and len(v) < 20 else ""
)
def test_bounds(record: Record, field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        type(record)(**dict(record) | {field: value})


def test_a_request_has_a_mask_or_guards() -> None:
    for field in ("mask", "guards"):
        UnlearnRequest(**dict(REQUEST) | {field: ()})
    with pytest.raises(ValidationError, match="a mask or guards"):
        UnlearnRequest(**dict(REQUEST) | {"mask": (), "guards": ()})


def test_parts_check_themselves() -> None:
    with pytest.raises(ValidationError, match="more examples"):
        Score(model="after", data="forget", correct=2, total=1)
    with pytest.raises(ValidationError, match="int16"):
        GuardBlock(layer="l", block=0, width=4, rank=2, values=b"\0" * 15)
    whole = {"mode": "sampled", "count": 3, "seed_commitment": "00" * 32, "cheating": 0.1, "detection": 0.5}
    assert Audit(**whole).count == 3
    without = [{name: value for name, value in whole.items() if name != left} for left in whole]
    for wrong in (*without, {"mode": "sampled"}, {"mode": "full", "count": 3}):
        with pytest.raises(ValidationError, match="sampled"):
            Audit(**wrong)
    with pytest.raises(ValidationError):
        ChunkCommitment(chunk=-1, theta="00" * 64)


def test_manifest_counts_chunks_and_curvature_factors() -> None:
    manifest = make_manifest()
    assert (manifest.n_chunks, manifest.n_curvatures) == (2 * 2 + 2 * 3, 2 + 2)
    assert make_manifest(statement=BLOCK_FISHER).n_curvatures == 10
    assert make_manifest(statement=DAMPENING).n_curvatures == make_manifest(statement=MASK_ONLY).n_curvatures == 0
    with pytest.raises(ValidationError, match="repeat"):
        make_manifest(layers=manifest.layers[:1] * 2)
    with pytest.raises(ValidationError, match="at most"):
        make_manifest(layers=(LayerSpec(name="big", rows=2**20, cols=2**20, exponent=0),))


def test_records_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ENROLMENT.revision = 3  # type: ignore[misc]


@given(
    st.lists(st.binary(max_size=4) | st.text(max_size=4) | st.integers(0, 300), max_size=4),
    st.lists(st.binary(max_size=4) | st.text(max_size=4) | st.integers(0, 300), max_size=4),
)
def test_encoding_of_parts_is_injective(left: list[bytes | str | int], right: list[bytes | str | int]) -> None:
    same = [(type(v), v) for v in left] == [(type(v), v) for v in right]
    assert (encode_parts("d", *left) == encode_parts("d", *right)) == same
    assert encode_parts("d", *left) != encode_parts("e", *right)


def _encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
