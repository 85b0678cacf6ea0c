"""One small federation per operator, and one with the other curvature: planned, applied, proved, receipted, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import HALO2, LAYERS, Federation, SmallTask, honest, perceptron

from zkapex.circuits.encoding import dequantise
from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.client.app import Agent
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import verify_receipt
from zkapex.server.requests.plan import StoredPlan, load_plan
from zkapex.simulation.federation.adversaries import make_cheat
from zkapex.storage import load_arrays

RUNS = {
    "mask-only": ("mask-only", "kfac", ("ignore", "half", "replay")),
    "dampening": ("dampening", "kfac", ("ignore", "half", "decoy", "replay")),
    "block-fisher": ("guarded-group-obs", "block-fisher", ("half",)),
}
"""Operator, curvature, and how the devices after the first cheat."""

OTHER_WEIGHTS = "does not commit to the weights after unlearning that were announced"
REASONS = {
    ("mask-only", "ignore"): "the proof does not show that masked weights are zero",
    ("mask-only", "half"): "the proof does not show that masked weights are zero",
    ("mask-only", "replay"): OTHER_WEIGHTS,
    ("dampening", "ignore"): OTHER_WEIGHTS,
    ("dampening", "half"): OTHER_WEIGHTS,
    ("dampening", "decoy"): "does not commit to the difference between the announced and the enrolled weights",
    ("dampening", "replay"): OTHER_WEIGHTS,
    ("block-fisher", "half"): "masked weights are zero and the rest is the guarded repair",
}
SHOWN = {
    "mask-only": ("masked weights at zero, whatever happened to the others", "anything to do with earlier ones"),
    "dampening": ("what the request's factors make of the weights before", "factors were chosen well"),
    "block-fisher": ("moved as guarded Group-OBS moves them", "curvature the client committed to"),
}


@dataclass(frozen=True)
class Ran:
    """A finished run."""

    name: str
    federation: Federation
    result: dict[str, Any]

    @property
    def operator(self) -> str:
        return RUNS[self.name][0]

    @property
    def plan(self) -> StoredPlan:
        plan = load_plan(self.federation.folder / "provider" / "requests" / "request-1")
        assert plan is not None
        return plan


# Slow: the circuits of all of them, and proofs that cheat, are in tests/circuits and tests/proofs; other runs that are
# quick have masks alone.
@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in RUNS])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Stopped once after planning, so that the plan is read back from disk."""
    operator, curvature, cheats = RUNS[request.param]

    def device(index: int, folder: Path, task: SmallTask) -> Agent:
        return make_cheat(cheats[index - 1], folder, task, workers=1) if index else honest(index, folder, task)

    settings = {**HALO2, "operator": operator, "curvature": curvature}
    folder = tmp_path_factory.mktemp(request.param) / "run"
    federation = Federation(folder, 1 + len(cheats), device, settings=settings)
    federation.run(lambda event: event["event"] == "search.done")
    result = federation.serve()
    assert federation.provider.plans == 1
    return Ran(request.param, federation, result)


def test_the_honest_client_is_proved_and_its_receipt_verifies(ran: Ran) -> None:
    row = ran.federation.row(ran.result, 0)
    assert (row["verdict"], row["reason"]) == ("proved", None)
    key = load_public_key(ran.federation.folder / "key.pub")
    verified = verify_receipt(ran.federation.folder / row["receipt"], [key])
    assert verified.chunks == row["chunks"] == row["chunks_proved"] > 0
    assert verified.bundle.receipt.facts.operator == ran.operator
    predicate = verified.bundle.receipt.statement.predicate
    shown, not_shown = SHOWN[ran.name]
    assert shown in " ".join(saying.words() for saying in predicate.shows)
    assert not_shown in " ".join(saying.words() for saying in predicate.does_not_show)
    assert (predicate.outcome.certified_distance is None) == (ran.operator == "mask-only")
    request, enrolment = (getattr(verified.bundle.dossier, part).record for part in ("request", "enrolment"))
    guarded = ran.operator == "guarded-group-obs"
    assert bool(request.tau_s) == bool(request.tau_g) == bool(request.guards) == guarded
    assert bool(enrolment.curvature) == bool(enrolment.damping) == guarded


def test_cheats_are_quarantined_for_what_they_did(ran: Ran) -> None:
    for index, cheat in enumerate(RUNS[ran.name][2], 1):
        row = ran.federation.row(ran.result, index)
        assert (row["verdict"], row["chunks_proved"]) == ("quarantined", 0), cheat
        assert REASONS[ran.name, cheat] in row["reason"]
        receipt = verify_receipt(ran.federation.folder / row["receipt"]).bundle.receipt
        assert receipt.outcome.verdict == "failed"


def test_clients_and_provider_change_their_models_alike(ran: Ran) -> None:
    """The masked weights, that is; what a repair does to the others depends on everybody's own data."""
    plan = ran.plan
    before = load_arrays(ran.federation.folder / "provider" / "global.npz")
    after = load_arrays(ran.federation.folder / "global-request-1.npz")
    exponents = {layer["name"]: layer["exponent"] for layer in ran.result["manifest"]["layers"]}
    assert before.keys() == perceptron().state_dict().keys()
    for name in LAYERS:
        mask, weight = plan.masks[name], f"{name}.weight"
        assert mask.any()
        theta, unlearned = before[weight].astype(float), after[weight].astype(float)
        if ran.operator == "dampening":
            assert np.array_equal(mask, plan.factors[name] < FACTOR_UNIT)
            grid = dequantise(np.array([1]), exponents[name])[0]
            assert np.abs(unlearned - theta * plan.factors[name] / FACTOR_UNIT).max() <= 1.01 * grid
        else:
            assert not unlearned[mask].any()
            assert plan.factors == {}
        moved = np.abs(unlearned - theta)[~mask].max() > 1.01 * dequantise(np.array([1]), exponents[name])[0]
        assert moved == (ran.operator == "guarded-group-obs")
    assert ran.result["global"]["after"]["forget"] < ran.result["global"]["before"]["forget"]
