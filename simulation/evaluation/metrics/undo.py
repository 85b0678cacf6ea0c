"""Data-free undo: what somebody with a receipt, or with nothing, can do to a model that forgot.

An attacker holds unlearned models and what is public about the deletion: masks, the directions V that the operator
worked along, and what it prescribed along them. No data and no older model. What it can try is simple arithmetic on
weights, so all of it is tried: taking back any multiple of what was prescribed, scaling or replacing the component
along V, refilling weights that were zeroed, rebuilding or raising the deleted class's row of the head, averaging
clients' models and going beyond them. Each attempt is judged by the accuracy on what was forgotten that it brings
back, at a loss of retain accuracy that is still worth it. The attacker is taken to know which attempt was best.

An attempt is made on any model, also on ones that never met the operator: with the same public terms on the oracle it
says how much of its success is the key's and how much is chance.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call

from zkapex.simulation.data.digits import Examples
from zkapex.unlearning.operators import Terms

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SCALES = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.5, 2.0, 3.0)
"""Of the component along the public directions."""
MULTIPLES = (-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Of what the request prescribed along them, added to the weights."""
ONE_LAYER = (-1.0, 0.0, 2.0)
"""Scales that are also tried on the component of one layer alone."""
RANDOM_DRAWS = 8
BEYOND = (0.5, 1.0, 2.0)
"""How far from the mean of the clients' models, in differences to it."""
LOSSES = (0.02, 0.05)
"""Retain accuracy that an attacker may lose."""
RECEIPT = "receipt"
"""Name of the group of attempts that use what a receipt holds; the others need the model alone."""


@dataclass(frozen=True)
class Public:
    """What a receipt says about a deletion, at the scale of the model's own weights.

    Attributes
    ----------
    masks : mapping of str to bool [rows, cols]
    directions : mapping of (str, int) to float64 [B, r]
        V of every column block that has one, cut where the layer ends.
    prescribed : mapping of (str, int) to float64 [rows, r]
        What the request prescribes along V: of the change or, for targets, of the result.
    width : int
        Columns of a block.
    everywhere : bool
        Whether every row of a block with directions is prescribed, not only those with a masked weight.
    """

    masks: Mapping[str, BoolArray]
    directions: Mapping[tuple[str, int], FloatArray]
    prescribed: Mapping[tuple[str, int], FloatArray]
    width: int
    everywhere: bool

    @classmethod
    def of(cls, terms: Terms, exponents: Mapping[str, int], width: int) -> Public:
        """What the terms of a request say to whoever reads them.

        Parameters
        ----------
        terms : Terms
        exponents : mapping of str to int
            log2 of each layer's scale, as its manifest has it.
        width : int
            Columns of a block.
        """
        along = terms.targets or terms.steering
        directions = {
            (name, block): guard.astype(np.float64)
            for name, guards in terms.guards.items()
            for block, guard in enumerate(guards)
            if guard.any()
        }
        prescribed: dict[tuple[str, int], FloatArray] = {
            key: np.asarray(along[key] * 2.0 ** -exponents[key[0]], np.float64)
            if key in along
            else np.zeros((terms.masks[key[0]].shape[0], v.shape[1]))
            for key, v in directions.items()
        }
        return cls(dict(terms.masks), directions, prescribed, width, bool(terms.targets))


@dataclass(frozen=True)
class Attempt:
    """One thing an attacker tried.

    Attributes
    ----------
    name : str
    group : str
        ``receipt`` if it uses what a receipt holds, ``model`` if the model alone, ``models`` if those of several
        clients.
    forget, retain : float
        Accuracy afterwards.
    raised : float
        By how much the deleted class's logit was raised, if that was the attempt.
    """

    name: str
    group: str
    forget: float
    retain: float
    raised: float = 0.0


def best(attempts: Sequence[Attempt], loss: float, group: str | None = None) -> Attempt:
    """The attempt that brought back most at no more than a loss of retain accuracy; the first is that of no attack."""
    floor = attempts[0].retain - loss - 1e-9
    allowed = [a for a in attempts if a is attempts[0] or (group in (None, a.group) and a.retain >= floor)]
    return max(allowed, key=lambda a: a.forget)


def undo(
    model: nn.Module,
    others: Sequence[nn.Module],
    public: Public,
    forget: Examples,
    retain: Examples,
    label: int | None,
) -> list[Attempt]:
    """Every attempt on one model; the first is to do nothing.

    Parameters
    ----------
    model : nn.Module
    others : sequence of nn.Module
        Unlearned models of other clients.
    public : Public
    forget, retain : Examples
        To judge by; no attempt looks at them.
    label : int or None
        The class that was deleted, if it was one.
    """
    found = []
    everything, kept = torch.cat([forget.inputs, retain.inputs]), len(retain.labels)
    for name, group, changed in ((("nothing", "model", {})), *_attempts(model, others, public, label)):
        logits = torch.split(_logits(model, everything, changed), [len(forget.labels), kept])
        found.append(Attempt(name, group, _accuracy(logits[0], forget.labels), _accuracy(logits[1], retain.labels)))
        if not changed and label is not None:
            raised = _raised(logits[0], logits[1], forget, retain, label)
    if label is not None:
        found += raised
    return found


def carried_out(
    model: nn.Module, others: Sequence[nn.Module], public: Public, label: int | None, attempt: Attempt
) -> nn.Module:
    """The model that an attempt of `undo` made, made again."""
    if attempt.raised and label is not None:
        raised = copy.deepcopy(model).eval()
        with torch.no_grad():
            raised.get_parameter("head.bias")[label] += attempt.raised
        return raised
    for name, _, changed in _attempts(model, others, public, label):
        if name == attempt.name:
            return _changed(model, changed)
    return model


def _attempts(
    model: nn.Module, others: Sequence[nn.Module], public: Public, label: int | None
) -> Iterator[tuple[str, str, dict[str, torch.Tensor]]]:
    weights = {name: _values(model, name) for name in {*public.masks, *(name for name, _ in public.directions)}}
    yield from _along(weights, public)
    yield from _refilled(weights, public)
    if label is not None and "head.weight" in dict(model.named_parameters()):
        yield from _head(model, label)
    if others:
        yield from _clients(model, others)


def _along(weights: Mapping[str, FloatArray], public: Public) -> Iterator[tuple[str, str, dict[str, torch.Tensor]]]:
    """Attempts along the public directions."""
    if not public.directions:
        return
    layers = {name for name, _ in public.directions}
    inverse = {key: _inverse(key, v, public) for key, v in public.directions.items()}

    def moved(values: Mapping[tuple[str, int], FloatArray]) -> dict[str, FloatArray]:
        """The smallest change of the unmasked weights that has these components along V."""
        change = {name: np.zeros_like(weights[name]) for name in layers}
        for (name, block), value in values.items():
            start = block * public.width
            part = np.einsum("nbr,nr->nb", inverse[name, block], value)
            change[name][:, start : start + part.shape[1]] += part
        return change

    components = {}
    for (name, block), v in public.directions.items():
        start = block * public.width
        cut = weights[name][:, start : start + public.width]
        components[name, block] = np.where(_rows(name, block, public)[:, None], cut @ v[: cut.shape[1]], 0.0)
    along, prescribed = moved(components), moved(public.prescribed)

    def added(*parts: tuple[float, Mapping[str, FloatArray]], only: str | None = None) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": torch.from_numpy(weights[name] + sum(s * part[name] for s, part in parts)).float()
            for name in layers
            if only is None or name == only
        }

    for scale in SCALES:
        yield f"component x {scale:g}", RECEIPT, added((scale - 1, along))
    if any(value.any() for value in public.prescribed.values()):
        for multiple in MULTIPLES:
            yield f"prescribed x {multiple:g} added", RECEIPT, added((multiple, prescribed))
    for name in sorted(layers):
        for scale in ONE_LAYER:
            yield f"component of {name} x {scale:g}", RECEIPT, added((scale - 1, along), only=name)
        if public.prescribed:
            yield f"prescribed of {name} x -1 added", RECEIPT, added((-1.0, prescribed), only=name)
    generator = np.random.default_rng(0)
    for draw in range(RANDOM_DRAWS):
        noise = moved({key: generator.normal(0, value.std(), value.shape) for key, value in components.items()})
        yield f"component drawn at random ({draw})", RECEIPT, added((-1.0, along), (1.0, noise))
        yield f"component and as much at random ({draw})", RECEIPT, added((1.0, noise))


def _rows(name: str, block: int, public: Public) -> BoolArray:
    """Rows [rows] of a layer that the request prescribes something for in a block."""
    mask = public.masks[name]
    if public.everywhere:
        return np.ones(len(mask), np.bool_)
    return np.asarray(mask[:, block * public.width : (block + 1) * public.width].any(1))


def _inverse(key: tuple[str, int], v: FloatArray, public: Public) -> FloatArray:
    """``V_U (V_U^T V_U)^+`` of every row [rows, b, r]; zero in rows that nothing is prescribed for."""
    name, block = key
    mask = public.masks[name][:, block * public.width : (block + 1) * public.width]
    unmasked = (~mask)[:, :, None] * v[: mask.shape[1]]
    gram = unmasked.transpose(0, 2, 1) @ unmasked
    inverse: FloatArray = unmasked @ np.linalg.pinv(gram, rcond=1e-8, hermitian=True)
    return inverse * _rows(name, block, public)[:, None, None]


def _refilled(weights: Mapping[str, FloatArray], public: Public) -> Iterator[tuple[str, str, dict[str, torch.Tensor]]]:
    """Attempts to guess what was zeroed."""
    if not any(mask.any() for mask in public.masks.values()):
        return
    generator = np.random.default_rng(0)
    ways = ["the mean", "plus the mean size", "minus the mean size", "half the rank", "chance", "chance again"]
    for way in ways:
        changed = {}
        for name, mask in public.masks.items():
            if not mask.any() or mask.all():
                continue
            value, rest = weights[name].copy(), weights[name][~mask]
            if way == "the mean":
                value[mask] = rest.mean()
            elif way.endswith("mean size"):
                value[mask] = (1 if way.startswith("plus") else -1) * np.abs(rest).mean()
            elif way == "half the rank":
                for _ in range(20):
                    u, s, vt = np.linalg.svd(value, full_matrices=False)
                    rank = max(1, len(s) // 2)
                    value[mask] = ((u[:, :rank] * s[:rank]) @ vt[:rank])[mask]
            else:
                value[mask] = generator.normal(0, rest.std(), int(mask.sum()))
            changed[f"{name}.weight"] = torch.from_numpy(value).float()
        yield f"zeroed weights refilled by {way}", RECEIPT, changed


def _head(model: nn.Module, label: int) -> Iterator[tuple[str, str, dict[str, torch.Tensor]]]:
    """The class's row of the head made anew: rows of a softmax layer tend to sum to zero."""
    parameters = dict(model.named_parameters())
    weight = parameters["head.weight"].detach()
    others = [row for row in range(len(weight)) if row != label]
    for scale in (0.5, 1.0, 2.0):
        changed = {"head.weight": weight.clone()}
        changed["head.weight"][label] = -scale * weight[others].sum(0)
        if "head.bias" in parameters:
            bias = parameters["head.bias"].detach().clone()
            bias[label] = -scale * bias[others].sum()
            changed["head.bias"] = bias
        yield f"head's row made of the others, x {scale:g}", "model", changed


def _clients(model: nn.Module, others: Sequence[nn.Module]) -> Iterator[tuple[str, str, dict[str, torch.Tensor]]]:
    """The mean of all clients' models, and what lies beyond it or beyond the model itself."""
    states = [dict(one.named_parameters()) for one in (model, *others)]
    mean = {n: torch.stack([s[n].detach() for s in states]).mean(0) for n in states[0]}
    yield "mean of the clients' models", "models", mean
    for share in BEYOND:
        for sign, where in ((1, "own side"), (-1, "far side")):
            name = f"{share:g} beyond the clients' mean, {where}"
            start = states[0] if sign > 0 else mean
            changed = {n: start[n].detach() + sign * share * (states[0][n].detach() - mean[n]) for n in mean}
            yield name, "models", changed


def _raised(
    forget_logits: torch.Tensor, retain_logits: torch.Tensor, forget: Examples, retain: Examples, label: int
) -> list[Attempt]:
    """The deleted class's logit raised by as much as each loss of retain accuracy allows."""
    gap, hits = _gap(forget_logits, label), retain_logits.argmax(1) == retain.labels
    others = retain_logits.clone()
    others[:, label] = -torch.inf
    right, need = others.argmax(1) == retain.labels, -_gap(retain_logits, label)
    found = []
    for loss in LOSSES:
        floor, chosen = float(hits.float().mean()) - loss, 0.0
        for raise_ in torch.linspace(0, 40, 801).tolist():
            if float((right & (need > raise_)).float().mean()) >= floor:
                chosen = raise_
        kept = float((right & (need > chosen)).float().mean())
        back = float((gap + chosen > 0).float().mean())
        found.append(Attempt(f"logit raised by {chosen:.3g}", "model", back, kept, chosen))
    return found


def _gap(logits: torch.Tensor, label: int) -> torch.Tensor:
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.amax(1)


@torch.no_grad()
def _changed(model: nn.Module, changed: Mapping[str, torch.Tensor]) -> nn.Module:
    if not changed:
        return model
    tried = copy.deepcopy(model).eval()
    for name, value in changed.items():
        tried.get_parameter(name).copy_(value)
    return tried


@torch.no_grad()
def _logits(model: nn.Module, inputs: torch.Tensor, changed: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Of a model with some parameters replaced."""
    return torch.cat([functional_call(model, dict(changed), (part,)) for part in torch.split(inputs, 256)])


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(-1) == labels).float().mean())


def _values(model: nn.Module, name: str) -> FloatArray:
    values: FloatArray = model.get_parameter(f"{name}.weight").detach().double().numpy(force=True)
    return values
