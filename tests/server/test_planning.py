"""A plan survives the process that made it, and the provider's own model gets what the clients' get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import LAYERS, REQUEST, Federation, SmallProvider, perceptron, refused

from zkapex.circuits.profiles import profile
from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.errors import StorageError
from zkapex.proofs.messages import ModelManifest
from zkapex.server.requests.plan import StoredPlan, load_plan, save_plan, unlearn_global
from zkapex.unlearning.curvature.factor import CurvatureEncoding, curvature_of
from zkapex.unlearning.planning.search import Plan
from zkapex.unlearning.weights import encode_weights


@pytest.fixture(scope="module")
def plan() -> Plan:
    return SmallProvider().plan(perceptron(), profile("tiny").statement())


@pytest.fixture(scope="module")
def dampening() -> Plan:
    return SmallProvider().plan(perceptron(), profile("tiny").statement(kind="dampening"))


def test_a_plan_comes_back_as_it_was(tmp_path: Path, plan: Plan) -> None:
    assert load_plan(tmp_path) is None
    stored = save_plan(tmp_path, plan)
    again = load_plan(tmp_path)
    assert again is not None
    for one in (stored, again):
        assert one.chosen["masked_weights"] == plan.chosen.masked_weights
        assert one.chosen["scorer"] == plan.chosen.setting.scorer
        assert len(one.curve) == len(plan.curve)
        for name in LAYERS:
            assert one.masks[name].dtype == np.bool_
            assert np.array_equal(one.masks[name], plan.masks[name])
            assert np.array_equal(one.guards[name], np.stack(plan.guards[name]))


def test_factors_come_back_as_they_were(tmp_path: Path, dampening: Plan) -> None:
    stored = save_plan(tmp_path, dampening)
    assert stored.guards == stored.guard_map() == {}
    assert (stored.chosen["alpha"], stored.chosen["strength"]) == (2.0, 0.25)
    for name in LAYERS:
        assert stored.factors[name].dtype == np.int64
        assert np.array_equal(stored.factors[name], dampening.factors[name])
        assert np.array_equal(stored.factors[name] < FACTOR_UNIT, stored.masks[name])


def test_guards_that_guard_nothing_are_left_out() -> None:
    guards = {"a": np.zeros((2, 3, 1), np.int64)}
    guards["a"][1, 0, 0] = -5
    ((key, block),) = StoredPlan({}, guards, {}, ()).guard_map().items()
    assert key == ("a", 1)
    assert block.dtype == np.int16
    assert block[0, 0] == -5


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"chosen": {}}'])
def test_a_damaged_plan_is_named(tmp_path: Path, plan: Plan, text: str) -> None:
    save_plan(tmp_path, plan)
    (tmp_path / "plan.json").write_text(text)
    assert "plan.json" in refused(lambda: load_plan(tmp_path), StorageError).what


def test_a_plan_without_its_arrays_is_damaged(tmp_path: Path, plan: Plan) -> None:
    save_plan(tmp_path, plan)
    (tmp_path / "plan.npz").unlink()
    assert "plan.npz" in refused(lambda: load_plan(tmp_path), StorageError).what


def test_a_plan_that_cannot_be_written(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / ".plan.json.partial").mkdir()
    refused(lambda: save_plan(tmp_path, plan), StorageError)
    assert load_plan(tmp_path) is None


def test_the_global_model_is_unlearned_and_left_alone(market: Federation, result: dict[str, Any], plan: Plan) -> None:
    manifest = ModelManifest.model_validate_json((market.state(0) / "enrolment" / "manifest.json").read_bytes())
    model = perceptron()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stored = load_plan(market.folder / "provider" / "requests" / REQUEST)
    assert stored is not None
    inputs = SmallProvider().curvature_inputs()
    encoded = curvature_of(model, list(LAYERS), inputs, CurvatureEncoding.of(manifest.statement))
    matrices = {name: [block.matrix for block in blocks] for name, blocks in encoded.items()}
    after = unlearn_global(model, manifest, matrices.__getitem__, stored)
    assert all((model.state_dict()[name] == value).all() for name, value in before.items())
    encoded = encode_weights(model, manifest)
    for name in LAYERS:
        assert not after[f"{name}.weight"][stored.masks[name]].any()
        assert (after[f"{name}.weight"] != before[f"{name}.weight"].numpy()).any()
        assert encoded[name].any()
    assert (after["head.weight"] == before["head.weight"].numpy()).all()
