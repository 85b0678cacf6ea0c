"""Targets planned against an opponent: directions V and what the result must be along them, fitted on copies.

The operator (`zkapex.unlearning.operators.targets`) is differentiable in both, so both are fitted by gradient descent
through it, on the provider's copies. What is asked of every copy that results:

* another label wins by a margin on what is to be forgotten, also with the targets scaled by `Opponent.scales`, which is
  what somebody with the receipt can do;
* answers on what is to be kept are what they were, without the labels that go;
* the deleted class is no cluster: the mean of a few normalised representations of it is a bad prototype for the others;
* it stays forgotten when the copy is trained on a few examples (*rehearsal*): every few steps each copy is relearned
  from some, and the margin is asked for with the weights shifted by as much;
* weights and multipliers stay well within the range of the circuit.

Where examples like those to forget stay, these are not to be answered wrongly, but like ones that were never seen: with
a `Contrast`, each label's margin is fitted to its own level, from both sides, and scaled targets are not to give more
away than that. There is no class then that could be relearned or found to be a cluster.

V starts from the forget gradients' directions, T from what the copies have along them on average.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch.func import functional_call, vmap
from torch.nn import functional

from zkapex.errors import InputError
from zkapex.proofs.chunk.demands import Along
from zkapex.unlearning.operators import Terms
from zkapex.unlearning.planning.asked import Asked, deleted_labels, prototypes
from zkapex.unlearning.planning.guard import gradient_gram
from zkapex.unlearning.planning.keep import room, stacked
from zkapex.unlearning.planning.opponent import Opponent
from zkapex.unlearning.planning.planner import Planner, Question
from zkapex.unlearning.planning.saliency import statistics
from zkapex.unlearning.planning.steps import OnCount, Step, counted, no_count
from zkapex.unlearning.planning.trials import (
    Contrast,
    Examples,
    FixedPoint,
    Plan,
    Setting,
    Trial,
    judge,
)

IntArray = npt.NDArray[np.int64]
Key = tuple[str, int]
State = dict[str, torch.Tensor]

_NEVER = -1e4
_HEADROOM = 0.85
"""Share of the circuit's range that weights of the copies may use."""


@dataclass(frozen=True)
class Planned:
    """Directions and targets in integers.

    Attributes
    ----------
    guards : mapping of str to tuple of int64 [B, r]
        By layer, one per column block.
    targets : mapping of (str, int) to int64 [rows, r]
        In the guards' units.
    """

    guards: Mapping[str, tuple[IntArray, ...]]
    targets: Mapping[Key, IntArray] = field(default_factory=dict)

    def terms(self, weights: Mapping[str, IntArray]) -> Terms:
        """As operators take it, with nothing masked."""
        masks = {name: np.zeros(weights[name].shape, np.bool_) for name in self.guards}
        return Terms(masks, self.guards, targets=self.targets)


def fit_targets(
    trials: Sequence[Trial],
    names: Sequence[str],
    forget_set: Examples,
    encoding: FixedPoint,
    settings: Opponent,
    on_fitted: OnCount = no_count,
    earlier: Mapping[Key, Along] | None = None,
    contrast: Contrast | None = None,
) -> Planned:
    """Directions and targets for these layers, beside those of earlier requests. Deterministic.

    Parameters
    ----------
    trials : sequence of Trial
        Copies with curvature.
    names : sequence of str
        Layers that get targets, in every column block.
    forget_set : (inputs, labels)
    encoding : FixedPoint
    settings : Opponent
    on_fitted : callable, optional
        Told of every step.
    earlier : mapping of (str, int) to Along, optional
        What is prescribed already, and stays. New directions are fitted where there is room for any.
    contrast : Contrast, optional
        Each copy's margins on the forget set are to change as its two models' differ, instead of reaching one margin.

    Raises
    ------
    InputError
        The copies have no curvature matrix that their rows share; or no block has room for a direction.
    """
    if encoding.statement.curvature != "kfac":
        raise InputError("targets are planned with kfac curvature", fix="choose curvature kfac")
    fit = _Fit(trials, names, forget_set, encoding, settings, earlier or {}, contrast)
    optimiser = torch.optim.Adam([
        {"params": list(fit.targets.values()), "lr": settings.step_size},
        {"params": list(fit.directions.values()), "lr": settings.direction_step_size},
    ])  # fmt: skip
    rates = [group["lr"] for group in optimiser.param_groups]
    for step in range(settings.steps):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / settings.steps) ** 0.5
        if settings.shots and step >= settings.start and (step - settings.start) % settings.every == 0:
            fit.rehearse()
        optimiser.zero_grad()
        fit.loss().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        on_fitted(1)
    return fit.encoded()


class _Fit:
    """Copies whose weights are a differentiable function of V and T, all copies at a time."""

    def __init__(
        self,
        trials: Sequence[Trial],
        names: Sequence[str],
        forget_set: Examples,
        encoding: FixedPoint,
        settings: Opponent,
        earlier: Mapping[Key, Along],
        contrast: Contrast | None,
    ) -> None:
        self._earlier = {key: one for key, one in earlier.items() if key[0] in names}
        self._trials, self._forget, self._how, self._encoding = trials, forget_set, settings, encoding
        self._asked = Asked.of(trials, forget_set, settings.margin, contrast)
        self._kept = [trial.source.kept() for trial in trials]
        self._base = copy.deepcopy(trials[0].deployed).eval()
        self._names = tuple(names)
        self._limits = {name: encoding.weight_limit * 2.0 ** -trials[0].exponents[name] for name in names}
        states = [dict(trial.deployed.named_parameters()) for trial in trials]
        self._start: State = {name: torch.stack([s[name].detach() for s in states]) for name in states[0]}
        self._inverse: dict[Key, torch.Tensor] = {}
        self._own: dict[Key, torch.Tensor] = {}
        width = encoding.block_width
        for name in names:
            weight = self._start[f"{name}.weight"]
            for block in range(-(-weight.shape[2] // width)):
                part = weight[:, :, block * width : (block + 1) * width]
                size = part.shape[2]
                matrices = [trial.curvature[name][block].matrix[:size, :size].astype(np.float64) for trial in trials]
                self._inverse[name, block] = torch.from_numpy(np.linalg.inv(np.stack(matrices)))
                self._own[name, block] = part
        self.directions = self._first_directions()
        self.targets = {
            key: (self._own[key] @ v.detach()).mean(0).clone().requires_grad_(True)
            for key, v in self.directions.items()
        }
        self._generator = torch.Generator().manual_seed(0)
        self._gone = [deleted_labels(forget_set[1], kept[1]) for kept in self._kept]
        self._shift: State | None = None
        self._head = "head" in dict(self._base.named_modules()) and forget_set[1].ndim == 1

    def _first_directions(self) -> dict[Key, torch.Tensor]:
        """The forget gradients' top right-singular vectors, orthonormal [b, r]."""
        gram: dict[str, npt.NDArray[np.float64]] = {}
        for trial in self._trials:
            layers = statistics(trial.deployed, self._names, self._forget, trial.source.kept(), trial.curvature)
            for name in self._names:
                found = gradient_gram(layers[name].forget_gradient, self._encoding.block_width)
                gram[name] = gram.get(name, 0.0) + found
        directions = {}
        for (name, block), part in self._own.items():
            size = part.shape[2]
            free = np.eye(size)
            if (name, block) in self._earlier:  # what is orthogonal to the directions there are
                old, _ = np.linalg.qr(self._earlier[name, block].directions[:size].astype(np.float64))
                free = np.linalg.svd(np.eye(size) - old @ old.T)[0][:, : size - old.shape[1]]
            _, vectors = np.linalg.eigh(free.T @ gram[name][block][:size, :size] @ free)
            most = room(self._earlier, (name, block), self._encoding.statement.guard_rank)
            rank = min(self._how.rank, free.shape[1] - 1, most)
            if rank < 1:
                continue
            first = torch.from_numpy(free @ vectors[:, ::-1][:, :rank]).float()
            directions[name, block] = first.requires_grad_(True)
        if not directions:
            raise InputError(
                "no block has room for another direction",
                why=f"earlier requests have prescribed along {self._encoding.statement.guard_rank} in each",
                fix="begin a federation with a larger guard-rank",
            )
        return directions

    def _prescribed(self, key: Key, scale: float) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Directions and targets of a block, those of earlier requests first; the new targets scaled."""
        new = (self.directions[key], scale * self.targets[key]) if key in self.directions else None
        if key not in self._earlier:
            return new
        old, unit = self._earlier[key], 2.0**self._encoding.guard_bits
        v = torch.from_numpy(old.directions[: self._own[key].shape[2]] / unit).float()
        t = torch.from_numpy(old.targets / unit * 2.0 ** -self._trials[0].exponents[key[0]]).float()
        return (v, t) if new is None else (torch.cat([v, new[0]], 1), torch.cat([t, new[1]], 1))

    def weights(self, scale: float = 1.0) -> tuple[State, torch.Tensor]:
        """All copies after the operator with T scaled, and by how much they leave the circuit's range."""
        layers: dict[str, list[torch.Tensor]] = {}
        excess = torch.zeros(())
        for (name, block), own in self._own.items():
            prescribed = self._prescribed((name, block), scale)
            if prescribed is None:
                layers.setdefault(name, []).append(own)
                continue
            v, wanted = prescribed
            inverse = self._inverse[name, block]
            z = inverse @ v.double()
            gram = v.double().T @ z
            gram = gram + 1e-9 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(v.shape[1])
            missing = wanted - own @ v
            multipliers = torch.linalg.solve(gram, missing.double().mT).mT
            new = own + (multipliers @ z.mT).float()
            layers.setdefault(name, []).append(new)
            if scale == 1.0:
                limit = self._limits[name]
                unit = 2.0 ** -self._trials[0].exponents[name] * 2.0**self._encoding.guard_bits
                mu = (multipliers / unit / self._encoding.weight_limit).float()
                for used in (new / limit, mu):
                    excess = excess + functional.relu(used.abs() - _HEADROOM).square().sum()
        return {**self._start, **{f"{name}.weight": torch.cat(w, 2) for name, w in layers.items()}}, excess

    def loss(self) -> torch.Tensor:
        """Of a batch of every copy."""
        how = self._how
        state, excess = self.weights()
        count = len(self._trials)
        f = [torch.randperm(len(self._forget[1]), generator=self._generator)[: how.forget_batch] for _ in range(count)]
        size = min(how.retain_batch, *(len(kept[1]) for kept in self._kept))
        k = [torch.randperm(len(kept[1]), generator=self._generator)[:size] for kept in self._kept]
        forgotten, labels = (torch.stack([part[i] for i in f]) for part in self._forget)
        kept_inputs = torch.stack([kept[0][i] for kept, i in zip(self._kept, k, strict=True)])
        kept_labels = torch.stack([kept[1][i] for kept, i in zip(self._kept, k, strict=True)])
        logits, features = self._run(state, torch.cat([forgotten, kept_inputs], 1))
        n = forgotten.shape[1]
        with torch.no_grad():
            former, _ = self._run(self._start, kept_inputs)
            for one, gone in zip(former, self._gone, strict=True):
                one[..., gone] = _NEVER
        now, before = (x.log_softmax(-1).flatten(0, -2) for x in (logits[:, n:], former))
        loss = how.retain_weight * functional.kl_div(now, before, log_target=True, reduction="batchmean")
        loss = loss + self._asked.missing(logits[:, :n], labels, f) + 10.0 * excess
        if how.prototypes and features is not None:
            loss = loss + how.prototypes * prototypes(features, kept_labels, n, logits.shape[-1])
        if self._shift is not None:
            times = len(how.shots)
            shifted = {name: v.repeat_interleave(times, 0) + self._shift[name] for name, v in state.items()}
            again, _ = self._run(shifted, forgotten.repeat_interleave(times, 0))
            loss = loss + how.rehearsal_weight * self._asked.shortfall(
                again, labels.repeat_interleave(times, 0), [i for i in f for _ in range(times)]
            )
        for scale in how.scales:
            scaled, _ = self._run(self.weights(scale)[0], forgotten)
            loss = loss + self._asked.shortfall(scaled, labels, f) / len(how.scales)
        return loss

    def rehearse(self) -> None:
        """Relearn every copy as it is now from each number of shots, and keep how far its weights went."""
        with torch.no_grad():
            now = {name: value.detach() for name, value in self.weights()[0].items()}
        times, jobs = len(self._how.shots), len(self._how.shots) * len(self._trials)
        start = {name: value.repeat_interleave(times, 0) for name, value in now.items()}
        params = {name: value.clone().requires_grad_(True) for name, value in start.items()}
        most = max(self._how.shots)
        shots = torch.tensor([self._how.shots[job % times] for job in range(jobs)])
        held = torch.stack([
            torch.randperm(len(self._forget[1]), generator=self._generator)[:most] for _ in range(jobs)
        ])  # fmt: skip
        beside = 64
        weight = torch.cat([torch.ones(jobs, beside), (torch.arange(held.shape[1])[None] < shots[:, None]).float()], 1)
        weight = weight / weight.sum(1, keepdim=True)
        optimiser = torch.optim.Adam(list(params.values()), lr=self._how.rehearsal_rate)
        for _ in range(self._how.rehearsal_steps):
            index = [
                torch.randint(len(self._kept[job // times][1]), (beside,), generator=self._generator)
                for job in range(jobs)
            ]
            inputs, labels = (
                torch.cat([
                    torch.stack([self._kept[job // times][part][i] for job, i in enumerate(index)]),
                    self._forget[part][held],
                ], 1)
                for part in (0, 1)
            )  # fmt: skip
            logits, _ = self._run(params, inputs)
            each = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
            each = each.reshape(jobs, labels.shape[1], -1).mean(2)
            optimiser.zero_grad()
            (each * weight).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self._shift = {name: (params[name] - start[name]).detach() for name in params}

    def encoded(self) -> Planned:
        """V orthonormal and in integers, T with it."""
        unit = 2.0**self._encoding.guard_bits
        statement, width = self._encoding.statement, self._encoding.block_width
        guards: dict[str, list[IntArray]] = {name: [] for name in self._names}
        targets: dict[Key, IntArray] = {}
        for name, _ in self._own:
            guards[name].append(np.zeros((width, statement.guard_rank), np.int64))
        for (name, block), v in self.directions.items():
            q, r = np.linalg.qr(v.detach().double().numpy())
            t = np.linalg.solve(r.T, self.targets[name, block].detach().double().numpy().T).T
            directions = np.zeros((width, q.shape[1]), np.int64)
            directions[: len(q)] = np.rint(q * unit)
            scaled = np.rint(t * 2.0 ** self._trials[0].exponents[name] * unit / statement.guard_limit)
            new = Along(directions, scaled.clip(-(2**15) + 1, 2**15 - 1).astype(np.int64) * statement.guard_limit)
            old = self._earlier.get((name, block))
            one = new if old is None else stacked(old, new, statement.guard_limit)
            count = one.directions.shape[1]
            guards[name][block][:, :count] = one.directions
            targets[name, block] = np.zeros((len(t), statement.guard_rank), np.int64)
            targets[name, block][:, :count] = one.targets
        return Planned({name: tuple(blocks) for name, blocks in guards.items()}, targets)

    def _run(self, state: State, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [copies, n, ...] and, if there is a head, what goes into it."""
        if not self._head:
            return vmap(lambda p, x: functional_call(self._base, p, (x,)))(state, inputs), None

        def both(parameters: State, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen: list[torch.Tensor] = []
            handle = self._base.get_submodule("head").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            try:
                logits = functional_call(self._base, parameters, (x,))
            finally:
                handle.remove()
            return logits, seen[0]

        found: tuple[torch.Tensor, torch.Tensor] = vmap(both)(state, inputs)
        return found


class Targeting(Planner):
    """Fits targets against each of the space's opponents, in order; the first that is enough ends it."""

    def check(self, question: Question) -> None:
        """See `Planner`."""
        if question.space.concentration or question.earlier:
            raise InputError("targets are planned for whole column blocks, neither by chunk nor beside an earlier mask")
        if question.encoding.statement.curvature != "kfac":
            raise InputError("targets are planned with kfac curvature", fix="choose curvature kfac")

    def plans(self, question: Question) -> Iterator[Plan]:
        """See `Planner`."""
        space, encoding, trials = question.space, question.encoding, question.trials
        for opponent in space.opponents:
            step = Step("targets", opponent.rank, 0.0, "targets", 0, opponent.steps)
            on_fitted = counted(question.on_step, step)
            earlier = question.standing.demands.along
            planned = fit_targets(
                trials, question.names, question.forget_set, encoding, opponent, on_fitted, earlier, question.contrast
            )
            terms = planned.terms(trials[0].weights)
            models = [trial.unlearn(terms) for trial in trials]
            setting = Setting("targets", 0.0, opponent.rank)
            outcome = judge(trials, models, question.forget_set, space.target, setting, terms.masks, encoding.chunk)
            rows = [len(values) for values in planned.targets.values()]
            chunks = sum(-(-count // encoding.chunk.rows) for count in rows)
            outcome = replace(outcome, touched_rows=sum(rows), touched_chunks=chunks)
            yield Plan(outcome, terms.masks, planned.guards, (), targets=planned.targets)
            if outcome.reaches_target and outcome.within_cost:
                return


PLANNER = Targeting()
