"""The smallest deletion that works, found on the provider's own copies of the model.

A mask costs accuracy and, per touched chunk, proving time, so a request should carry the smallest one that makes the
model forget. The provider cannot see the clients' models. It tries on the global model and on *proxies*: copies it
personalised itself on shifted public data. What is tried is what will run: the full operator on quantised weights.

For ``guarded-group-obs`` and ``mask-only`` the mask is grown in steps. After each, every copy goes through the operator
with the mask and guard so far, and the next weights are chosen by their saliency in the models that result: saliency is
a first-order promise, which a mask chosen in one go at theta_0 does not keep. The guard is built from the forget
gradients met on the way. After each step the repair is also steered along the guard
(`zkapex.unlearning.planning.steering`), and what comes of that is judged; the mask grows on the models without it,
since one that is steered to forget no longer tells which weights matter. For ``dampening`` see
`zkapex.unlearning.planning.dampening`.

Two things make the plan hold on models nobody has looked at: a step must succeed on *all* copies, and forgetting is
judged with the forget logit raised by a margin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from zkapex.circuits.operators import declared
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError
from zkapex.unlearning.operators import Terms
from zkapex.unlearning.operators.group_obs import RangeExceededError
from zkapex.unlearning.planning.dampening import ALPHAS, STRENGTHS
from zkapex.unlearning.planning.guard import gradient_gram, guard_blocks
from zkapex.unlearning.planning.mask import concentrated
from zkapex.unlearning.planning.opponent import Opponent
from zkapex.unlearning.planning.planner import Planner, Question, planner
from zkapex.unlearning.planning.saliency import score, statistics
from zkapex.unlearning.planning.standing import Standing
from zkapex.unlearning.planning.steering import STEER, Steer, fit_steering
from zkapex.unlearning.planning.steps import OnStep, Step, counted, no_step
from zkapex.unlearning.planning.trials import (
    BoolArray,
    Contrast,
    Copy,
    Examples,
    FixedPoint,
    FloatArray,
    IntArray,
    Outcome,
    Plan,
    Setting,
    Target,
    Trial,
    choose,
    judge,
    trials_of,
)

__all__ = ["FRACTIONS", "Copy", "FixedPoint", "Outcome", "Plan", "SearchSpace", "Setting", "search"]

_HEADROOM, _WEAKER, _WEAKENINGS = 0.8, 0.75, 8
FRACTIONS = (0.0025, 0.005, *(round(0.005 * step, 3) for step in range(2, 21)))


@dataclass(frozen=True)
class SearchSpace:
    """What to try, and what counts as success.

    Attributes
    ----------
    scorers, guard_ranks : tuple or None
        Each combination is grown on its own. None: ``taylor``, and ``aware`` where there is curvature; the statement's
        guard rank.
    fractions : tuple of float
        Sizes of the growing mask, increasing.
    least : float
        Sizes below it are only passed through where the repair is steered: it would make a model forget with hardly
        any mask, but clients' models the less reliably the fewer rows it can move.
    alphas, strengths : tuple of float
        For dampening, instead of all of the above.
    directed : bool
        For dampening: whether weights whose shrinking would lower the forget loss are left alone.
    forget_target : float
        Forget accuracy every copy must come down to, with the forget logits raised by ``margin``.
    retain_cost : float
        Retain and personal accuracy any copy may lose.
    margin : float
        In logits. What clients may differ from the copies by.
    concentration : float
        From 0, the most salient weights wherever they are, to 1, as few chunks as can hold the mask:
        `zkapex.unlearning.planning.mask.concentrated`. Not for dampening.
    steer : Steer or None
        How the steering along the guard is fitted; None for none. Only where there is a guard and the circuit's
        products are checked at a challenge.
    cost_first : bool
        If no mask forgets within the cost: whether to stay within it and forget as much as that allows.
    opponents : tuple of Opponent
        For operators with targets, instead of scorers, ranks and fractions: what they are planned against, the
        cheapest first.
    """

    scorers: tuple[str, ...] | None = None
    guard_ranks: tuple[int, ...] | None = None
    fractions: tuple[float, ...] = FRACTIONS
    least: float = 0.0
    alphas: tuple[float, ...] = ALPHAS
    strengths: tuple[float, ...] = STRENGTHS
    directed: bool = True
    forget_target: float = 0.01
    retain_cost: float = 0.05
    margin: float = 3.0
    concentration: float = 0.0
    steer: Steer | None = STEER
    cost_first: bool = False
    opponents: tuple[Opponent, ...] = (Opponent(),)

    def __post_init__(self) -> None:
        if self.scorers == () or self.guard_ranks == () or not self.fractions:
            raise InputError("a search needs at least one scorer, guard rank and fraction")
        if any(a >= b for a, b in zip((0.0, *self.fractions), (*self.fractions, 1.1), strict=True)):
            raise InputError("mask fractions must increase, from above 0 to at most 1", why=repr(self.fractions))
        if not 0 <= self.least <= self.fractions[-1]:
            raise InputError(f"no mask is as large as the least one, {self.least}")
        if not 0 <= self.concentration <= 1:
            raise InputError(f"concentration must be from 0 to 1, not {self.concentration}")
        if not self.alphas or not self.strengths or min(*self.alphas, *self.strengths) <= 0:
            raise InputError("a search needs at least one alpha and strength, all above 0")

    @property
    def target(self) -> Target:
        """What counts as success."""
        return Target(self.forget_target, self.retain_cost, self.margin)

    def for_statement(self, statement: StatementSpec) -> SearchSpace:
        """The space without what a statement has no use for, and with no larger margin than its planner holds."""
        space = replace(self, margin=min(self.margin, planner(statement.kind).largest_margin))
        return replace(space, scorers=None, guard_ranks=None) if statement.curvature == "none" else space

    def combinations(self, statement: StatementSpec) -> list[tuple[str, int]]:
        """The scorers and guard ranks to grow a mask by, in order."""
        scorers = self.scorers or (("taylor",) if statement.curvature == "none" else ("taylor", "aware"))
        return [(scorer, rank) for scorer in scorers for rank in self.guard_ranks or (statement.guard_rank,)]


def search(
    copies: Sequence[Copy],
    names: Sequence[str],
    forget_set: Examples,
    encoding: FixedPoint,
    space: SearchSpace | None = None,
    earlier: Mapping[str, BoolArray] | None = None,
    contrast: Contrast | None = None,
    on_step: OnStep = no_step,
    standing: Standing | None = None,
) -> Plan:
    """Try deletions of growing size until every copy has forgotten; choose the smallest that does at acceptable cost.

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
        Not for dampening.
    contrast : Contrast, optional
        Where the forget set is to be answered like examples that were never seen: what steering aims at, see
        `zkapex.unlearning.planning.steering`.
    on_step : callable, optional
        Told where the search is; not of dampening, which looks at the examples once.
    standing : Standing, optional
        Scales that clients have enrolled under, and targets that the plan keeps.

    Raises
    ------
    InputError
        If there is no copy, no forget set, or no layer; or a scorer needs curvature that the operator has not; or no
        weight matters more to the forget set than any alpha asks for.
    RangeExceededError
        If not even the smallest mask of any setting stays within the circuit's range on every copy.
    """
    if len(forget_set[1]) == 0:
        raise InputError("a search needs at least one copy, one target layer and one example to forget")
    space = space or SearchSpace()
    chooser = planner(encoding.statement.kind)
    if not copies or not names:
        raise InputError("a search needs at least one copy, one target layer and one example to forget")
    question = Question((), names, forget_set, encoding, space, earlier, contrast, on_step, standing or Standing())
    chooser.check(question)
    trials = trials_of(copies, names, encoding, question.standing.exponents)
    found: list[Plan] = []
    failure: RangeExceededError | None = None
    try:
        for plan in chooser.plans(replace(question, trials=trials)):
            found.append(plan)
    except RangeExceededError as error:
        failure = error
    if not found:
        raise failure or InputError("the search tried nothing", fix="give at least one fraction")
    return choose(found, space.cost_first)


class Growing(Planner):
    """A mask that grows, of the scorers and guard ranks of the search space: for what zeroes weights."""

    def plans(self, question: Question) -> Iterator[Plan]:
        """See `Planner`. Of a scorer whose masks leave the range, those before count, and the next is tried."""
        q, space = question, question.space
        found: list[Plan] = []
        failure: RangeExceededError | None = None
        for scorer, rank in space.combinations(q.encoding.statement):
            done = [p.chosen.masked_weights for p in found if p.chosen.reaches_target and p.chosen.within_cost]
            ceiling = min(done, default=None)
            try:
                for plan in _grow(
                    q.trials, q.names, q.forget_set, q.encoding, space, scorer, rank, q.earlier, ceiling, q.contrast,
                    q.on_step,
                ):  # fmt: skip
                    found.append(plan)
                    yield plan
            except RangeExceededError as error:
                failure = error
        if failure:
            raise failure


PLANNER = Growing()


def _grow(
    trials: Sequence[Trial],
    names: Sequence[str],
    forget_set: Examples,
    encoding: FixedPoint,
    space: SearchSpace,
    scorer: str,
    rank: int,
    earlier: Mapping[str, BoolArray] | None,
    ceiling: int | None,
    contrast: Contrast | None,
    on_step: OnStep,
) -> Iterator[Plan]:
    """Plans of growing size, up to the first that reaches the target or masks as much as `ceiling`.

    Each carries only its own outcome.
    """
    models = [trial.deployed for trial in trials]
    masks: dict[str, BoolArray] = {name: np.zeros(trials[0].weights[name].shape, np.bool_) for name in names}
    masks |= earlier or {}
    start = sum(int(mask.sum()) for mask in masks.values())
    gram: dict[str, FloatArray] = {}
    guarded = "guards" in declared(encoding.statement.kind).terms
    steered = guarded and rank > 0 and encoding.statement.freivalds and space.steer is not None
    total = sum(mask.size for mask in masks.values())
    for fraction in space.fractions:
        scores = {name: np.zeros(mask.shape) for name, mask in masks.items()}
        examples = sum(len(forget_set[1]) + len(trial.source.kept()[1]) for trial in trials)
        on_examples = counted(on_step, Step(scorer, rank, fraction, "saliency", 0, examples))
        for trial, model in zip(trials, models, strict=True):
            layers = statistics(model, names, forget_set, trial.source.kept(), trial.curvature, on_examples)
            for name, values in score(scorer, layers).items():
                scores[name] += values
                gram[name] = gram.get(name, 0.0) + gradient_gram(layers[name].forget_gradient, encoding.block_width)
        masked = sum(int(mask.sum()) for mask in masks.values())
        more = min(start + round(fraction * total), total) - masked
        if more > 0:
            masks = concentrated(scores, more / total, encoding.chunk, space.concentration, masks)
        if ceiling is not None and sum(int(mask.sum()) for mask in masks.values()) >= ceiling:
            return
        guards = {name: guard_blocks(gram[name], rank, encoding.guard_bits) for name in names if guarded}
        models = [trial.unlearn(Terms(masks, guards)) for trial in trials]
        if steered and fraction < space.least:
            continue
        after = models
        steering: dict[tuple[str, int], IntArray] = {}
        if steered and space.steer:
            on_fitted = counted(on_step, Step(scorer, rank, fraction, "steering", 0, space.steer.steps))
            fitted = fit_steering(trials, masks, guards, forget_set, encoding, space.steer, contrast, on_fitted)
            steering, after = _within_range(trials, Terms(masks, guards, steering=fitted), encoding)
        setting = Setting(scorer, fraction, rank, concentration=space.concentration)
        outcome = judge(trials, after, forget_set, space.target, setting, masks, encoding.chunk)
        yield Plan(outcome, masks, guards, (), steering=steering)
        if outcome.reaches_target:
            return


def _within_range(
    trials: Sequence[Trial], terms: Terms, encoding: FixedPoint
) -> tuple[dict[tuple[str, int], IntArray], list[nn.Module]]:
    """The steering, weakened until every copy stays well within the circuit's range, and the copies that it makes.

    Raises
    ------
    RangeExceededError
        Not even next to no steering does.
    """
    unit, steering = encoding.statement.guard_limit, dict(terms.steering)
    for _ in range(_WEAKENINGS):
        try:
            return steering, [trial.unlearn(replace(terms, steering=steering), _HEADROOM) for trial in trials]
        except RangeExceededError:
            steering = {
                key: np.rint(values * _WEAKER / unit).astype(np.int64) * unit for key, values in steering.items()
            }
    return {}, [trial.unlearn(replace(terms, steering={})) for trial in trials]
