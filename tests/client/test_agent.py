"""The device against a hostile server: every demand it must not follow is a clear error, and changes nothing on it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import LIMIT, STATE, STRANGER, Bench
from federation import REQUEST, TOUCHED, Federation, SmallTask, perceptron, refused, snapshot
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from limits import case, refuses
from torch import nn

from zkapex.circuits.encoding import dequantise
from zkapex.circuits.profiles import PROFILES
from zkapex.client.agent import common
from zkapex.client.agent.agent import DeviceAgent, utc_now
from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.vault import Vault
from zkapex.client.task import Tally, tallies
from zkapex.errors import (
    Error,
    InputError,
    ProtocolError,
    ReceiptError,
    SignatureError,
    StorageError,
    VerificationError,
)
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    Delivery,
    Enrolment,
    EnrolRequest,
    EvaluateReply,
    GuardBlock,
    LayerMask,
    ModelManifest,
    PersonaliseReply,
    UnlearnResponse,
)
from zkapex.proofs.records.record import Record, sha256_hex
from zkapex.proofs.records.sealed import seal, unseal
from zkapex.proofs.records.signing import CHALLENGE_TYPE, Envelope, load_private_key, public_key_hex, verify
from zkapex.transport.wire import pack, pack_arrays, unpack


@pytest.fixture
def small_messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(common, "MAX_MESSAGE_BYTES", 100)
    return


def test_a_device_is_not_set_up_on_hardware_it_does_not_have(bench: Bench, tmp_path: Path) -> None:
    error = refused(lambda: DeviceAgent(tmp_path / "new", bench.task, device="warp"), InputError)
    assert "device='warp'" in error.what
    assert not (tmp_path / "new").exists()


# -- requests it must not follow


def other_mask(bench: Bench, **changes: Any) -> tuple[LayerMask, ...]:
    first, *rest = bench.request.mask
    return (first.model_copy(update=changes), *rest)


def other_guard(bench: Bench, **changes: Any) -> tuple[GuardBlock, ...]:
    first, *rest = bench.request.guards
    return (first.model_copy(update=changes), *rest)


HOSTILE: dict[str, tuple[Callable[[Bench], RecordDict], type[Error], str]] = {
    "nothing": (lambda b: pack(Delivery()), SignatureError, "envelope"),
    "noise": (lambda b: pack(Delivery(), {"envelope": b"\xff\x00"}), SignatureError, "envelope"),
    "no record": (lambda b: RecordDict(), ProtocolError, "no zkapex record"),
    "another record": (lambda b: b.evaluate(), ProtocolError, "expected"),
    "signed by a stranger": (lambda b: b.ask(STRANGER), SignatureError, "key"),
    "an enrolment as a request": (
        lambda b: pack(Delivery(), {"envelope": (b.folder / "enrolment" / "enrolment.json").read_bytes()}),
        SignatureError,
        "",
    ),
    "another client's": (lambda b: b.ask(client_id="0" * 64), ProtocolError, "another client"),
    "expired": (
        lambda b: b.ask(issued_at=utc_now() - timedelta(days=9), expires_at=utc_now() - timedelta(days=2)),
        ProtocolError,
        "expired",
    ),
    "of another manifest": (lambda b: b.ask(manifest_digest="0" * 64), ProtocolError, "another manifest"),
    "from other commitments": (lambda b: b.ask(pre_root="0" * 64), ProtocolError, "does not hold"),
    "an unknown operator": (lambda b: b.ask(operator="format-disk"), ProtocolError, "format-disk"),
    "a mask too short": (lambda b: b.ask(mask=other_mask(b, bits=b.request.mask[0].bits[:-1])), ProtocolError, "mask"),
    "a mask too long": (lambda b: b.ask(mask=other_mask(b, bits=b.request.mask[0].bits + b"x")), ProtocolError, "mask"),
    "a mask of nothing": (
        lambda b: b.ask(mask=other_mask(b, bits=bytes(len(b.request.mask[0].bits)))),
        ProtocolError,
        "empty",
    ),
    "a mask of no layer": (lambda b: b.ask(mask=other_mask(b, layer="head")), ProtocolError, "unknown layers"),
    "masks out of order": (lambda b: b.ask(mask=b.request.mask[::-1]), ProtocolError, "order"),
    "a guard of no block": (lambda b: b.ask(guards=other_guard(b, block=99)), ProtocolError, "unknown blocks"),
    "a guard too narrow": (
        lambda b: b.ask(guards=other_guard(b, width=8, values=b.request.guards[0].values[: 8 * 2 * 4])),
        ProtocolError,
        "guard",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_changes_nothing(bench: Bench, name: str) -> None:
    make, kind, what = HOSTILE[name]
    error = bench.refuses("unlearn", make(bench), kind)
    assert what in f"{error.what} {error.why}"


def test_messages_are_measured_before_they_are_parsed(bench: Bench, small_messages: None) -> None:
    for step, content in (
        ("unlearn", bench.ask()),
        ("enrol", bench.enrol()),
        ("receipt", bench.ask()),
    ):
        assert "too large" in bench.refuses(step, content, ProtocolError).what


def test_an_unknown_step_is_refused(bench: Bench) -> None:
    assert "'format-disk'" in bench.refuses("format-disk", RecordDict(), ProtocolError).what


def test_a_request_is_answered_once_and_the_same_again(bench: Bench) -> None:
    first = bench.agent.answer("unlearn", bench.ask())
    after = snapshot(bench.folder)
    second = bench.agent.answer("unlearn", bench.ask())
    assert unpack(first, Delivery, LIMIT) == unpack(second, Delivery, LIMIT)
    assert snapshot(bench.folder) == after
    error = bench.refuses("unlearn", bench.ask(nonce="0" * 64), ProtocolError)
    assert "different now" in error.what
    late = DeviceAgent(bench.folder, bench.task, clock=lambda: utc_now() + timedelta(days=30))
    assert unpack(late.answer("unlearn", bench.ask()), Delivery, LIMIT) == unpack(first, Delivery, LIMIT)


def test_a_request_half_done_is_no_door_for_another(bench: Bench) -> None:
    bench.agent.answer("unlearn", bench.ask())
    (bench.folder / "requests" / REQUEST / "response.json").unlink()  # as if killed just before
    error = bench.refuses("unlearn", bench.ask(pre_root="0" * 64), ProtocolError)
    assert "does not hold" in error.what
    error = bench.refuses("unlearn", bench.ask(request_id="another"), ProtocolError)
    assert "not settled" in error.what


# -- proofs


def test_proofs_are_of_touched_chunks_of_its_own_requests(bench: Bench) -> None:
    assert "not answered" in bench.refuses("prove", bench.prove(0), ProtocolError).what
    bench.agent.answer("unlearn", bench.ask())
    assert "chunk 1 is not touched" in bench.refuses("prove", bench.prove(0, 1), ProtocolError).what
    assert "not touched" in bench.refuses("prove", bench.prove(2**18 - 1), ProtocolError).what
    assert "another client" in bench.refuses("prove", bench.prove(0, client_id="0" * 64), ProtocolError).what
    assert "not answered" in bench.refuses("prove", bench.prove(0, request_id="other"), ProtocolError).what


def test_a_finished_proof_is_answered_from_disk(settled: Bench) -> None:
    before = snapshot(settled.folder)
    first = settled.agent.answer("prove", settled.prove(*TOUCHED))
    assert str(first) == str(settled.agent.answer("prove", settled.prove(*TOUCHED)))
    assert snapshot(settled.folder) == before


# -- enrolment


def layer(**changes: Any) -> Callable[[Bench], RecordDict]:
    def make(bench: Bench) -> RecordDict:
        first, *rest = bench.manifest.layers
        return bench.enrol(layers=(first.model_copy(update=changes), *rest))

    return make


MANIFESTS: dict[str, tuple[Callable[[Bench], RecordDict], type[Error], str]] = {
    "a layer that does not exist": (layer(name="fc9"), InputError, "fc9"),
    "another shape": (layer(rows=31), InputError, "31"),
    "a huge shape": (layer(rows=2**20), InputError, "1048576"),
    "a scale too large for the weights": (layer(exponent=40), InputError, ""),
    "another circuit": (lambda b: b.enrol(circuit_digest="0" * 64), ReceiptError, "verification key"),
    "other settings": (lambda b: b.enrol(settings_digest="0" * 64), ReceiptError, "settings"),
    "an unknown reference string": (lambda b: b.enrol(srs_digest="0" * 64), InputError, "reference string"),
    "a circuit larger than its reference string": (
        lambda b: b.enrol(statement=b.manifest.statement.model_copy(update={"log2_rows": 16})),
        Error,
        "",
    ),
    "another provider": (lambda b: b.enrol(key=STRANGER), SignatureError, "pinned"),
    "no record": (lambda b: RecordDict(), ProtocolError, "no zkapex record"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_does_not_fit_changes_nothing(bench: Bench, name: str) -> None:
    make, kind, what = MANIFESTS[name]
    with pytest.raises(Error) as caught:
        bench.agent.answer("enrol", make(bench))
    assert issubclass(type(caught.value), kind)
    error = bench.refuses("enrol", make(bench), type(caught.value))
    assert what in f"{error.what} {error.why}"


def test_a_reference_string_of_another_digest_is_not_kept(bench: Bench) -> None:
    _, blobs = unpack(bench.enrol(srs_digest="0" * 64), Delivery, LIMIT)
    bench.refuses("enrol", pack(Delivery(), {**blobs, "srs": b"not it"}), VerificationError)


def test_a_provider_is_pinned_once_the_device_has_done_something_for_it(bench: Bench, tmp_path: Path) -> None:
    agent = DeviceAgent(tmp_path / "new", bench.task)
    refused(lambda: agent.answer("enrol", bench.enrol(key=STRANGER)), ProtocolError)  # no model yet
    wrong = bench.personalise(key=STRANGER, **{"fc9.weight": np.zeros((3, 3), np.float32)})
    refused(lambda: agent.answer("personalise", wrong), ProtocolError)
    assert not (tmp_path / "new" / "server.pub").exists()
    agent.answer("personalise", bench.personalise())
    assert (tmp_path / "new" / "server.pub").read_text() == public_key_hex(bench.key.public_key())
    for step, content in (("personalise", bench.personalise(key=STRANGER)), ("enrol", bench.enrol(key=STRANGER))):
        before = snapshot(tmp_path / "new")
        assert "pinned" in refused(lambda step=step, content=content: agent.answer(step, content), SignatureError).what
        assert snapshot(tmp_path / "new") == before
    agent.answer("enrol", bench.enrol())


def unsigned_and_forged(bench: Bench) -> dict[str, tuple[str, RecordDict, str]]:
    """What starts personalisation or enrolment, in every way not signed by the provider."""
    server_key = public_key_hex(bench.key.public_key())
    to_enrol = EnrolRequest(federation="small", manifest=bench.manifest, nonce="cd" * 32, server_key=server_key)
    to_personalise = bench.to_personalise(STATE)

    def altered(record: Record) -> RecordDict:
        envelope = Envelope.from_bytes(seal(record, bench.key).envelope)
        payload = envelope.payload.replace(b'"small"', b'"large"')
        assert payload != envelope.payload
        return pack(Delivery(), {"envelope": replace(envelope, payload=payload).to_bytes()})

    return {
        "enrol: unsigned": ("enrol", pack(to_enrol), "expected"),
        "enrol: empty": ("enrol", pack(Delivery()), "envelope"),
        "enrol: altered": ("enrol", altered(to_enrol), "wrong"),
        "enrol: signed by a stranger in the provider's name": ("enrol", bench.signed(to_enrol, STRANGER), ""),
        "enrol: another record": ("enrol", bench.signed(to_personalise), "expected"),
        "personalise: unsigned": ("personalise", pack_arrays(STATE, pack(to_personalise)), "expected"),
        "personalise: empty": ("personalise", pack_arrays(STATE, pack(Delivery())), "envelope"),
        "personalise: altered": ("personalise", pack_arrays(STATE, altered(to_personalise)), "wrong"),
        "personalise: signed by a stranger in the provider's name": (
            "personalise",
            pack_arrays(STATE, bench.signed(to_personalise, STRANGER)),
            "",
        ),
        "personalise: another record": ("personalise", pack_arrays(STATE, bench.signed(to_enrol)), "expected"),
        "personalise: other weights": (
            "personalise",
            pack_arrays(STATE | {"fc1.bias": STATE["fc1.bias"] + 1}, bench.signed(to_personalise)),
            "signed",
        ),
    }


def test_nothing_starts_that_the_provider_did_not_sign(bench: Bench, tmp_path: Path) -> None:
    for name, (step, content, what) in unsigned_and_forged(bench).items():
        fits = bench.task.fits
        new = DeviceAgent(tmp_path / "new", bench.task)
        fresh = snapshot(tmp_path / "new")
        for agent, folder, before in (
            (bench.agent, bench.folder, snapshot(bench.folder)),  # pinned
            (new, tmp_path / "new", fresh),  # knows nobody yet
        ):
            with pytest.raises((SignatureError, ProtocolError)) as caught:
                agent.answer(step, content)
            assert what in caught.value.explain(), name
            assert snapshot(folder) == before, name
        assert bench.task.fits == fits, name


def test_a_replayed_message_changes_nothing(bench: Bench) -> None:
    first, second = bench.personalise(), bench.personalise()
    answers = [str(bench.agent.answer("personalise", content)) for content in (first, second)]
    to_enrol = [bench.enrol("01" * 32), bench.enrol("02" * 32)]
    envelopes = [unpack(bench.agent.answer("enrol", content), Delivery, LIMIT) for content in to_enrol]
    before, fits = snapshot(bench.folder), bench.task.fits
    assert [str(bench.agent.answer("personalise", content)) for content in (first, second)] == answers
    assert unpack(bench.agent.answer("enrol", to_enrol[1]), Delivery, LIMIT) == envelopes[1]
    assert snapshot(bench.folder) == before
    assert bench.task.fits == fits
    assert "answered before" in bench.refuses("enrol", to_enrol[0], ProtocolError).what


def enrolment(reply: RecordDict, agent: DeviceAgent) -> Enrolment:
    _, blobs = unpack(reply, Delivery, LIMIT)
    return Enrolment.from_bytes(Envelope.from_bytes(blobs["envelope"]).payload)


def test_enrolling_again_counts_up_even_after_a_crash(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = enrolment(bench.agent.answer("enrol", bench.enrol("01" * 32)), bench.agent)
    assert first.revision == 1
    assert enrolment(bench.agent.answer("enrol", bench.enrol("01" * 32)), bench.agent) == first

    def power_cut(self: Holdings, vault: Vault) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Holdings, "save", power_cut)
        with pytest.raises(OSError, match="power cut"):
            bench.agent.answer("enrol", bench.enrol("02" * 32))
    assert enrolment(bench.agent.answer("enrol", bench.enrol("03" * 32)), bench.agent).revision == 2


def test_power_lost_right_after_an_enrolment_leaves_no_device_that_calls_itself_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its provider would take the enrolment, and the device would refuse the request that starts from it."""
    bench.agent.answer("personalise", bench.personalise())
    assert bench.agent.memory.retrained

    def power_cut(self: Vault, name: str) -> None:
        raise OSError(f"power cut before {name}")

    with monkeypatch.context() as patch:
        patch.setattr(Vault, "drop", power_cut)
        with pytest.raises(OSError, match="before retrained"):
            bench.agent.answer("enrol", bench.enrol("01" * 32))
    again = DeviceAgent(bench.folder, bench.task, workers=1)
    assert enrolment(again.answer("enrol", bench.enrol("01" * 32)), again).nonce == "01" * 32
    assert not again.memory.retrained
    again.answer("personalise", bench.personalise(learning_rate=2e-3))
    assert again.memory.retrained


def test_what_an_earlier_release_kept_of_a_changed_model_still_counts(bench: Bench) -> None:
    (bench.folder / "retrained").write_bytes(b"")
    assert DeviceAgent(bench.folder, bench.task, workers=1).memory.retrained


def test_identity_is_shown_by_a_signature_not_by_a_document(bench: Bench, tmp_path: Path) -> None:
    challenge = bytes(range(32))
    _, blobs = unpack(bench.agent.answer("identify", pack(Delivery(), {"challenge": challenge})), Delivery, LIMIT)
    envelope = Envelope.from_bytes(blobs["challenge"])
    key = load_private_key(bench.folder / "key.pem").public_key()
    assert verify(envelope, CHALLENGE_TYPE, [key]) == challenge
    for wrong in (b"", b"short", bytes(33)):
        bench.refuses("identify", pack(Delivery(), {"challenge": wrong}), ProtocolError)
    stranger = DeviceAgent(tmp_path / "new", bench.task)
    _, none = unpack(stranger.answer("identify", pack(Delivery(), {"challenge": challenge})), Delivery, LIMIT)
    assert set(none) == {"key", "challenge", "version"}  # it has a key, and stands by nothing yet


# -- training and personalising


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"fc1.weight": np.zeros((3, 3), np.float32)}, "does not fit"),
        ({"fc9.weight": np.zeros((3, 3), np.float32)}, "does not fit"),
        ({"fc1.weight": np.full((32, 64), np.nan, np.float32)}, "no numbers"),
        ({"fc1.weight": np.full((32, 64), np.inf, np.float32)}, "no numbers"),
    ],
)
def test_a_global_model_that_does_not_fit_is_refused(bench: Bench, arrays: dict[str, np.ndarray], what: str) -> None:
    assert what in bench.refuses("personalise", bench.personalise(**arrays), ProtocolError).what


def test_impossible_personalisation_is_refused(bench: Bench) -> None:
    bench.refuses("personalise", bench.personalise(learning_rate=5.0), InputError)
    bench.refuses("personalise", RecordDict(), ProtocolError)
    without = bench.signed(bench.to_personalise(STATE))
    assert "no arrays" in bench.refuses("personalise", without, ProtocolError).what


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"arrays": ConfigRecord(), "config": ConfigRecord()}),
        RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord()}),
        RecordDict({"arrays": ArrayRecord(perceptron().state_dict()), "config": ConfigRecord({"server-round": "x"})}),
        RecordDict({"arrays": ArrayRecord(perceptron().state_dict())}),
    ],
)
def test_a_training_message_that_is_none_is_refused(bench: Bench, content: RecordDict) -> None:
    before = snapshot(bench.folder)
    refused(lambda: bench.agent.train(content), ProtocolError)
    assert snapshot(bench.folder) == before


def test_a_device_says_how_personalising_went(bench: Bench) -> None:
    reply, _ = unpack(bench.agent.answer("personalise", bench.personalise()), PersonaliseReply, LIMIT)
    assert reply.client_id == bench.agent.client_id
    assert reply.examples > 0
    assert 0 <= reply.accuracy_after <= 1


# -- what unlearning does on the device


def test_deletion_is_deployed_at_once_and_held(bench: Bench) -> None:
    reply = bench.agent.answer("unlearn", bench.ask())
    _, blobs = unpack(reply, Delivery, LIMIT)
    own = load_private_key(bench.folder / "key.pem").public_key()
    response = unseal(UnlearnResponse, blobs["envelope"], [own]).record
    assert tuple(c.chunk for c in response.commitments) == TOUCHED
    masks = Instance(bench.manifest, bench.request).masks
    change = Change.load(Vault(bench.folder / "requests" / REQUEST))
    with np.load(bench.folder / "model.npz") as deployed:
        for spec in bench.manifest.layers:
            assert np.array_equal(deployed[f"{spec.name}.weight"], dequantise(change.weights[spec.name], spec.exponent))
            assert not deployed[f"{spec.name}.weight"][masks[spec.name]].any()
    held = Vault(bench.folder).get_arrays("held-zero.npz")
    assert all(np.array_equal(held[name], mask) for name, mask in masks.items())


def test_what_was_deleted_is_never_learned_again(bench: Bench) -> None:
    bench.agent.answer("unlearn", bench.ask())
    masks = Instance(bench.manifest, bench.request).masks
    for nonce in ("01" * 32, "02" * 32):
        bench.agent.answer("personalise", bench.personalise())
        bench.agent.answer("enrol", bench.enrol(nonce))
        for name, mask in masks.items():
            assert not bench.weights[name][mask].any()
            assert bench.weights[name][~mask].any()
    assert (bench.folder / "held-zero.npz").exists()


def test_a_second_masks_zeros_are_held_with_the_first_ones(bench: Bench) -> None:
    bench.agent.answer("unlearn", bench.ask())
    first = Vault(bench.folder).get_arrays("held-zero.npz")
    bench.agent.answer("enrol", bench.enrol("01" * 32))
    digest = sha256_hex((bench.folder / "enrolment" / "enrolment.json").read_bytes())
    bits = np.zeros((32, 64), np.bool_)
    bits[0, 40] = True
    root = seal_root(bench)
    mask = (LayerMask(layer="fc1", bits=np.packbits(bits).tobytes()),)
    bench.agent.answer(
        "unlearn", bench.ask(request_id="second", mask=mask, guards=(), pre_root=root, enrolment_digest=digest)
    )
    held = Vault(bench.folder).get_arrays("held-zero.npz")
    assert np.array_equal(held["fc1"], first["fc1"] | bits)
    assert np.array_equal(held["fc2"], first["fc2"])


def seal_root(bench: Bench) -> str:
    record = Enrolment.from_bytes(
        Envelope.from_bytes((bench.folder / "enrolment" / "enrolment.json").read_bytes()).payload
    )
    return commitment_root(list(enumerate(record.theta)))


def test_salts_are_fresh_for_every_chunk_and_request(bench: Bench) -> None:
    def salts(path: str) -> list[str]:
        return [one for values in json.loads((bench.folder / path).read_text()).values() for one in values]

    bench.agent.answer("unlearn", bench.ask())
    used = salts("enrolment/salts.json") + salts(f"requests/{REQUEST}/salts.json")
    assert len(set(used)) == len(used)
    (bench.folder / "requests" / REQUEST / "response.json").unlink()  # killed before the answer was out
    bench.agent.answer("unlearn", bench.ask())
    again = salts(f"requests/{REQUEST}/salts.json")
    assert not set(again) & set(used)
    bench.agent.answer("enrol", bench.enrol("01" * 32))
    assert not set(salts("enrolment/salts.json")) & set(used + again)


# -- after the receipt


def test_the_weights_before_are_gone_once_the_receipt_is_there(settled: Bench) -> None:
    vault = Vault(settled.folder / "requests" / REQUEST)
    assert not {"secrets.npz", "salts.json"} & {path.name for path in vault.folder.iterdir()}
    with np.load(settled.folder / "model.npz") as deployed:
        for spec in settled.manifest.layers:
            held = dequantise(settled.weights[spec.name], spec.exponent)
            assert np.array_equal(deployed[f"{spec.name}.weight"], held)
    first = settled.agent.answer("evaluate", settled.evaluate())
    reply, _ = unpack(first, EvaluateReply, LIMIT)
    assert {score.model for score in reply.scores} == {"before", "masked", "after"}
    part, _ = unpack(settled.agent.answer("evaluate", settled.evaluate(models=("after",))), EvaluateReply, LIMIT)
    assert part.scores == tuple(score for score in reply.scores if score.model == "after")
    (vault.folder / "scores.json").unlink()
    assert "gone" in settled.refuses("evaluate", settled.evaluate(), ProtocolError).why


def test_evaluation_needs_a_request(bench: Bench) -> None:
    assert "not answered" in bench.refuses("evaluate", bench.evaluate(), ProtocolError).what


def test_a_receipt_is_taken_only_from_the_provider_and_for_this_device(
    settled: Bench, bench: Bench, market: Federation, result: dict[str, Any]
) -> None:
    mine, neighbours = (
        (market.folder / market.row(result, index)["receipt"] / "receipt.json").read_bytes() for index in (0, 1)
    )
    before = snapshot(settled.folder)
    settled.agent.answer("receipt", pack(Delivery(), {"envelope": mine}))
    assert snapshot(settled.folder) == before
    another = pack(Delivery(), {"envelope": neighbours})
    assert "another client" in settled.refuses("receipt", another, ProtocolError).what
    settled.refuses("receipt", pack(Delivery()), SignatureError)
    bench.refuses("receipt", pack(Delivery(), {"envelope": mine}), SignatureError)  # of another provider


# -- state


def test_everything_on_the_device_is_its_owners_alone(market: Federation) -> None:
    folder = market.state(0)
    for path in (folder, *folder.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_witnesses_are_deleted_after_proving(market: Federation) -> None:
    for index in (0, 1):
        jobs = market.state(index) / "requests" / REQUEST / "jobs"
        assert sorted(path.name for path in jobs.iterdir()) == ["0", "2"]
        assert {path.name for path in jobs.rglob("*") if path.is_file()} == {"proof.bin", "cost.json"}


def test_a_witness_left_by_a_killed_worker_is_deleted(settled: Bench) -> None:
    job = settled.folder / "requests" / REQUEST / "jobs" / "0"
    (job / "job.npz").write_bytes(b"secret")
    settled.agent.answer("prove", settled.prove(0))
    assert not (job / "job.npz").exists()


@pytest.mark.parametrize("name", ["enrolment/secrets.npz", "enrolment/salts.json", "model.npz"])
@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 and no more", b'{"a": 1}'])
def test_damaged_state_is_an_error_that_names_the_file(bench: Bench, name: str, damage: bytes) -> None:
    (bench.folder / name).write_bytes(damage)
    with pytest.raises(StorageError) as caught:
        bench.agent.answer("unlearn", bench.ask())
    assert Path(name).name in caught.value.what
    assert not (bench.folder / "requests" / REQUEST / "response.json").exists()


def test_another_model_than_the_enrolled_one_is_noticed(bench: Bench) -> None:
    Vault(bench.folder).put_arrays("model.npz", {"fc1.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(StorageError):
        bench.agent.answer("unlearn", bench.ask())


# -- what a task may say, and a model be


class Partly(SmallTask):
    """A task without some data sets, as `answer` says."""

    answer: Mapping[str, Tally] = {}

    def evaluate(self, model: nn.Module) -> Mapping[str, Tally]:
        return self.answer


@case("evaluate-partly")
@pytest.mark.parametrize(
    "answer",
    [
        {"forget": Tally(1, 4), "retain": Tally(3, 4)},
        {"forget": Tally(1, 4), "retain": Tally(3, 4), "personal": Tally(0, 0)},
    ],
)
def test_data_sets_that_a_device_does_not_have_are_left_out(bench: Bench, answer: Mapping[str, Tally]) -> None:
    bench.task.__class__, bench.task.answer = Partly, answer  # type: ignore[attr-defined]
    reply, _ = unpack(bench.agent.answer("personalise", bench.personalise()), PersonaliseReply, LIMIT)
    assert reply.accuracy_before is None
    assert reply.accuracy_after is None
    bench.agent.answer("enrol", bench.enrol())
    bench.task.answer = {**answer, "personal": Tally(2, 4), "forget": Tally(0, 0)}  # type: ignore[attr-defined]
    reply, _ = unpack(bench.agent.answer("personalise", bench.personalise()), PersonaliseReply, LIMIT)
    assert reply.accuracy_after == 0.5


@case("evaluate-partly")
def test_an_empty_data_set_does_not_lose_the_other_scores(bench: Bench) -> None:
    bench.agent.answer("unlearn", bench.ask())
    bench.task.__class__ = Partly
    bench.task.answer = {"forget": Tally(0, 0), "retain": Tally(3, 4)}  # type: ignore[attr-defined]
    reply, _ = unpack(bench.agent.answer("evaluate", bench.evaluate()), EvaluateReply, LIMIT)
    assert {(s.model, s.data, s.correct) for s in reply.scores} == {
        (m, "retain", 3) for m in ("before", "masked", "after")
    }


@pytest.mark.parametrize("answer", [{"poisoned": Tally(1, 4)}, {"personal": Tally(5, 4)}, {"retain": Tally(-1, 4)}])
def test_scores_that_make_no_sense_are_refused(bench: Bench, answer: Mapping[str, Tally]) -> None:
    bench.task.__class__, bench.task.answer = Partly, answer  # type: ignore[attr-defined]
    if "poisoned" in answer:
        refuses("evaluate-unknown", lambda: tallies(bench.task, perceptron()))
    else:
        refuses("evaluate-counts", lambda: tallies(bench.task, perceptron()))
    bench.refuses("personalise", bench.personalise(), InputError)


class Rounded(SmallTask):
    """Whose model is of another dtype than the one that is sent."""

    dtype = torch.bfloat16

    def build_model(self) -> nn.Module:
        return super().build_model().to(self.dtype)

    def curvature_inputs(self) -> torch.Tensor:
        return super().curvature_inputs().to(self.dtype)


def test_a_device_does_not_start_with_a_model_it_could_not_keep(bench: Bench) -> None:
    bench.agent = DeviceAgent(bench.folder, Rounded(0), workers=1)
    assert "bfloat16" in bench.refuses("personalise", bench.personalise(), InputError).what


def test_a_device_does_not_enrol_with_a_model_that_cannot_hold_what_is_proved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rounded, "dtype", torch.float16)
    bench.agent = DeviceAgent(bench.folder, Rounded(0), workers=1)
    monkeypatch.setattr(ModelManifest, "weight_limit", PROFILES["server"].weight_limit)
    assert "float16" in bench.refuses("enrol", bench.enrol(), InputError).what
