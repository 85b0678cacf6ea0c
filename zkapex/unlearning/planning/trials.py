"""The copies of its model that a provider tries deletions on, what a deletion does to them, and the resulting plan.

What is tried is what will run: the operator's own code (`zkapex.unlearning.operators`) on quantised weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.circuits.encoding import exponent_for, quantise
from zkapex.circuits.operators.tolerances import GUARD_BITS
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, EncodedCurvature, curvature_of
from zkapex.unlearning.operators import Terms, operator
from zkapex.unlearning.planning.mask import ChunkShape
from zkapex.unlearning.planning.saliency import margins
from zkapex.unlearning.weights import put_weight, weight_of

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Examples = tuple[torch.Tensor, torch.Tensor]


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
class FixedPoint:
    """How weights, curvature and guard are encoded; see `zkapex.unlearning.curvature.factor` and the operators."""

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
        """How curvature is encoded; meaningless if the statement has none."""
        return CurvatureEncoding.of(self.statement, self.kappa)


@dataclass(frozen=True)
class Contrast:
    """Two models that differ in whether they were trained on the forget set, to tell what training on it did.

    Where examples like those to forget stay, a model that never saw these answers most of them all the same. How far it
    does so differs from example to example, and this is what membership inference looks at.

    Attributes
    ----------
    taught, untaught : nn.Module
        The first was trained on it.
    """

    taught: nn.Module
    untaught: nn.Module

    def change(self, forget_set: Examples) -> torch.Tensor:
        """By how many logits each label's margin grows if it was never trained on, float32 of the labels' shape."""
        return margins_of(self.untaught, forget_set) - margins_of(self.taught, forget_set)


@dataclass(frozen=True)
class Target:
    """What counts as success.

    Attributes
    ----------
    forget : float
        Forget accuracy every copy must come down to, with the forget logits raised by ``margin``.
    retain_cost : float
        Retain and personal accuracy any copy may lose.
    margin : float
        In logits. What clients may differ from the copies by.
    """

    forget: float
    retain_cost: float
    margin: float


@dataclass(frozen=True)
class Setting:
    """How a plan was made.

    Attributes
    ----------
    scorer : str
        Of the masked weights; ``dampening`` for selective synaptic dampening.
    fraction : float
        Share of all weights that is masked; asked for, or for dampening what came of alpha.
    guard_rank : int
    alpha, strength : float or None
        For dampening.
    concentration : float
        Of the mask, see `zkapex.unlearning.planning.mask.concentrated`.
    """

    scorer: str
    fraction: float
    guard_rank: int
    alpha: float | None = None
    strength: float | None = None
    concentration: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a setting did to the provider's copies.

    Attributes
    ----------
    setting : Setting
    masked_weights, touched_rows, touched_chunks : int
        Weights set to zero or dampened, and (row, column block) pairs and chunks with at least one of them. Those that
        earlier requests masked count.
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
        Per layer, one per column block; empty for operators without a guard.
    curve : tuple of Outcome
    factors : mapping of str to int64 array [out, in]
        For dampening, in units of ``1 / FACTOR_UNIT``, one (`FACTOR_UNIT`) where unmasked; else empty.
    steering : mapping of (str, int) to int64 array [out, r]
        By layer and column block, see `zkapex.unlearning.operators.Terms`.
    targets : mapping of (str, int) to int64 array [out, r]
        Likewise.
    """

    chosen: Outcome
    masks: Mapping[str, BoolArray]
    guards: Mapping[str, tuple[IntArray, ...]]
    curve: tuple[Outcome, ...]
    factors: Mapping[str, IntArray] = field(default_factory=dict)
    steering: Mapping[tuple[str, int], IntArray] = field(default_factory=dict)
    targets: Mapping[tuple[str, int], IntArray] = field(default_factory=dict)

    @property
    def terms(self) -> Terms:
        """The plan as operators take it."""
        return Terms(self.masks, self.guards, self.factors, self.steering, self.targets)


_WORSE_THAN_REMEMBERING = 2.0
"""Above any forget accuracy."""


class Trial:
    """One copy as the operator sees it: quantised weights and encoded curvature.

    Attributes
    ----------
    deployed : nn.Module
        The copy with quantised weights.
    curvature : mapping of str to tuple of EncodedCurvature
        Empty if the statement has none.
    retain, personal : float
        Accuracy before.
    """

    def __init__(self, source: Copy, names: Sequence[str], exponents: Mapping[str, int], encoding: FixedPoint) -> None:
        self.source, self.exponents, self.limit = source, exponents, encoding.weight_limit
        self._operator = operator(encoding.statement.kind)
        self.weights = {n: quantise(weight_of(source.model, n), exponents[n], self.limit) for n in names}
        self.deployed = self._with(self.weights)
        self.curvature: dict[str, tuple[EncodedCurvature, ...]] = {}
        if encoding.statement.curvature != "none":
            self.curvature = curvature_of(self.deployed, names, source.calibration, encoding.curvature)
        self.retain = accuracy(self.deployed, source.retain)
        self.personal = None if source.personal is None else accuracy(self.deployed, source.personal)

    def unlearn(self, terms: Terms, headroom: float = 1.0) -> nn.Module:
        """The copy after the operator.

        Raises
        ------
        RangeExceededError
            A result leaves that share of the circuit's range.
        """
        limit = int(self.limit * headroom)
        after, _ = self._operator.change(
            self.weights, terms, lambda name: [block.matrix for block in self.curvature[name]], limit
        )
        return self._with(after)

    def _with(self, weights: Mapping[str, IntArray]) -> nn.Module:
        model = copy.deepcopy(self.source.model).eval()
        for name, theta in weights.items():
            put_weight(model, name, theta, self.exponents[name])
        return model


def trials_of(
    copies: Sequence[Copy], names: Sequence[str], encoding: FixedPoint, exponents: Mapping[str, int] | None = None
) -> list[Trial]:
    """Every copy as the operator sees it.

    Parameters
    ----------
    copies : sequence of Copy
    names : sequence of str
        Target layers.
    encoding : FixedPoint
    exponents : mapping of str to int, optional
        log2 of layers' scales; the first copy, the global model, decides those of the others.

    Raises
    ------
    InputError
        If there is no copy or no layer.
    """
    if not copies or not names:
        raise InputError("a search needs at least one copy, one target layer and one example to forget")
    given = exponents or {}
    scales = {
        name: given[name] if name in given else exponent_for(weight_of(copies[0].model, name), encoding.weight_limit)
        for name in names
    }
    return [Trial(c, names, scales, encoding) for c in copies]


def judge(
    trials: Sequence[Trial],
    models: Sequence[nn.Module],
    forget_set: Examples,
    target: Target,
    setting: Setting,
    masks: Mapping[str, BoolArray],
    chunk: ChunkShape,
) -> Outcome:
    """What a setting did: `models` are the trials' copies after the operator."""
    retain = [accuracy(model, trial.source.retain) for trial, model in zip(trials, models, strict=True)]
    personal = [
        (accuracy(model, trial.source.personal), trial.personal)
        for trial, model in zip(trials, models, strict=True)
        if trial.source.personal is not None and trial.personal is not None
    ]
    raised = max(accuracy(model, forget_set, target.margin) for model in models)
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
        forget=max(accuracy(model, forget_set) for model in models),
        forget_raised=raised,
        retain=sum(retain) / len(retain),
        personal=sum(after for after, _ in personal) / len(personal) if personal else 0.0,
        retain_loss=retain_loss,
        personal_loss=personal_loss,
        reaches_target=raised <= target.forget,
        within_cost=max(retain_loss, personal_loss) <= target.retain_cost,
    )


def choose(found: Sequence[Plan], cost_first: bool = False) -> Plan:
    """The plan that forgets, then is within the cost, then has least of what there should be little of.

    With `cost_first` one that is within the cost comes before one that forgets and is not.

    Each of `found` carries its own outcome only; the choice carries all of them as its curve.
    """
    best = min(found, key=lambda plan: _preference(plan.chosen, cost_first))
    return replace(best, curve=tuple(plan.chosen for plan in found))


def _preference(outcome: Outcome, cost_first: bool) -> tuple[bool, bool, float, float]:
    loss = max(outcome.retain_loss, outcome.personal_loss)
    if cost_first and not outcome.within_cost:
        return True, True, _WORSE_THAN_REMEMBERING + loss, outcome.masked_weights
    if not outcome.reaches_target:
        return True, True, outcome.forget_raised, loss
    if not outcome.within_cost:
        return False, True, loss, outcome.masked_weights
    return False, False, outcome.masked_weights, loss


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, raised: float = 0.0) -> float:
    """Accuracy, over tokens where each has a label, with the logits of the right labels raised by ``raised``."""
    inputs, labels = examples
    size = max(1, 512 // labels[0].numel())  # bounds the memory of logits
    hits = 0
    for x, y in zip(torch.split(inputs, size), torch.split(labels, size), strict=True):
        logits, own = model(x).flatten(0, -2), y.flatten()
        logits[torch.arange(len(own)), own] += raised
        hits += int((logits.argmax(1) == own).sum())
    return hits / labels.numel()


@torch.no_grad()
def margins_of(model: nn.Module, examples: Examples) -> torch.Tensor:
    """`zkapex.unlearning.planning.saliency.margins` of each label, float32 of the labels' shape."""
    inputs, labels = examples
    size = max(1, 512 // labels[0].numel())  # bounds the memory of logits
    parts = zip(torch.split(inputs, size), torch.split(labels, size), strict=True)
    return torch.cat([margins(model(x), y) for x, y in parts])
