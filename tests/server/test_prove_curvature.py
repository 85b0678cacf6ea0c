"""A run in which devices prove what their curvature was made of, and one whose proofs are for other factors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from federation import HALO2, Altered, Federation, SmallTask
from flwr.app import RecordDict

from zkapex.circuits.halo2.srs import find_srs
from zkapex.circuits.halo2.store import Circuit
from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.salts import LOG
from zkapex.client.state.vault import Vault
from zkapex.errors import CommitmentError, Error, ProofError
from zkapex.proofs.chunk.commitment import commit
from zkapex.proofs.chunk.enrolled import curvature_distance, verify_enrolment
from zkapex.proofs.chunk.verifier import check_circuit_of, circuit_of
from zkapex.proofs.messages import Delivery, Enrolment, ModelManifest
from zkapex.proofs.records.sealed import seal, unseal_enrolment
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import verify_receipt
from zkapex.transport.wire import pack, unpack

Change = Callable[[Enrolment], Enrolment]


pytestmark = pytest.mark.slow
"""With all tests: its circuit and proofs (`tests/proofs/test_second_moment.py`), and the transparent backend's run."""


def without(enrolment: Enrolment) -> Enrolment:
    return enrolment.model_copy(update={"curvature_proofs": ()})


def swapped(enrolment: Enrolment) -> Enrolment:
    """Each proof is valid, but two of them stand for each other's factor."""
    first, second, *rest = enrolment.curvature_proofs
    return enrolment.model_copy(update={"curvature_proofs": (second, first, *rest)})


def resigned(device: DeviceAgent, change: Change, reply: RecordDict) -> RecordDict:
    _, blobs = unpack(reply, Delivery, 2**28)
    enrolment = unseal_enrolment(blobs["envelope"]).record
    return pack(Delivery(), {"envelope": seal(change(enrolment), device.key).envelope})


def device(index: int, folder: Path, task: SmallTask) -> Agent:
    honest = DeviceAgent(folder, task, workers=1)
    if index == 0:
        return honest
    return Altered(honest, "enrol", partial(resigned, honest, swapped))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    folder = tmp_path_factory.mktemp("curvature") / "run"
    federation = Federation(folder, clients=2, device=device, settings={**HALO2, "prove-curvature": True})
    federation.serve()
    return federation


@pytest.fixture(scope="module")
def receipt(finished: Federation) -> Path:
    (row,) = finished.result()["clients"]
    assert row["verdict"] == "proved"
    return finished.folder / str(row["receipt"])


@pytest.fixture(scope="module")
def enrolled(finished: Federation) -> tuple[ModelManifest, Enrolment, Circuit]:
    vault = Vault(finished.state(0)).inner("enrolment")
    manifest = ModelManifest.from_bytes(vault.get("manifest.json"))
    with finished.registry() as registry:
        enrolment = registry.enrolment(finished.client_id(0))
    srs = find_srs(manifest.srs_digest, manifest.srs_origin)
    assert srs is not None
    built = check_circuit_of(manifest, srs)
    assert built is not None
    return manifest, enrolment, built


def test_only_who_proves_it_is_enrolled(finished: Federation) -> None:
    result = finished.result()
    assert [row["client_id"] for row in result["clients"]] == [finished.client_id(0)]
    (reason,) = (one["reason"] for one in result["not_enrolled"])
    assert "curvature factor 0" in reason


def test_a_receipt_says_so_and_is_checked_again(finished: Federation, receipt: Path) -> None:
    verified = verify_receipt(receipt, [load_public_key(finished.folder / "key.pub")])
    receipt_ = verified.bundle.receipt
    assert receipt_.facts.curvature_within is not None
    assert 0 < receipt_.facts.curvature_within <= 0.0501
    assert receipt_.facts.curvature_activations == 70
    shows, hides = receipt_.statement.predicate.shows, receipt_.statement.predicate.does_not_show
    assert any("of the second moment of at most 70 activations per column block" in one.words() for one in shows)
    assert any("which the curvature was made of, are of real data" in one.words() for one in hides)


def test_each_proof_opens_its_factor_once_and_that_is_counted(finished: Federation) -> None:
    """Three factors at enrolment; then each of the two chunks opens its own factor and its weights twice."""
    openings = (finished.state(0) / LOG).read_text().splitlines()
    assert len(openings) == 3 + 2 * 3


def test_the_committed_factors_are_those_the_device_holds(
    finished: Federation, enrolled: tuple[ModelManifest, Enrolment, Circuit]
) -> None:
    manifest, enrolment, built = enrolled
    holdings = Holdings.load(manifest, Vault(finished.state(0)).inner("enrolment"))
    assert holdings.curvature_commitments(circuit_of(manifest, built.srs)) == enrolment.curvature
    assert holdings.curvature_commitments(built) == enrolment.curvature


def test_what_does_not_fit_the_enrolment_is_rejected(enrolled: tuple[ModelManifest, Enrolment, Circuit]) -> None:
    manifest, enrolment, built = enrolled
    verify_enrolment(built, manifest, enrolment)
    first, *rest = enrolment.curvature_proofs
    other = commit(built, [format(1, "064x")]).hex()

    def with_first(**changes: object) -> Enrolment:
        return enrolment.model_copy(update={"curvature_proofs": (first.model_copy(update=changes), *rest)})

    spoilt = bytearray(first.proof)
    spoilt[-9] ^= 4
    lies: list[tuple[Enrolment, type[Error], str]] = [
        (with_first(activations=other), CommitmentError, "activations that were announced"),
        (with_first(scale=first.scale + 1), CommitmentError, "scale, tolerance and context"),
        (with_first(per_mille=first.per_mille - 1), CommitmentError, "scale, tolerance and context"),
        (with_first(per_mille=101), ProofError, "within 101 per mille"),
        (with_first(scale=65536, per_mille=50), ProofError, "cannot be expressed"),
        (with_first(proof=bytes(spoilt)), ProofError, "curvature factor 0"),
        (with_first(proof=b"x"), ProofError, "curvature factor 0"),
        (enrolment.model_copy(update={"curvature": (other, *enrolment.curvature[1:])}), CommitmentError, "enrolled"),
        (enrolment.model_copy(update={"curvature": enrolment.curvature[1:]}), ProofError, "3 proofs"),
        (enrolment.model_copy(update={"curvature_proofs": tuple(rest)}), ProofError, "2 proofs"),
        (without(enrolment), ProofError, "0 proofs"),
        (enrolment.model_copy(update={"client_id": "0" * 64}), CommitmentError, "scale, tolerance and context"),
        (enrolment.model_copy(update={"nonce": "0" * 64}), CommitmentError, "scale, tolerance and context"),
    ]
    for lie, kind, why in lies:
        with pytest.raises(kind, match=why):
            verify_enrolment(built, manifest, lie)


def test_proofs_that_nobody_asked_for_are_refused(enrolled: tuple[ModelManifest, Enrolment, Circuit]) -> None:
    manifest, enrolment, _ = enrolled
    plain = manifest.model_copy(update={"curvature_check": None})
    with pytest.raises(ProofError, match="3 proofs about its curvature"):
        curvature_distance(plain, enrolment)
    assert curvature_distance(plain, without(enrolment)) is None
