"""The same with the transparent backend: the proof of a layer's state shows what its curvature was made of, too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from federation import Altered, Federation, SmallTask
from flwr.app import RecordDict

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent
from zkapex.client.state.vault import Vault
from zkapex.errors import CommitmentError, ProofError, ReceiptError
from zkapex.proofs.backends import backend
from zkapex.proofs.layer.moment import moment_distance
from zkapex.proofs.messages import Delivery, Enrolment, ModelManifest
from zkapex.proofs.records.sealed import seal, unseal_enrolment
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import verify_receipt
from zkapex.transport.wire import pack, unpack


def closer(device: DeviceAgent, reply: RecordDict) -> RecordDict:
    """An enrolment that claims more than its proofs show."""
    _, blobs = unpack(reply, Delivery, 2**28)
    enrolment = unseal_enrolment(blobs["envelope"]).record
    first, *rest = enrolment.moments
    better = first.model_copy(update={"per_mille": first.per_mille - 1})
    lie = enrolment.model_copy(update={"moments": (better, *rest)})
    return pack(Delivery(), {"envelope": seal(lie, device.key).envelope})


def device(index: int, folder: Path, task: SmallTask) -> Agent:
    honest = DeviceAgent(folder, task, workers=1)
    return Altered(honest, "enrol", partial(closer, honest)) if index else honest


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(
        tmp_path_factory.mktemp("moment") / "run",
        clients=2,
        device=device,
        settings={"prove-curvature": True, "backend": "transparent", "operator": "guarded-group-obs"},
    )
    federation.serve()
    return federation


@pytest.fixture(scope="module")
def enrolled(finished: Federation) -> tuple[ModelManifest, Enrolment]:
    vault = Vault(finished.state(0)).inner("enrolment")
    manifest = ModelManifest.from_bytes(vault.get("manifest.json"))
    with finished.registry() as registry:
        return manifest, registry.enrolment(finished.client_id(0))


def test_only_who_shows_it_is_enrolled(finished: Federation) -> None:
    result = finished.result()
    (row,) = result["clients"]
    assert (row["client_id"], row["verdict"]) == (finished.client_id(0), "proved")
    (reason,) = (one["reason"] for one in result["not_enrolled"])
    assert "the enrolled state of layer" in reason


def test_a_receipt_says_so_and_all_of_it_is_checked_again(finished: Federation) -> None:
    (row,) = finished.result()["clients"]
    folder, key = finished.folder / str(row["receipt"]), load_public_key(finished.folder / "key.pub")
    verified = verify_receipt(folder, [key])
    facts = verified.bundle.receipt.facts
    assert facts.curvature_within is not None
    assert 0 < facts.curvature_within <= 0.0501
    assert facts.curvature_activations == 70
    predicate = verified.bundle.receipt.statement.predicate
    assert any("second moment of at most 70 activations per column block" in one.words() for one in predicate.shows)
    assert any("are of real data" in one.words() for one in predicate.does_not_show)


def test_what_does_not_fit_the_enrolment_is_rejected(enrolled: tuple[ModelManifest, Enrolment]) -> None:
    manifest, enrolment = enrolled
    engine = backend("transparent").open(manifest, {})
    engine.verify_enrolment(enrolment)
    first, *rest = enrolment.moments
    assert len(enrolment.moments) == sum(manifest.blocks(layer) for layer in manifest.layers)
    for changes, why in (
        ({"moments": (first.model_copy(update={"scale": first.scale + 1}), *rest)}, "enrolled state of layer"),
        ({"moments": (first.model_copy(update={"per_mille": 101}), *rest)}, "within 101 per mille"),
        ({"moments": (first.model_copy(update={"per_mille": 100, "scale": 65536}), *rest)}, "says of its curvature"),
        ({"moments": (*rest, first)}, "enrolled state of layer"),
        ({"moments": tuple(rest)}, "2 column blocks"),
        ({"moments": ()}, "0 column blocks"),
        ({"nonce": "0" * 64}, "enrolled state of layer"),
        ({"theta": enrolment.theta[:1]}, "commits to 1 layers"),
        ({"theta": (*enrolment.theta, enrolment.theta[0])}, "commits to 3 layers"),
    ):
        with pytest.raises((ProofError, CommitmentError), match=why):
            engine.verify_enrolment(enrolment.model_copy(update=changes))


def test_what_nobody_asked_for_is_refused(enrolled: tuple[ModelManifest, Enrolment]) -> None:
    manifest, enrolment = enrolled
    plain = manifest.model_copy(update={"curvature_check": None})
    with pytest.raises(ProofError, match="3 column blocks"):
        moment_distance(plain, enrolment)
    assert moment_distance(plain, enrolment.model_copy(update={"moments": ()})) is None


def test_another_releases_proofs_are_refused_by_name(enrolled: tuple[ModelManifest, Enrolment]) -> None:
    manifest, _ = enrolled
    assert manifest.curvature_check is not None
    other = manifest.curvature_check.model_copy(update={"circuit_digest": "0" * 64})
    with pytest.raises(ReceiptError, match="parameters"):
        backend("transparent").open(manifest.model_copy(update={"curvature_check": other}), {})
