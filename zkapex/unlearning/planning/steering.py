"""Steering: how far each repaired row must move along its guard, fitted on the provider's copies.

A guard of zero steering keeps the repair out of the directions through which the forget set acts; all the forgetting is
left to the mask. With steering c the unmasked change d of a row satisfies ``V^T d = c`` instead, c being public and the
same for all clients, and is otherwise still the one that disturbs the layer's outputs least under the client's own
curvature. d is affine in c, so c can be fitted by gradient descent through the operator itself: away from what the
forget set's labels need, and towards what each copy answered before on examples that it is to keep. Labels that go
altogether, a deleted class, are left out of those answers: what was mistaken for the class is not to be any longer.

Where examples like those to forget stay, these are not to be answered wrongly, but like ones that were never seen. If a
`Contrast` tells what that means for each of them, each label's margin is fitted to its own level, from both sides.

A client that trains on may bring back what was only just forgotten. So on the way each copy is trained further, on what
it is to keep, and the forget set has to stay forgotten with the weights shifted by as much (*rehearsal*): there margins
may be larger than asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.func import functional_call
from torch.nn import functional

from zkapex.errors import InputError
from zkapex.unlearning.operators.group_obs import response
from zkapex.unlearning.personalise import FitSettings, fit
from zkapex.unlearning.planning.asked import deleted_labels
from zkapex.unlearning.planning.saliency import margins
from zkapex.unlearning.planning.steps import OnCount, no_count
from zkapex.unlearning.planning.trials import Contrast, Examples, FixedPoint, Trial, margins_of

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Key = tuple[str, int]

_EXPRESSIBLE = 0.05
"""A row is steered only if what is unmasked of each direction in the guard's span has at least this squared length."""
REHEARSED = (0.3, 0.6)
REHEARSAL = FitSettings(epochs=5, learning_rate=1e-3, decay=False)
_NEVER = -1e4
"""The logit of a label that is not to be answered any more: its probability is zero, the divergence from it finite."""


@dataclass(frozen=True)
class Steer:
    """How steering is fitted: Adam on all entries, its step size decaying to zero as the root of what is left.

    Attributes
    ----------
    steps : int
    margin : float
        In logits: by how much another label is to win on the forget set. More is not asked for. Without a contrast.
    retain_weight : float
        Of the divergence from the copy's former predictions on what it is to keep, against the missing margin. A label
        of the forget set counts as never predicted, unless something that is to be kept has one of its labels.
    step_size : float
        In units of the largest integer weight.
    forget_batch, retain_batch : int
        Examples per step and copy.
    rehearsal : FitSettings or None
        Further training of each copy, after each share `REHEARSED` of the steps.
    """

    steps: int = 100
    margin: float = 6.0
    retain_weight: float = 24.0
    step_size: float = 0.004
    forget_batch: int = 64
    retain_batch: int = 128
    rehearsal: FitSettings | None = REHEARSAL

    def __post_init__(self) -> None:
        if min(self.steps, self.forget_batch, self.retain_batch) < 1 or not 0 < self.step_size < 1:
            raise InputError("steering needs at least one step and example, and a step size between 0 and 1")
        if self.margin <= 0 or self.retain_weight < 0:
            raise InputError("the margin of steering must be positive, and no weight negative")


STEER = Steer()


def fit_steering(
    trials: Sequence[Trial],
    masks: Mapping[str, BoolArray],
    guards: Mapping[str, Sequence[IntArray]],
    forget_set: Examples,
    encoding: FixedPoint,
    settings: Steer,
    contrast: Contrast | None = None,
    on_fitted: OnCount = no_count,
) -> dict[Key, IntArray]:
    """Steering int64 [rows, r] by layer and column block, in multiples of the guard's unit; zero blocks are left out.

    Deterministic.

    Parameters
    ----------
    trials : sequence of Trial
        Copies with curvature.
    masks, guards
        As in `zkapex.unlearning.operators.Terms`.
    forget_set : (inputs, labels)
    encoding : FixedPoint
    settings : Steer
    contrast : Contrast, optional
        Each copy's margins on the forget set are to change as its two models' differ, instead of reaching one margin.
    on_fitted : callable, optional
        Told of every step.
    """
    away: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = _shortfall
    levels = [torch.full(forget_set[1].shape, settings.margin)] * len(trials)
    if contrast is not None:
        away, change = functional.smooth_l1_loss, contrast.change(forget_set)
        levels = [margins_of(trial.deployed, forget_set) + change for trial in trials]
    copies = [_Steered(trial, masks, guards, encoding) for trial in trials]
    shapes = {key: tuple(push.shape[::2]) for key, (_, _, push) in copies[0].parts.items()}
    values = {key: torch.zeros(shape, requires_grad=True) for key, shape in shapes.items()}
    unit = settings.step_size * encoding.weight_limit
    optimiser = torch.optim.Adam(list(values.values()), lr=unit)
    generator = torch.Generator().manual_seed(0)
    rehearsed = {int(share * settings.steps) for share in REHEARSED}
    gone = [deleted_labels(forget_set[1], trial.source.kept()[1]) for trial in trials]
    for step in range(settings.steps):
        optimiser.param_groups[0]["lr"] = unit * (1 - step / settings.steps) ** 0.5
        optimiser.zero_grad()
        for copy, trial, level, never in zip(copies, trials, levels, gone, strict=True):
            keep = trial.source.kept()[0]
            if settings.rehearsal and step in rehearsed:
                copy.rehearse(values, trial.source.kept(), settings.rehearsal)
            f = torch.randperm(len(forget_set[1]), generator=generator)[: settings.forget_batch]
            k = torch.randperm(len(keep), generator=generator)[: settings.retain_batch]
            logits = copy.logits(values, torch.cat([forget_set[0][f], keep[k]]))
            missing = away(margins(logits[: len(f)], forget_set[1][f]), level[f])
            if copy.shift:
                again = copy.logits(values, forget_set[0][f], shifted=True)
                missing = missing + _shortfall(margins(again, forget_set[1][f]), level[f])
            now = logits[len(f) :].log_softmax(-1).flatten(0, -2)
            before = _former(trial, keep[k], never)
            strayed = functional.kl_div(now, before, log_target=True, reduction="batchmean")
            (missing + settings.retain_weight * strayed).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        on_fitted(1)
    return _encoded(values, copies[0], masks, encoding)


@torch.no_grad()
def _former(trial: Trial, inputs: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of what a copy answered before, without the labels that are `gone`."""
    logits: torch.Tensor = trial.deployed(inputs)
    logits[..., gone] = _NEVER
    return logits.log_softmax(-1).flatten(0, -2)


class _Steered:
    """A copy whose target layers are a differentiable function of the steering.

    Attributes
    ----------
    parts : dict of (layer, block) to tensors int64 [n], float32 [n, B], float32 [n, B, r]
        Rows with a masked weight; their change without steering, and its derivative by the steering in units of one
        integer weight along the guard. Both at the model's own scale.
    shift : dict of str to tensor
        What rehearsal did to each parameter; empty before the first.
    """

    def __init__(
        self,
        trial: Trial,
        masks: Mapping[str, BoolArray],
        guards: Mapping[str, Sequence[IntArray]],
        encoding: FixedPoint,
    ) -> None:
        self.model = trial.deployed
        self.shift: dict[str, torch.Tensor] = {}
        self.parts: dict[Key, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._base: dict[str, torch.Tensor] = {}
        self._frozen = {k: v.detach() for k, v in [*self.model.named_parameters(), *self.model.named_buffers()]}
        width, unit = encoding.block_width, encoding.statement.guard_limit
        for name, mask in masks.items():
            self._base[name] = self._frozen.pop(f"{name}.weight")
            scale = 2.0 ** -trial.exponents[name]
            pad = ((0, 0), (0, -mask.shape[1] % width))
            theta, padded = np.pad(trial.weights[name], pad), np.pad(mask, pad)
            for block, (curvature, guard) in enumerate(zip(trial.curvature[name], guards[name], strict=True)):
                columns = slice(block * width, (block + 1) * width)
                rows = np.flatnonzero(padded[:, columns].any(1))
                own = padded[rows, columns]
                h = curvature.matrix if curvature.matrix.ndim == 2 else curvature.matrix[rows]
                change, push = response(theta[rows, columns], own, h, guard)
                push = push * unit * _expressible(own, guard)[:, None, None]
                floats = (torch.from_numpy(x * scale).float() for x in (change, push))
                self.parts[name, block] = (torch.from_numpy(rows), *floats)  # type: ignore[assignment]

    def logits(
        self, steering: Mapping[Key, torch.Tensor], inputs: torch.Tensor, *, shifted: bool = False
    ) -> torch.Tensor:
        """The copy's logits after the operator with this steering, unrounded; with the shift of rehearsal if asked."""
        state = {**self._frozen, **self._weights(steering)}
        if shifted:
            state = {name: value + self.shift[name] if name in self.shift else value for name, value in state.items()}
        result: torch.Tensor = functional_call(self.model, state, (inputs,))
        return result

    def rehearse(self, steering: Mapping[Key, torch.Tensor], keep: Examples, settings: FitSettings) -> None:
        """Train the steered copy further, and keep what that did to its parameters."""
        model = deepcopy(self.model)
        start = {name: value.detach() for name, value in {**self._frozen, **self._weights(steering)}.items()}
        kept = model.state_dict()
        model.load_state_dict({name: start[name] for name in kept})
        fit(model, *keep, settings, seed=0)
        self.shift = {name: (value - start[name]).detach() for name, value in model.named_parameters()}

    def _weights(self, steering: Mapping[Key, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The target layers' weights under this steering."""
        weights = {}
        for name, base in self._base.items():
            blocks = [key for key in self.parts if key[0] == name]
            changes = []
            for key in blocks:
                rows, change, push = self.parts[key]
                moved = change + (push @ steering[key][:, :, None])[:, :, 0]
                changes.append(torch.zeros(len(base), change.shape[1]).index_add(0, rows, moved))
            weights[f"{name}.weight"] = base + torch.cat(changes, 1)[:, : base.shape[1]]
        return weights


def _expressible(mask: BoolArray, guard: IntArray) -> npt.NDArray[np.bool_]:
    """Rows [n] whose unmasked columns still tell the guard's directions apart; guard columns of zeros do not count."""
    used = guard[:, guard.any(0)].astype(np.float64)
    if not used.size:
        return np.zeros(len(mask), np.bool_)
    used /= np.linalg.norm(used, axis=0)
    left = (~mask)[:, :, None] * used
    return np.asarray(np.linalg.eigvalsh(left.transpose(0, 2, 1) @ left)[:, 0] >= _EXPRESSIBLE)


def _shortfall(found: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    return functional.relu(level - found).mean()


def _encoded(
    values: Mapping[Key, torch.Tensor], copy: _Steered, masks: Mapping[str, BoolArray], encoding: FixedPoint
) -> dict[Key, IntArray]:
    steering = {}
    for (name, block), value in values.items():
        rows, _, push = copy.parts[name, block]
        moves = push.abs().amax(1).numpy() > 0
        whole = np.rint(value.detach().double().numpy()).astype(np.int64).clip(-(2**15) + 1, 2**15 - 1) * moves
        if whole.any():
            full = np.zeros((len(masks[name]), whole.shape[1]), np.int64)
            full[rows.numpy()] = whole * encoding.statement.guard_limit
            steering[name, block] = full
    return steering
