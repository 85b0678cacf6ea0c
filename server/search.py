"""The smallest deletion that works, found on the provider's own copies of the model.

A mask costs accuracy and, per touched chunk, proving time, so a request should carry the smallest one that makes the
model forget. The provider cannot see the clients' models. It tries on the global model and on *proxies*: copies it
personalised itself on shifted public data. What is tried is what will run: the full guarded operator on quantised
weights.

The mask is grown in steps. After each, every copy goes through the operator with the mask and guard so far, and the
next weights are chosen by their saliency in the models that result: saliency is a first-order promise, which a mask
chosen in one go at theta_0 does not keep. The guard is built from the forget gradients met on the way.

Two things make the plan hold on models nobody has looked at: a step must succeed on *all* copies, and forgetting is
judged with the forget logit raised by a margin.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.circuits.encoding import dequantise, exponent_for, quantise
from zkapex.circuits.statement import StatementSpec
from zkapex.client.curvature import KAPPA, CurvatureEncoding, EncodedCurvature, curvature_of
from zkapex.client.group_obs import GUARD_BITS, RangeExceededError, solve_layer
from zkapex.errors import InputError
from zkapex.server.guard import gradient_gram, guard_blocks
from zkapex.server.mask import ChunkShape, concentrated
from zkapex.server.saliency import score, statistics

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Examples = tuple[torch.Tensor, torch.Tensor]

FRACTIONS = (0.0025, 0.005, *(round(0.005 * step, 3) for step in range(2, 21)))


@dataclass(frozen=True)
class Copy:
    """A model the provider tries deletions on.

    Attributes
    ----------
    model : nn.Module
        The global model or a proxy. Never changed.
    calibration : tensor [n, ...]
        Inputs its curvature is taken from.
    retain : (inputs, labels)
        General examples it is to keep.
    personal : (inputs, labels) or None
        Examples of the proxy's own domain it is to keep.
    """

    model: nn.Module
    calibration: torch.Tensor
    retain: Examples
    personal: Examples | None = None

    def kept(self) -> Examples:
        """All examples it is to keep."""
        if self.personal is None:
            return self.retain
        return torch.cat([self.retain[0], self.personal[0]]), torch.cat([self.retain[1], self.personal[1]])


@dataclass(frozen=True)
class SearchSpace:
    """What to try, and what counts as success.

    Attributes
    ----------
    scorers, guard_ranks : tuple
        Each combination is grown on its own.
    fractions : tuple of float
        Sizes of the growing mask, increasing.
    forget_target : float
        Forget accuracy every copy must come down to, with the forget logits raised by ``margin``.
    retain_cost : float
        Retain and personal accuracy any copy may lose.
    margin : float
        In logits. What clients may differ from the copies by.
    concentration : float
        From 0, the most salient weights wherever they are, to 1, as few chunks as can hold the mask:
        `zkapex.server.mask.concentrated`.
    """

    scorers: tuple[str, ...] = ("taylor", "aware")
    guard_ranks: tuple[int, ...] = (4,)
    fractions: tuple[float, ...] = FRACTIONS
    forget_target: float = 0.01
    retain_cost: float = 0.05
    margin: float = 3.0
    concentration: float = 0.0

    def __post_init__(self) -> None:
        if not self.scorers or not self.guard_ranks or not self.fractions:
            raise InputError("a search needs at least one scorer, guard rank and fraction")
        if any(a >= b for a, b in zip((0.0, *self.fractions), (*self.fractions, 1.1), strict=True)):
            raise InputError("mask fractions must increase, from above 0 to at most 1", why=repr(self.fractions))
        if not 0 <= self.concentration <= 1:
            raise InputError(f"concentration must be from 0 to 1, not {self.concentration}")


@dataclass(frozen=True)
class FixedPoint:
    """How weights, curvature and guard are encoded; see `zkapex.client.curvature` and `zkapex.client.group_obs`."""

    statement: StatementSpec
    kappa: int = KAPPA
    guard_bits: int = GUARD_BITS

    @property
    def weight_limit(self) -> int:
        """Largest integer weight."""
        return self.statement.weight_limit

    @property
    def block_width(self) -> int:
        """Columns B of a chunk."""
        return self.statement.block_width

    @property
    def chunk(self) -> ChunkShape:
        """Rows and columns of a chunk."""
        return ChunkShape(self.statement.rows_per_chunk, self.statement.block_width)

    @property
    def curvature(self) -> CurvatureEncoding:
        """How curvature is encoded."""
        return CurvatureEncoding.of(self.statement, self.kappa)


@dataclass(frozen=True)
class Setting:
    """How a mask and guard were made."""

    scorer: str
    fraction: float
    guard_rank: int
    concentration: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a setting did to the provider's copies.

    Attributes
    ----------
    setting : Setting
    masked_weights, touched_rows, touched_chunks : int
        Weights that are zero, and (row, column block) pairs and chunks with at least one of them. Those that earlier
        requests masked count.
    forget, forget_raised : float
        Worst forget accuracy of a copy, as it is and with the forget logits raised by the margin.
    retain, personal : float
        Mean accuracy over the copies; personal is 0 if no copy has personal examples.
    retain_loss, personal_loss : float
        The most any copy lost.
    reaches_target, within_cost : bool
        Whether ``forget_raised``, and the two losses, are as asked.
    """

    setting: Setting
    masked_weights: int
    touched_rows: int
    touched_chunks: int
    forget: float
    forget_raised: float
    retain: float
    personal: float
    retain_loss: float
    personal_loss: float
    reaches_target: bool
    within_cost: bool


@dataclass(frozen=True)
class Plan:
    """The chosen setting with its public parts, and every outcome on the way there.

    Attributes
    ----------
    chosen : Outcome
    masks : mapping of str to bool array [out, in]
    guards : mapping of str to tuple of int64 arrays [B, r]
        Per layer, one per column block.
    curve : tuple of Outcome
    """

    chosen: Outcome
    masks: Mapping[str, BoolArray]
    guards: Mapping[str, tuple[IntArray, ...]]
    curve: tuple[Outcome, ...]


def search(
    copies: Sequence[Copy],
    names: Sequence[str],
    forget_set: Examples,
    encoding: FixedPoint,
    space: SearchSpace | None = None,
    earlier: Mapping[str, BoolArray] | None = None,
) -> Plan:
    """Grow masks until every copy has forgotten, and choose the smallest that does so at an acceptable cost.

    If none is within the cost, the one that forgets and loses least is chosen; if none forgets, the one that forgets
    most. `Outcome.reaches_target` and `Outcome.within_cost` of the choice say which.

    Parameters
    ----------
    copies : sequence of Copy
        The global model first: it decides the layers' scales.
    names : sequence of str
        Target layers.
    forget_set : (inputs, labels)
    encoding : FixedPoint
    space : SearchSpace, optional
    earlier : mapping of str to bool array [out, in], optional
        What earlier requests masked, zero in every copy. The plan's mask includes it; fractions are of further weights.

    Raises
    ------
    InputError
        If there is no copy, no forget set, or no layer.
    RangeExceededError
        If not even the smallest mask of any setting stays within the circuit's range on every copy.
    """
    if not copies or not names or len(forget_set[1]) == 0:
        raise InputError("a search needs at least one copy, one target layer and one example to forget")
    space = space or SearchSpace()
    exponents = {name: exponent_for(_weight(copies[0].model, name), encoding.weight_limit) for name in names}
    trials = [_Trial(c, names, exponents, encoding) for c in copies]
    found: list[Plan] = []
    failure: RangeExceededError | None = None
    for scorer in space.scorers:
        for rank in space.guard_ranks:
            done = [p.chosen.masked_weights for p in found if p.chosen.reaches_target and p.chosen.within_cost]
            try:
                for plan in _grow(trials, names, forget_set, encoding, space, scorer, rank, earlier):
                    if done and plan.chosen.masked_weights >= min(done):
                        break
                    found.append(plan)
            except RangeExceededError as error:
                failure = error
    if not found:
        raise failure or InputError("the search tried nothing", fix="give at least one fraction")
    best = min(found, key=lambda plan: _preference(plan.chosen))
    return Plan(best.chosen, best.masks, best.guards, tuple(plan.chosen for plan in found))


class _Trial:
    """One copy as the operator sees it: quantised weights and encoded curvature."""

    def __init__(self, source: Copy, names: Sequence[str], exponents: Mapping[str, int], encoding: FixedPoint) -> None:
        self.source, self.exponents, self.limit = source, exponents, encoding.weight_limit
        self.weights = {n: quantise(_weight(source.model, n), exponents[n], self.limit) for n in names}
        self.deployed = self._with(self.weights)
        self.curvature: dict[str, tuple[EncodedCurvature, ...]] = curvature_of(
            self.deployed, names, source.calibration, encoding.curvature
        )
        self.retain = _accuracy(self.deployed, source.retain)
        self.personal = None if source.personal is None else _accuracy(self.deployed, source.personal)

    def unlearn(self, masks: Mapping[str, BoolArray], guards: Mapping[str, tuple[IntArray, ...]]) -> nn.Module:
        """The copy after the guarded operator."""
        after = {}
        for name, theta in self.weights.items():
            matrices = [block.matrix for block in self.curvature[name]]
            after[name] = theta + solve_layer(theta, masks[name], matrices, guards[name], self.limit).delta
        return self._with(after)

    @torch.no_grad()
    def _with(self, weights: Mapping[str, IntArray]) -> nn.Module:
        model = copy.deepcopy(self.source.model).eval()
        for name, theta in weights.items():
            model.get_parameter(f"{name}.weight").copy_(torch.from_numpy(dequantise(theta, self.exponents[name])))
        return model


def _grow(
    trials: Sequence[_Trial],
    names: Sequence[str],
    forget_set: Examples,
    encoding: FixedPoint,
    space: SearchSpace,
    scorer: str,
    rank: int,
    earlier: Mapping[str, BoolArray] | None,
) -> Iterator[Plan]:
    """Plans of growing size, up to the first that reaches the target; each carries only its own outcome."""
    models = [trial.deployed for trial in trials]
    masks: dict[str, BoolArray] = {name: np.zeros(trials[0].weights[name].shape, np.bool_) for name in names}
    masks |= earlier or {}
    start = sum(int(mask.sum()) for mask in masks.values())
    gram: dict[str, FloatArray] = {}
    total = sum(mask.size for mask in masks.values())
    for fraction in space.fractions:
        scores = {name: np.zeros(mask.shape) for name, mask in masks.items()}
        for trial, model in zip(trials, models, strict=True):
            layers = statistics(model, names, forget_set, trial.source.kept(), trial.curvature)
            for name, values in score(scorer, layers).items():
                scores[name] += values
                gram[name] = gram.get(name, 0.0) + gradient_gram(layers[name].forget_gradient, encoding.block_width)
        masked = sum(int(mask.sum()) for mask in masks.values())
        more = min(start + round(fraction * total), total) - masked
        if more > 0:
            masks = concentrated(scores, more / total, encoding.chunk, space.concentration, masks)
        guards = {name: guard_blocks(gram[name], rank, encoding.guard_bits) for name in names}
        models = [trial.unlearn(masks, guards) for trial in trials]
        setting = Setting(scorer, fraction, rank, space.concentration)
        outcome = _judge(trials, models, forget_set, space, setting, masks, encoding.chunk)
        yield Plan(outcome, masks, guards, ())
        if outcome.reaches_target:
            return


def _judge(
    trials: Sequence[_Trial],
    models: Sequence[nn.Module],
    forget_set: Examples,
    space: SearchSpace,
    setting: Setting,
    masks: Mapping[str, BoolArray],
    chunk: ChunkShape,
) -> Outcome:
    retain = [_accuracy(model, trial.source.retain) for trial, model in zip(trials, models, strict=True)]
    personal = [
        (_accuracy(model, trial.source.personal), trial.personal)
        for trial, model in zip(trials, models, strict=True)
        if trial.source.personal is not None and trial.personal is not None
    ]
    raised = max(_accuracy(model, forget_set, space.margin) for model in models)
    retain_loss = max(trial.retain - after for trial, after in zip(trials, retain, strict=True))
    personal_loss = max((before - after for after, before in personal), default=0.0)
    return Outcome(
        setting=setting,
        masked_weights=sum(int(mask.sum()) for mask in masks.values()),
        touched_rows=sum(
            int(mask[:, start : start + chunk.columns].any(1).sum())
            for mask in masks.values()
            for start in range(0, mask.shape[1], chunk.columns)
        ),
        touched_chunks=chunk.touched(masks),
        forget=max(_accuracy(model, forget_set) for model in models),
        forget_raised=raised,
        retain=sum(retain) / len(retain),
        personal=sum(after for after, _ in personal) / len(personal) if personal else 0.0,
        retain_loss=retain_loss,
        personal_loss=personal_loss,
        reaches_target=raised <= space.forget_target,
        within_cost=max(retain_loss, personal_loss) <= space.retain_cost,
    )


def _preference(outcome: Outcome) -> tuple[bool, bool, float, float]:
    """Sort key: forgets, then within cost, then whatever there is least of."""
    loss = max(outcome.retain_loss, outcome.personal_loss)
    if not outcome.reaches_target:
        return True, True, outcome.forget_raised, loss
    if not outcome.within_cost:
        return False, True, loss, outcome.masked_weights
    return False, False, outcome.masked_weights, loss


@torch.no_grad()
def _accuracy(model: nn.Module, examples: Examples, raised: float = 0.0) -> float:
    """Accuracy with the logit of each example's own label raised by ``raised``."""
    inputs, labels = examples
    hits = 0
    for x, y in zip(torch.split(inputs, 512), torch.split(labels, 512), strict=True):
        logits = model(x)
        logits[torch.arange(len(y)), y] += raised
        hits += int((logits.argmax(1) == y).sum())
    return hits / len(labels)


def _weight(model: nn.Module, name: str) -> FloatArray:
    weight: FloatArray = model.get_parameter(f"{name}.weight").detach().double().numpy(force=True)
    return weight
