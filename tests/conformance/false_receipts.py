"""Receipts with something wrong around their proofs: circuit, commitments, records, signatures, files."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

from honest import sampled_scene
from plan import flip, honest_copy, rejected
from scene import Scene, payload
from world import FIRST, GUARDED, NOW, SECOND, WORLDS, private_key, respond

from zkapex.circuits.halo2.store import circuit
from zkapex.errors import (
    CommitmentError,
    FormatVersionError,
    InputError,
    NotProvedError,
    ReceiptError,
    SignatureError,
    VerificationError,
)
from zkapex.proofs.messages import Audit
from zkapex.proofs.receipts.v1 import StatementV1 as Statement
from zkapex.proofs.records.signing import Envelope, Signature, sign

# -- another circuit ---------------------------------------------------------------------------------------------------

FALSE_KEY = "the manifest's verification key is not the one its statement has"


@rejected("The key of a circuit that admits larger weights, under the name of ours.", ReceiptError, FALSE_KEY)
def key_of_another_circuit(folder: Path) -> None:
    larger = GUARDED.spec.model_copy(update={"weight_limit": 2030})
    other = circuit(larger, GUARDED.circuit.srs)
    Scene.base().change(verification_key=other.vk.read_bytes()).rooted(circuit_digest=other.vk_digest).write(folder)


@rejected(
    "Settings that claim another range of the lookup.",
    ReceiptError,
    "the manifest's settings is not the one its statement has",
)
def settings_of_another_circuit(folder: Path) -> None:
    settings = Scene.base().settings.replace(b"2020", b"2120")
    assert settings != Scene.base().settings
    scene = Scene.base().change(settings=settings)
    scene.rooted(settings_digest=hashlib.sha256(settings).hexdigest()).write(folder)


def _restated(folder: Path, **changes: int) -> None:
    """The base receipt with another statement in its manifest, and the distance that has."""
    scene = Scene.base().rooted(statement=GUARDED.spec.model_copy(update=changes))
    scene.amend("outcome", certified_distance=scene.distance()).write(folder)


@rejected("A statement that allows larger weights, with our keys.", ReceiptError, FALSE_KEY)
def statement_of_another_circuit(folder: Path) -> None:
    _restated(folder, weight_limit=2030)


@rejected(
    "A statement with a ridge of 1, which the keys do not depend on, and the proofs of the true one.",
    CommitmentError,
    "the proof does not commit to this request's mask, guard, tolerances and context",
)
def statement_with_a_lower_ridge(folder: Path) -> None:
    _restated(folder, ridge=1)


@rejected(
    "A statement that no circuit of its rows can hold.",
    ReceiptError,
    "the manifest's statement and reference string make no circuit",
)
def statement_that_makes_no_circuit(folder: Path) -> None:
    _restated(folder, inner_columns=1)


@rejected("A reference string of random bytes.", VerificationError, "is not a usable reference string")
def reference_string_of_noise(folder: Path) -> None:
    noise = hashlib.shake_256(b"no reference string").digest(4096)
    Scene.base().change(srs=noise).rooted(srs_digest=hashlib.sha256(noise).hexdigest()).write(folder)


@rejected(
    "A reference string that is neither included nor known.",
    InputError,
    "the receipt's reference string is not on this machine",
)
def reference_string_unknown(folder: Path) -> None:
    Scene.base().change(srs=None).rooted(srs_digest="12" * 32).write(folder)


@rejected("A bit of the verification key is flipped.", ReceiptError, "circuit/vk.bin was altered")
def key_altered(folder: Path) -> None:
    flip(honest_copy(folder) / "circuit" / "vk.bin", 100)


@rejected("The reference string is cut short.", ReceiptError, "circuit/srs.bin was altered")
def reference_string_altered(folder: Path) -> None:
    path = honest_copy(folder) / "circuit" / "srs.bin"
    path.write_bytes(path.read_bytes()[:1000])


# -- commitments -------------------------------------------------------------------------------------------------------


@rejected(
    "An enrolled commitment is no point on the curve.", CommitmentError, "a commitment is not a point on the curve"
)
def enrolled_commitment_off_the_curve(folder: Path) -> None:
    Scene.base().enrolled({FIRST: "11" * 64}, {}).write(folder)


@rejected("An announced commitment is (0, 0).", CommitmentError, "a commitment is not a point on the curve")
def announced_commitment_at_infinity(folder: Path) -> None:
    scene = Scene.base()
    scene.change(response=respond(scene.request, {FIRST: "00" * 64, SECOND: scene.enrolment.theta[3]})).write(folder)


@rejected("The enrolment lacks a curvature factor.", ReceiptError, "enrolment.json does not belong to this receipt")
def enrolled_factor_missing(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("enrolment", curvature=scene.enrolment.curvature[:-1]).write_unchecked(folder, scene)


@rejected("The enrolment lacks a chunk.", ReceiptError, "enrolment.json does not belong to this receipt")
def enrolled_chunk_missing(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("enrolment", theta=scene.enrolment.theta[:-1]).write_unchecked(folder, scene)


# -- the request -------------------------------------------------------------------------------------------------------

WRONG_REQUEST = "request.json is wrong: "


@rejected(
    "The factors of a dampening request, in a guarded one.",
    ReceiptError,
    WRONG_REQUEST + "a request carries dampening factors",
)
def factors_of_another_operator(folder: Path) -> None:
    scene = Scene.base()
    mask = tuple(m.model_copy(update={"factors": bytes(4)}) for m in scene.request.mask)
    scene.amend("request", mask=mask).write_unchecked(folder, scene)


@rejected("A dampening request without its factors.", ReceiptError, WRONG_REQUEST + "the mask of", "dampening")
def factors_missing(folder: Path) -> None:
    scene = Scene.base("dampening")
    mask = tuple(m.model_copy(update={"factors": b""}) for m in scene.request.mask)
    scene.amend("request", mask=mask).write_unchecked(folder, scene)


@rejected("A request for another operator than the circuit proves.", ReceiptError, WRONG_REQUEST + "a request asks for")
def operator_of_another_circuit(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("request", operator="mask-only").write_unchecked(folder, scene)


@rejected(
    "Proofs that masked weights are zero, for a request of the guarded repair.",
    ReceiptError,
    WRONG_REQUEST + "a request asks for",
    "mask_only",
)
def weaker_statement(folder: Path) -> None:
    scene = Scene.base("mask_only")
    scene.amend("request", operator="guarded-group-obs").write_unchecked(folder, scene)


@rejected(
    "A tolerance that no slack of the circuit covers.",
    ReceiptError,
    "request.json asks for less than its operator does",
)
def tolerance_beyond_the_circuit(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("request", tau_s=2**62).write_unchecked(folder, scene)


@rejected("A guard of more columns than the circuit has.", ReceiptError, WRONG_REQUEST + "the guard of block 0")
def guard_of_too_high_a_rank(folder: Path) -> None:
    scene = Scene.base()
    wide = scene.request.guards[0].model_copy(update={"rank": 5, "values": bytes(2 * 32 * 5)})
    scene.amend("request", guards=(wide,)).write_unchecked(folder, scene)


@rejected(
    "A guard that is not zero where the layer has no columns.",
    ReceiptError,
    WRONG_REQUEST + "the guard of block 1 of 'fc2' reaches beyond the layer's last column",
)
def guard_beyond_the_layer(folder: Path) -> None:
    scene = Scene.base()
    guard = scene.request.guards[1]
    long = guard.model_copy(update={"values": guard.values[:-2] + b"\1\0"})
    scene.amend("request", guards=(scene.request.guards[0], long)).write_unchecked(folder, scene)


@rejected(
    "Steering for one row fewer than a block masks.",
    ReceiptError,
    WRONG_REQUEST + "block 0 of 'fc1' has 2 rows of steering",
)
def steering_of_too_few_rows(folder: Path) -> None:
    scene = Scene.base()
    guard = scene.request.guards[0]
    short = guard.model_copy(update={"steering": bytes(2 * guard.rank * 2)})
    scene.amend("request", guards=(short, *scene.request.guards[1:])).write_unchecked(folder, scene)


@rejected("A guard entry larger than the statement allows.", ReceiptError, WRONG_REQUEST + "a guard entry exceeds")
def guard_entry_too_large(folder: Path) -> None:
    scene = Scene.base()
    steep = scene.request.guards[0].model_copy(update={"values": b"\xff\x7f" * 128})
    scene.amend("request", guards=(steep, *scene.request.guards[1:])).write(folder)


@rejected("A mask with a bit beyond the layer's end.", ReceiptError, WRONG_REQUEST + "the mask of 'fc2'")
def mask_longer_than_its_layer(folder: Path) -> None:
    scene = Scene.base()
    long = scene.request.mask[1].model_copy(update={"bits": scene.request.mask[1].bits + b"\x80"})
    scene.amend("request", mask=(scene.request.mask[0], long)).write_unchecked(folder, scene)


@rejected(
    "The request starts from other commitments than the client enrolled.",
    ReceiptError,
    "request.json does not belong to this receipt",
)
def chain_broken(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("request", pre_root="56" * 32).write_unchecked(folder, scene)


# -- the audit ---------------------------------------------------------------------------------------------------------

SEED_NOT = "the audit seed is not the one the server committed to in its request"


@rejected(
    "A tampered draw: the seed was exchanged after the client had answered, so that another chunk is drawn.",
    ReceiptError,
    SEED_NOT,
    "sampled",
)
def audit_seed_exchanged(folder: Path) -> None:
    scene = sampled_scene()
    scene.amend("outcome", audit_seed="77" * 32).write_unchecked(folder, scene)


@rejected(
    "A tampered draw: the chunk that was not drawn is proved instead of the one that was.",
    ReceiptError,
    "is wrong",
    "sampled",
)
def audit_of_the_chunk_not_drawn(folder: Path) -> None:
    scene = sampled_scene()
    others = {c: p for c, p in Scene.base().proofs.items() if c not in scene.proofs}
    scene.change(proofs=others).write_unchecked(folder, scene)


@rejected(
    "The drawn chunk is not proved.", ReceiptError, "the receipt says 'proved' without the evidence for it", "sampled"
)
def audit_without_a_proof(folder: Path) -> None:
    scene = sampled_scene()
    scene.change(proofs={}).amend("outcome", chunks_proved=0).write_unchecked(folder, scene)


@rejected(
    "An audit that states a higher probability of detection than it has.",
    ReceiptError,
    WRONG_REQUEST + "the audit states another probability of detection",
    "sampled",
)
def audit_detection_overstated(folder: Path) -> None:
    scene = sampled_scene()
    audit = scene.request.audit.model_copy(update={"detection": 0.99})
    scene.amend("request", audit=audit).write_unchecked(folder, scene)


@rejected("A sampled audit said to be a full one.", ReceiptError, "a full audit has no seed", "sampled")
def audit_called_full(folder: Path) -> None:
    scene = sampled_scene()
    scene.amend("request", audit=Audit()).write_unchecked(folder, scene)


@rejected("An audit of more chunks than were touched.", ReceiptError, WRONG_REQUEST + "an audit of 3 chunks", "sampled")
def audit_of_too_many(folder: Path) -> None:
    scene = sampled_scene()
    audit = scene.request.audit.model_copy(update={"count": 3})
    scene.amend("request", audit=audit).write_unchecked(folder, scene)


# -- what the receipt says ---------------------------------------------------------------------------------------------

OTHER_DISTANCE = "the receipt states another certified distance than its proofs have"


@rejected("A certified distance half the true one.", ReceiptError, OTHER_DISTANCE)
def distance_understated(folder: Path) -> None:
    scene = Scene.base()
    assert scene.outcome.certified_distance is not None
    half = scene.outcome.certified_distance / 2
    scene.amend("outcome", certified_distance=half).write_unchecked(folder, scene)


@rejected("No certified distance, though the statement has one.", ReceiptError, OTHER_DISTANCE)
def distance_left_out(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("outcome", certified_distance=None).write_unchecked(folder, scene)


@rejected(
    "A certified distance of zero for a statement that certifies none.", ReceiptError, OTHER_DISTANCE, "mask_only"
)
def distance_invented(folder: Path) -> None:
    scene = Scene.base("mask_only")
    scene.amend("outcome", certified_distance=0.0).write_unchecked(folder, scene)


@rejected(
    "The provider states another tolerance than it asked for.", ReceiptError, "the receipt contradicts its evidence"
)
def facts_altered(folder: Path) -> None:
    scene = Scene.base()
    said = _said(scene, folder)
    facts = said.predicate.facts.model_copy(update={"tau_s": said.predicate.facts.tau_s - 1})
    scene.write_unchecked(folder, scene, facts=facts)


@rejected("The receipt claims to show more than it does.", ReceiptError, "the receipt contradicts its evidence")
def shows_altered(folder: Path) -> None:
    scene = Scene.base()
    scene.write_unchecked(folder, scene, does_not_show=("Nothing is left open.",))


def _said(scene: Scene, folder: Path) -> Statement:
    scratch = folder.with_name(f"{folder.name}-honest")
    scene.write(scratch)
    return Statement.from_bytes(payload(scratch, "receipt.json"))


@rejected("Two chunks had to be proved; one proof is there.", ReceiptError, "without the evidence for it")
def proof_left_out(folder: Path) -> None:
    scene = Scene.base()
    fewer = scene.change(proofs={FIRST: scene.proofs[FIRST]})
    fewer.amend("outcome", chunks_proved=1).write_unchecked(folder, scene)


@rejected("Two proofs are counted, one is there.", ReceiptError, "the receipt counts 2 proofs, but comes with 1")
def proofs_miscounted(folder: Path) -> None:
    scene = Scene.base()
    scene.change(proofs={FIRST: scene.proofs[FIRST]}).write_unchecked(folder, scene)


@rejected("A proof of a chunk that nobody asked for.", ReceiptError, "proofs/1.bin is wrong")
def proof_not_asked_for(folder: Path) -> None:
    scene = Scene.base()
    scene.with_proof(1, scene.proofs[FIRST]).write_unchecked(folder, scene)


@rejected("The receipt was issued before the request was made.", ReceiptError, "issued before the request was made")
def issued_before_the_request(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("outcome", issued_at=NOW - timedelta(days=1)).write_unchecked(folder, scene)


@rejected("Genuine, but the client never answered.", NotProvedError, "did not prove the deletion")
def not_proved(folder: Path) -> None:
    changes = {"verdict": "unreachable", "reasons": ("it never answered",), "certified_distance": None}
    scene = Scene.base().change(response=None, proofs={})
    scene.amend("outcome", chunks_proved=0, **changes).write(folder)


# -- whose records they are --------------------------------------------------------------------------------------------

UNTRUSTED = "is not by a trusted key"


@rejected("All is well, but it is a stranger's.", SignatureError, UNTRUSTED)
def provider_unknown(folder: Path) -> None:
    Scene.base().change(signers={"receipt": "stranger", "request": "stranger"}).write(folder)


@rejected("The request is signed by a stranger.", SignatureError, "request.json: the signature by key")
def request_signed_by_another(folder: Path) -> None:
    scene = Scene.base()
    scene.change(signers={"request": "stranger"}).write_unchecked(folder, scene)


@rejected("The enrolment is signed by another client.", SignatureError, "enrolment.json: the signature by key")
def enrolment_signed_by_another(folder: Path) -> None:
    scene = Scene.base()
    scene.change(signers={"enrolment": "b"}).write_unchecked(folder, scene)


@rejected("The response is signed by another client.", SignatureError, "response.json: the signature by key")
def response_signed_by_another(folder: Path) -> None:
    scene = Scene.base()
    scene.change(signers={"response": "b"}).write_unchecked(folder, scene)


@rejected("The enrolment is another client's.", ReceiptError, "enrolment.json does not belong to this receipt")
def enrolment_of_another_client(folder: Path) -> None:
    scene = Scene.base()
    scene.change(enrolment=GUARDED.enrolment("b"), signers={"enrolment": "b"}).write_unchecked(folder, scene)


@rejected("The enrolment is for another manifest.", ReceiptError, "enrolment.json does not belong to this receipt")
def enrolment_of_another_model(folder: Path) -> None:
    scene = Scene.base()
    scene.change(enrolment=WORLDS["group_obs"].enrolment("a")).write_unchecked(folder, scene)


@rejected("The response answers another request.", ReceiptError, "response.json does not belong to this receipt")
def response_to_another_request(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("response", request_id="forget-another").write_unchecked(folder, scene)


@rejected("The response carries another nonce.", ReceiptError, "response.json does not belong to this receipt")
def response_of_another_nonce(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("response", nonce="9a" * 32).write_unchecked(folder, scene)


@rejected("The response's Merkle root is not that of its commitments.", ReceiptError, "response.json does not belong")
def response_root(folder: Path) -> None:
    scene = Scene.base()
    scene.amend("response", root="34" * 32).write_unchecked(folder, scene)


@rejected("The response answers for fewer chunks than the mask touches.", ReceiptError, "response.json does not belong")
def response_incomplete(folder: Path) -> None:
    scene = Scene.base()
    points = {c.chunk: c.theta for c in scene.answer.commitments[:1]}
    scene.change(response=respond(scene.request, points)).write_unchecked(folder, scene)


# -- files -------------------------------------------------------------------------------------------------------------


@rejected("A bit of the receipt's signature is flipped.", SignatureError, "the signature by key")
def signature_altered(folder: Path) -> None:
    path = honest_copy(folder) / "receipt.json"
    envelope = Envelope.from_bytes(path.read_bytes())
    old = envelope.signatures[0]
    new = Signature(old.keyid, bytes([old.sig[0] ^ 1]) + old.sig[1:])
    path.write_bytes(Envelope(envelope.payload_type, envelope.payload, (new,)).to_bytes())


@rejected("A bit of the receipt is flipped.", SignatureError, "signature")
def receipt_altered(folder: Path) -> None:
    path = honest_copy(folder) / "receipt.json"
    envelope = Envelope.from_bytes(path.read_bytes())
    said = envelope.payload.replace(b'"model":"conformance"', b'"model":"conformancf"')
    assert said != envelope.payload
    path.write_bytes(Envelope(envelope.payload_type, said, envelope.signatures).to_bytes())


@rejected("The receipt is empty.", SignatureError, "this is not a DSSE envelope")
def receipt_empty(folder: Path) -> None:
    (honest_copy(folder) / "receipt.json").write_bytes(b"")


@rejected("A receipt of fifty thousand nested lists.", SignatureError, "this is not a DSSE envelope")
def receipt_nested(folder: Path) -> None:
    (honest_copy(folder) / "receipt.json").write_bytes(b"[" * 50_000)


@rejected("What is signed is a manifest, not a receipt.", SignatureError, "was expected")
def receipt_of_another_kind(folder: Path) -> None:
    path = honest_copy(folder)
    data = sign(GUARDED.manifest.to_bytes(), GUARDED.manifest.payload_type(), private_key("provider")).to_bytes()
    (path / "receipt.json").write_bytes(data)


@rejected("A receipt of a format yet to come.", FormatVersionError, "has the unknown format 'urn:zkapex:receipt:v2'")
def receipt_of_a_later_format(folder: Path) -> None:
    path = honest_copy(folder) / "receipt.json"
    said = payload(folder, "receipt.json").replace(b"urn:zkapex:receipt:v1", b"urn:zkapex:receipt:v2")
    path.write_bytes(sign(said, Statement.payload_type(), private_key("provider")).to_bytes())


@rejected("There is no receipt.", InputError, "there is no receipt")
def receipt_missing(folder: Path) -> None:
    (honest_copy(folder) / "receipt.json").unlink()


@rejected("A listed proof is missing.", ReceiptError, "proofs/0.bin is missing")
def proof_missing(folder: Path) -> None:
    (honest_copy(folder) / "proofs" / f"{FIRST}.bin").unlink()


@rejected("A bit of a proof is flipped without the provider's signature.", ReceiptError, "proofs/0.bin was altered")
def proof_altered(folder: Path) -> None:
    flip(honest_copy(folder) / "proofs" / f"{FIRST}.bin", 1000)


@rejected("A file that is not listed.", ReceiptError, "proofs/7.bin does not belong to the receipt")
def file_not_listed(folder: Path) -> None:
    (honest_copy(folder) / "proofs" / "7.bin").write_bytes(b"x")


@rejected("A proof is a symbolic link.", ReceiptError, "proofs/0.bin is not a regular file")
def file_linked(folder: Path) -> None:
    path = honest_copy(folder) / "proofs" / f"{FIRST}.bin"
    path.unlink()
    path.symlink_to(f"{SECOND}.bin")
