"""Standing compliance: a device that personalises further proves with its new weights that an old mask still holds."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import LIMIT, Bench
from federation import HALO2, TOUCHED, Federation, perceptron

from zkapex.circuits.halo2.srs import find_srs
from zkapex.circuits.halo2.store import Circuit
from zkapex.client.agent.agent import DeviceAgent, utc_now
from zkapex.client.state.holdings import Change, Holdings
from zkapex.errors import ProofError, ProtocolError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.verifier import ChunkVerifier, circuit_of
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import Delivery, Enrolment, ProveRequest, ProveResponse, UnlearnResponse
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.sealed import seal, unseal
from zkapex.simulation.federation.adversaries import Cheat
from zkapex.storage import load_arrays
from zkapex.transport.wire import pack, unpack


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A finished mask-only run of one device."""
    folder = tmp_path_factory.mktemp("masked") / "run"
    federation = Federation(folder, clients=1, epochs=3, settings={**HALO2, "operator": "mask-only"})
    assert federation.serve()["clients"][0]["verdict"] == "proved"
    return federation


class Relapsed(Cheat):
    """Learns the masked weights again, and answers the next request with the commitments it enrolled with."""

    def held_zero(self) -> dict[str, torch.Tensor]:
        return {}

    def change(self, holdings: Holdings, instance: Instance, name: str) -> Change:
        return Change(holdings.weights, {}, {f"theta/{c}": holdings.salts[f"theta/{c}"] for c in instance.touched})


class Again:
    """The device of a `Bench` personalises and enrols again, and is asked to comply with the mask it knows."""

    def __init__(self, bench: Bench, device: type[DeviceAgent]) -> None:
        self.bench, self.agent = bench, device(bench.folder, bench.task, workers=1)
        self.earlier = bench.weights
        self.agent.answer("personalise", bench.personalise(3e-3))
        reply = self.agent.answer("enrol", bench.enrol())
        self.enrolment = self._signed(Enrolment, reply)
        now = utc_now()
        changes = {
            "request_id": "still-compliant",
            "nonce": secrets.token_hex(32),
            "enrolment_digest": self._digest(reply),
            "pre_root": commitment_root(list(enumerate(self.enrolment.theta))),
            "issued_at": now,
            "expires_at": now + timedelta(hours=1),
        }
        self.request = bench.request.model_copy(update=changes)
        envelope = seal(self.request, bench.key).envelope
        self.response = self._signed(
            UnlearnResponse, self.agent.answer("unlearn", pack(Delivery(), {"envelope": envelope}))
        )

    def proofs(self) -> dict[int, bytes]:
        fields = {"request_id": self.request.request_id, "client_id": self.agent.client_id}
        reply, _ = unpack(
            self.agent.answer("prove", pack(ProveRequest(chunks=TOUCHED, **fields))), ProveResponse, LIMIT
        )
        return {one.chunk: one.proof for one in reply.proofs}

    def verifier(self) -> ChunkVerifier:
        post = list(self.enrolment.theta)
        for commitment in self.response.commitments:
            post[commitment.chunk] = commitment.theta
        instance = Instance(self.bench.manifest, self.request)
        return ChunkVerifier(self.circuit(), instance, self.enrolment.curvature, self.enrolment.theta, post)

    def circuit(self) -> Circuit:
        srs = find_srs(self.bench.manifest.srs_digest, "local")
        assert srs is not None
        return circuit_of(self.bench.manifest, srs)

    def _digest(self, reply: object) -> str:
        _, blobs = unpack(reply, Delivery, LIMIT)
        return sha256_hex(blobs["envelope"])

    def _signed(self, kind: type, reply: object) -> object:
        _, blobs = unpack(reply, Delivery, LIMIT)
        return unseal(kind, blobs["envelope"], [self.agent.key.public_key()]).record


def test_enrolment_without_curvature_commits_to_none(masked: Federation, tmp_path: Path) -> None:
    again = Again(Bench(masked, tmp_path), DeviceAgent)
    assert (again.enrolment.curvature, again.enrolment.damping, again.enrolment.revision) == ((), 0.0, 1)


def test_a_device_that_held_its_masked_weights_proves_so_with_new_weights(masked: Federation, tmp_path: Path) -> None:
    again = Again(Bench(masked, tmp_path), DeviceAgent)
    masks = Instance(again.bench.manifest, again.request).masks
    for name, weights in again.bench.weights.items():
        assert (weights != again.earlier[name]).mean() > 0.5, "it has personalised"
        assert not weights[masks[name]].any()
    with masked.registry() as registry:
        before = registry.client(again.agent.client_id)
    assert before is not None
    assert not set(again.enrolment.theta) & set(before.theta)
    verifier = again.verifier()
    for chunk, proof in again.proofs().items():
        verifier.verify(chunk, proof)
    deployed = load_arrays(again.bench.folder / "model.npz")
    assert deployed.keys() == perceptron().state_dict().keys()
    assert not any(deployed[f"{name}.weight"][mask].any() for name, mask in masks.items())


def test_a_device_that_learned_them_again_is_caught(masked: Federation, tmp_path: Path) -> None:
    again = Again(Bench(masked, tmp_path), Relapsed)
    masks = Instance(again.bench.manifest, again.request).masks
    assert all(np.count_nonzero(again.bench.weights[name][mask]) for name, mask in masks.items())
    assert all(c.theta == again.enrolment.theta[c.chunk] for c in again.response.commitments)
    verifier = again.verifier()
    for chunk, proof in again.proofs().items():
        with pytest.raises(ProofError, match="masked weights are zero"):
            verifier.verify(chunk, proof)


def test_a_request_of_another_operator_is_refused(masked: Federation, tmp_path: Path) -> None:
    again = Again(Bench(masked, tmp_path), DeviceAgent)
    again.agent.memory.settle_all()
    root = commitment_root(list(enumerate(again.agent.memory.theta())))
    enrolment = again.request.enrolment_digest
    changes = {"operator": "dampening", "request_id": "other", "pre_root": root, "enrolment_digest": enrolment}
    error = again.bench.refuses("unlearn", again.bench.ask(**changes), ProtocolError)
    assert "mask-only" in error.why
