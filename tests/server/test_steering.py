"""Steering on a provider's copies: what is fitted, that the operator does it, and that plans and requests carry it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError
from zkapex.server.requests.plan import load_plan, save_plan
from zkapex.simulation.data.digits import digits_scenario
from zkapex.simulation.models.tiny import ViTConfig, target_layers, vision_transformer
from zkapex.unlearning.operators import Terms
from zkapex.unlearning.operators.group_obs import response, solve
from zkapex.unlearning.personalise import FitSettings, fit
from zkapex.unlearning.planning import steering as steering_module
from zkapex.unlearning.planning.asked import deleted_labels
from zkapex.unlearning.planning.guard import gradient_gram, guard_blocks
from zkapex.unlearning.planning.mask import top_fraction
from zkapex.unlearning.planning.saliency import score, statistics
from zkapex.unlearning.planning.search import Copy, FixedPoint, Plan, SearchSpace, search
from zkapex.unlearning.planning.steering import Steer, fit_steering
from zkapex.unlearning.planning.trials import Contrast, Trial, accuracy, margins_of, trials_of

STATEMENT = StatementSpec(
    rows_per_chunk=32, block_width=32, weight_limit=8000, log2_rows=14, curvature_rank=32, ridge=192, guard_rank=2
)
ENCODING = FixedPoint(STATEMENT)
QUICK = Steer(steps=40, retain_weight=6.0, forget_batch=32, retain_batch=64)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One trained copy, a small mask and its guard."""

    trials: list[Trial]
    terms: Terms
    forget: tuple[torch.Tensor, torch.Tensor]

    def steering(self, steer: Steer = QUICK, contrast: Contrast | None = None) -> dict[tuple[str, int], np.ndarray]:
        return fit_steering(self.trials, self.terms.masks, self.terms.guards, self.forget, ENCODING, steer, contrast)


@pytest.fixture(scope="module")
def scene() -> Scene:
    world = digits_scenario(seed=0)
    model: nn.Module = vision_transformer(0, ViTConfig(depth=1))
    fit(model, *(torch.cat(p) for p in zip(world.forget_set, world.retain_set, strict=True)), FitSettings(10, 4e-3), 0)
    names = tuple(target_layers(model))
    copies = [Copy(model, world.retain_set.inputs, world.retain_set.take(torch.arange(200)))]
    trials = trials_of(copies, names, ENCODING)
    layers = statistics(model, names, world.forget_set, copies[0].retain, trials[0].curvature)
    masks = top_fraction(score("aware", layers), 0.01)
    guards = {n: guard_blocks(gradient_gram(layers[n].forget_gradient, 32), 2, 13) for n in names}
    return Scene(trials, Terms(masks, guards), world.forget_set)


def test_a_steered_copy_forgets_what_the_mask_alone_leaves_and_keeps_the_rest(scene: Scene) -> None:
    (trial,) = scene.trials
    plain = trial.unlearn(scene.terms)
    steered = trial.unlearn(dataclasses.replace(scene.terms, steering=scene.steering()))
    assert accuracy(plain, scene.forget) > 0.5
    assert accuracy(steered, scene.forget) < 0.1
    assert accuracy(steered, trial.source.retain) > trial.retain - 0.05


def test_steering_is_deterministic_and_only_of_rows_with_a_masked_weight(scene: Scene) -> None:
    first, second = scene.steering(), scene.steering()
    assert first
    assert first.keys() == second.keys()
    for (name, block), values in first.items():
        assert np.array_equal(values, second[name, block])
        assert values.shape == (len(scene.terms.masks[name]), STATEMENT.guard_rank)
        assert not (values % STATEMENT.guard_limit).any()
        masked = scene.terms.masks[name][:, block * 32 : (block + 1) * 32].any(1)
        assert not values[~masked].any()


class Lowered(nn.Module):
    """A model whose logit of one class is lower than another's."""

    def __init__(self, model: nn.Module, label: int, by: float) -> None:
        super().__init__()
        self.model, self.label, self.by = model, label, by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x)
        return logits - self.by * (torch.arange(logits.shape[1]) == self.label)


@pytest.mark.parametrize("by", [2.0, 5.0])
def test_with_a_contrast_labels_move_as_far_as_training_had_moved_them(scene: Scene, by: float) -> None:
    (trial,) = scene.trials
    steer = dataclasses.replace(QUICK, retain_weight=1.0)
    contrast = Contrast(trial.deployed, Lowered(trial.deployed, int(scene.forget[1][0]), by))
    assert torch.allclose(contrast.change(scene.forget), torch.tensor(by), atol=1e-4)
    steered = trial.unlearn(dataclasses.replace(scene.terms, steering=scene.steering(steer, contrast)))
    moved = margins_of(steered, scene.forget) - margins_of(trial.deployed, scene.forget)
    assert abs(float(moved.mean()) - by) < 1


def test_what_was_mistaken_for_a_deleted_class_is_not_to_be_any_longer(scene: Scene) -> None:
    """Kept examples that a copy calls the class say nothing in favour of it: the divergence is from other answers."""
    (trial,) = scene.trials
    kept = trial.source.kept()
    gone = deleted_labels(scene.forget[1], kept[1])
    assert gone.tolist() == scene.forget[1].unique().tolist()
    before = steering_module._former(trial, kept[0], gone)
    logits = trial.deployed(kept[0])
    others = torch.ones(logits.shape[1], dtype=torch.bool)
    others[gone] = False
    assert torch.equal(before[:, gone].exp(), torch.zeros(len(logits), 1))
    assert torch.allclose(before[:, others], logits[:, others].log_softmax(-1), atol=1e-5)


def test_labels_that_something_kept_has_too_stay_in_the_answers() -> None:
    """A backdoor's target, or the digit of one image that goes, is nothing that has to go altogether."""
    assert not len(deleted_labels(torch.tensor([0, 0, 7]), torch.tensor([1, 0, 2])))
    assert deleted_labels(torch.tensor([[3, 8], [8, 3]]), torch.tensor([[1, 0], [2, 2]])).tolist() == [3, 8]


def test_a_guard_whose_columns_are_masked_away_is_not_steered(scene: Scene) -> None:
    """What is left of the row cannot express the direction: asking it to would push its weights out of range."""
    name = next(iter(scene.terms.masks))
    mask = np.zeros_like(scene.terms.masks[name])
    mask[0, :8], mask[1, 20] = True, True
    guard = np.zeros((32, 2), np.int64)
    guard[[2, 5], [0, 1]] = STATEMENT.guard_limit
    guards = {n: tuple(np.zeros_like(b) for b in blocks) for n, blocks in scene.terms.guards.items()}
    guards[name] = (guard, *guards[name][1:])
    masks = {n: np.zeros_like(m) for n, m in scene.terms.masks.items()} | {name: mask}
    found = fit_steering(scene.trials, masks, guards, scene.forget, ENCODING, QUICK)
    assert set(found) == {(name, 0)}
    assert not found[name, 0][0].any()
    assert found[name, 0][1].any()


def test_the_response_is_the_solution_before_rounding() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 12))
    h = np.rint(x.T @ x * 100).astype(np.int64) + 50 * np.eye(12, dtype=np.int64)
    v = np.rint(np.linalg.qr(rng.normal(size=(12, 2)))[0] * 8192).astype(np.int64)
    theta, mask = rng.integers(-4000, 4000, (6, 12)), rng.random((6, 12)) < 0.2
    mask[:, 0] = True
    steering = rng.integers(-200, 200, (6, 2)) * 8192
    change, push = response(theta, mask, h, v)
    wanted = change + (push @ steering[:, :, None])[:, :, 0]
    assert np.abs(solve(theta, mask, h, v, 30000, steering).delta - wanted).max() <= 0.5
    assert np.allclose((wanted * ~mask) @ v, steering)


def test_a_plan_keeps_its_steering_on_disk_and_gives_it_to_requests(scene: Scene, tmp_path: Path) -> None:
    space = SearchSpace(("aware",), fractions=(0.01,), forget_target=0.02, margin=1.0, steer=QUICK)
    names = tuple(scene.terms.masks)
    found = search([scene.trials[0].source], names, scene.forget, ENCODING, space)
    assert isinstance(found, Plan)
    assert found.steering
    stored = save_plan(tmp_path, found)
    again = load_plan(tmp_path)
    assert again is not None
    assert again.terms.steering.keys() == found.steering.keys()
    for (name, block), small in stored.steering_map(STATEMENT.guard_limit).items():
        assert small.dtype == np.int16
        rows = found.masks[name][:, block * 32 : (block + 1) * 32].any(1)
        assert np.array_equal(small.astype(np.int64) * STATEMENT.guard_limit, found.steering[name, block][rows])
        assert np.array_equal(again.steering[name, block], found.steering[name, block])
    without = search([scene.trials[0].source], names, scene.forget, ENCODING, dataclasses.replace(space, steer=None))
    assert not without.steering
    assert without.chosen.forget > found.chosen.forget


@pytest.mark.parametrize("change", [{"steps": 0}, {"margin": 0.0}, {"retain_weight": -1.0}, {"step_size": 1.0}])
def test_impossible_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(QUICK, **change)  # type: ignore[arg-type]
