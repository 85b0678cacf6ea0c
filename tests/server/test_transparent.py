"""The transparent backend through whole runs: what it leaves, who is caught, and what a receipt of it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import CHEATERS, Federation, ForgettingTask, SmallTask, honest, mixed, refused
from life import MASKS, LivingProvider, committed, deployed, left
from near import proving

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent
from zkapex.client.state.place import MARK
from zkapex.errors import InputError, ReceiptError, VerificationError
from zkapex.proofs.backends import ABOUT, backend, check_backend
from zkapex.proofs.messages import Enrolment, ModelManifest
from zkapex.proofs.receipts.bundle import read_bundle
from zkapex.proofs.receipts.chain import verify_chain
from zkapex.proofs.receipts.evidence import Evidence, derive
from zkapex.proofs.records.sealed import unseal_enrolment
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import Policy, verify_receipt
from zkapex.simulation.federation.adversaries import make_cheat

SETTINGS = {"backend": "transparent", "batch": 2}


def living(folder: Path, **settings: Any) -> Federation:
    return Federation(
        folder,
        clients=1,
        provider=LivingProvider(),
        epochs=3,
        settings={**SETTINGS, "personal-epochs": 1, **settings},
    )


def ask(federation: Federation, *request_ids: str) -> dict[str, Any]:
    federation.settings["requests"] = ",".join(request_ids)
    return federation.serve()


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Two honest devices and one for every way to cheat. Not to be changed."""
    federation = Federation(
        tmp_path_factory.mktemp("transparent") / "run", clients=2 + len(CHEATERS), device=mixed, settings=SETTINGS
    )
    federation.serve()
    return federation


TUNED = ("half",)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """The default operator: targets, met and held while the honest device trains on. Not to be changed."""

    def device(index: int, folder: Path, task: SmallTask) -> Agent:
        return make_cheat(TUNED[index - 1], folder, task, workers=1) if index else honest(index, folder, task)

    federation = Federation(
        tmp_path_factory.mktemp("tuned") / "run",
        clients=1 + len(TUNED),
        device=device,
        settings={**SETTINGS, "operator": "targeted-group-obs", "tune-epochs": 2, "tune-lr": 1e-3},
        task=ForgettingTask,
    )
    federation.serve()
    return federation


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Two requests on one enrolment, proved in processes of their own. Not to be changed."""
    federation = living(tmp_path_factory.mktemp("chained") / "run", operator="guarded-group-obs")
    with proving(here=False):
        ask(federation, "request-1")
        ask(federation, "request-2")
    return federation


def test_the_honest_prove_and_every_cheat_is_caught(market: Federation) -> None:
    result = market.result()
    for index in (0, 1):
        row = market.row(result, index)
        assert row["verdict"] == "proved", row["reason"]
        assert row["chunks"] == 2  # of two layers
        assert row["accuracy"]["after"]["forget"] <= row["accuracy"]["before"]["forget"] - 0.3
    for index in range(2, 2 + len(CHEATERS)):
        row = market.row(result, index)
        assert row["verdict"] == "quarantined", CHEATERS[index - 2]


def test_targets_are_proved_and_held_by_whoever_trains_on(tuned: Federation) -> None:
    result = tuned.result()
    row = tuned.row(result, 0)
    assert row["verdict"] == "proved", row["reason"]
    for index in range(1, 1 + len(TUNED)):
        row = tuned.row(result, index)
        assert row["verdict"] == "quarantined", TUNED[index - 1]
    enrolment = enrolled(tuned)
    assert enrolment.revision == 1
    assert enrolment.continuation is not None
    assert enrolment.continuation.theta is None  # not the same weights
    assert enrolment.continuation.held is not None
    assert enrolment.continuation.held.proofs
    assert enrolment.continuation.held.guards


def test_a_chain_is_verified_without_what_the_backend_does_not_need(tuned: Federation) -> None:
    done = without_others("verify", str(tuned.folder / "receipts"), "--trust", str(tuned.folder / "key.pub"), "--chain")
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "request-1 proved (experimental backend, not reviewed); 1 enrolments; 0 weights zero" in said
    assert said.count("request-1 failed (experimental backend, not reviewed)") == len(TUNED)
    assert done.stderr == ""


def without_others(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command where ezkl, onnx, torch and Flower cannot be imported."""
    program = (
        "import sys\n"
        "for name in ('ezkl', 'onnx', 'py_ecc', 'torch', 'flwr'): sys.modules[name] = None\n"
        f"sys.argv = ['zkapex', *{list(arguments)!r}]\n"
        "from zkapex.cli import main\nmain()\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_receipts_say_what_they_rest_on(market: Federation) -> None:
    result, key = market.result(), load_public_key(market.folder / "key.pub")
    verified = verify_receipt(market.folder / market.row(result, 0)["receipt"], [key])
    facts = verified.bundle.dossier.facts
    assert verified.chunks == 2
    assert verified.srs is None
    assert (facts.backend, facts.review) == ("transparent", "experimental backend, not reviewed")
    assert facts.srs_digest is None
    assert facts.settings_digest is None
    said = verified.bundle.receipt.statement.predicate
    assert "anybody" in {saying.id for saying in said.shows}  # type: ignore[union-attr]
    assert "not-reviewed" in {saying.id for saying in said.does_not_show}  # type: ignore[union-attr]
    assert "zkapex-transparent" in said.outcome.software.prover
    assert verified.bundle.receipt.outcome.certified_distance


def test_receipts_of_failure_carry_the_proof_that_was_refused(market: Federation) -> None:
    result, key = market.result(), load_public_key(market.folder / "key.pub")
    verified = verify_receipt(market.folder / market.row(result, 2)["receipt"], [key])
    assert verified.bundle.receipt.outcome.verdict == "failed"
    assert verified.bundle.evidence.rejected


def test_a_receipt_is_verified_without_ezkl_onnx_or_a_reference_string(market: Federation) -> None:
    path = market.folder / market.row(market.result(), 0)["receipt"]
    done = without_others("verify", str(path), "--trust", str(market.folder / "key.pub"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "proved (experimental backend, not reviewed)" in done.stdout


def test_a_reference_string_that_is_named_is_for_another_receipt(market: Federation) -> None:
    path = market.folder / market.row(market.result(), 0)["receipt"]
    refused(lambda: verify_receipt(path, Policy(srs="0" * 64)), ReceiptError)


def test_where_ezkl_is_missing_halo2_is_refused_by_name() -> None:
    program = (
        "import sys\nsys.modules['ezkl'] = None\n"
        "from zkapex.proofs.backends import backend\n"
        "from zkapex.errors import InputError\n"
        "backend('transparent')\n"
        "try:\n    backend('halo2')\nexcept InputError as e:\n    print(e.what, '|', e.why, '|', e.fix)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    what, why, fix = done.stdout.split("|")
    assert "halo2" in what
    assert "ezkl" in why
    assert "transparent" in fix


@pytest.mark.parametrize(
    "asked",
    [
        {"operator": "guarded-group-obs", "curvature": "block-fisher"},
        {"operator": "guarded-group-obs", "audit": "sampled"},
    ],
)
def test_what_cannot_be_proved_is_refused_by_name(asked: dict[str, Any]) -> None:
    check_backend("halo2", **asked)
    error = refused(lambda: check_backend("transparent", **asked), InputError)
    assert "transparent" in error.what
    assert "halo2" in error.fix


def test_unknown_backends_are_refused() -> None:
    assert "halo2, transparent" in refused(lambda: backend("plonky"), InputError).fix
    assert set(ABOUT) == {"halo2", "transparent"}


# -- one request after another ----------------------------------------------------------------------------------------


def receipts(federation: Federation, request_id: str) -> Path:
    (path,) = (federation.folder / "receipts" / request_id).glob("*")
    return path


def test_a_later_proof_rests_on_the_earlier_ones_which_come_with_it(chained: Federation) -> None:
    key = load_public_key(chained.folder / "key.pub")
    verified = verify_receipt(receipts(chained, "request-2"), [key])
    (link,) = verified.bundle.dossier.links
    assert link.instance.request.request_id == "request-1"
    assert {chunk for _, chunk in verified.bundle.evidence.before} == set(link.instance.touched)
    for masks in (MASKS["request-1"], MASKS["request-2"]):
        assert left(deployed(chained, 0), masks) == left(committed(chained.state(0)), masks) == 0
    (chain,) = verify_chain(chained.folder / "receipts", [key])
    assert [v.bundle.receipt.outcome.verdict for v in chain.receipts] == ["proved"] * 2


def evidence_of(federation: Federation, request_id: str) -> Evidence:
    return read_bundle(receipts(federation, request_id)).evidence


def test_a_receipt_without_what_it_rests_on_is_refused(chained: Federation) -> None:
    from dataclasses import replace

    evidence, key = evidence_of(chained, "request-2"), load_public_key(chained.folder / "key.pub")
    derive(evidence, None, [key])
    first = min(evidence.before)
    fewer = {at: proof for at, proof in evidence.before.items() if at != first}
    for wrong in (
        replace(evidence, before=fewer),
        replace(evidence, before={**evidence.before, (9, 0): b"x"}),
        replace(evidence, asked=()),
        replace(evidence, asked=(evidence.request,)),
        replace(evidence, earlier=(), asked=(), before={}),
        replace(evidence, settings=b"{}"),
    ):
        refused(lambda wrong=wrong: derive(wrong, None, [key]), ReceiptError)


def test_an_earlier_proof_that_does_not_hold_is_noticed(chained: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    from zkapex.proofs.verify import receipt as module

    def altered(path: Path) -> dict[str, bytes]:
        files = original(path)
        name = next(name for name in files if name.startswith("before/"))
        return {**files, name: files[name][:-1] + bytes([files[name][-1] ^ 1])}

    original = module.read_files
    monkeypatch.setattr(module, "read_files", altered)
    monkeypatch.setattr(module, "check_files", _trusting)
    key = load_public_key(chained.folder / "key.pub")
    with pytest.raises(VerificationError, match="request request-1, which this one starts from"):
        verify_receipt(receipts(chained, "request-2"), [key])


def _trusting(receipt: Any, files: dict[str, bytes]) -> Any:
    """As `check_files`, but for the digests of files: whoever signs can list any."""
    from zkapex.proofs.receipts.bundle import COMPANIONS, RECEIPT_FILE, Bundle
    from zkapex.proofs.records.signing import public_key_from_hex

    evidence = Evidence.from_files({n: d for n, d in files.items() if n not in COMPANIONS and n != RECEIPT_FILE})
    key = public_key_from_hex(receipt.statement.predicate.server_key)
    return Bundle(receipt, evidence, derive(evidence, None, [key]))


@pytest.mark.parametrize("operator", ["mask-only", "guarded-group-obs"])
def test_whoever_learns_in_between_enrols_again_by_proof(tmp_path: Path, operator: str) -> None:
    federation = living(tmp_path / "run", operator=operator, **{"personalise-between": True})
    ask(federation, "request-1")
    (row,) = ask(federation, "request-2")["clients"]
    assert (row["verdict"], row["revision"]) == ("proved", 1)
    enrolment = enrolled(federation)
    assert enrolment.continuation is not None
    assert enrolment.continuation.held is not None
    assert left(deployed(federation, 0), MASKS["request-1"]) == 0
    (chain,) = verify_chain(federation.folder / "receipts", [load_public_key(federation.folder / "key.pub")])
    assert chain.revisions == 2


def enrolled(federation: Federation) -> Enrolment:
    return unseal_enrolment((federation.state(0) / "enrolment" / "enrolment.json").read_bytes()).record


def test_a_state_restored_from_a_backup_is_not_opened_again(tmp_path: Path) -> None:
    """It cannot know what it has opened since: it says so, and proves only after it has enrolled again."""
    federation = living(tmp_path / "run", operator="guarded-group-obs")
    ask(federation, "request-1")
    state = federation.state(0)
    (path,) = state.glob(f"{MARK}*")
    mark = path.read_bytes()
    path.unlink()
    path.write_bytes(mark)  # as an archive brings it back
    (row,) = ask(federation, "request-2")["clients"]
    assert row["verdict"] == "failed"
    assert "backup" in row["reason"]
    (row,) = ask(federation, "request-3")["clients"]
    assert (row["verdict"], row["revision"]) == ("proved", 1)
    for masks in MASKS.values():
        assert left(deployed(federation, 0), masks) == 0


def test_the_manifest_says_which_backend_and_no_more_than_it_has(chained: Federation) -> None:
    data = (chained.state(0) / "enrolment" / "manifest.json").read_bytes()
    manifest = ModelManifest.from_bytes(data)
    assert manifest.backend == "transparent"
    assert manifest.n_chunks == len(manifest.layers)
    assert b"srs" not in data
    assert b"settings_digest" not in data
    fields = manifest.model_dump()
    for wrong in ({"srs_digest": "0" * 64}, {"backend": "halo2"}, {"backend": "other"}):
        with pytest.raises(ValueError, match=r"halo2|transparent"):
            ModelManifest(**{**fields, "statement": manifest.statement, "layers": manifest.layers, **wrong})
    other = manifest.model_copy(update={"circuit_digest": "0" * 64})
    refused(lambda: backend("transparent").open(other, {}), ReceiptError)


def test_devices_keep_their_commitments(chained: Federation) -> None:
    agent = DeviceAgent(chained.state(0), chained.tasks[0])
    with chained.registry() as registry:
        client = registry.client(agent.client_id)
    assert client is not None
    assert all(len(root) == 64 for root in client.theta)
    assert np.array_equal(agent.memory.theta(), tuple(client.theta))
