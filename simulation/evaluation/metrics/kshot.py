"""Few-shot relearning: how many examples of what was forgotten bring it back, and where a model still tells it apart.

Whoever keeps or finds k examples trains the model on them beside what is to be kept: all of it, or the head alone. A
model in which a class is only hidden answers it again after one; one that never saw the class needs as many as any new
class does. What counts is the distance to the oracle, trained in the same way (arXiv 2505.22310 measures so).

A ridge probe of each block's output, fitted to as few examples, says whether inner representations still hold the class
together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.models.blocks import BLOCK
from zkapex.simulation.scenarios.base import FewShot
from zkapex.unlearning.personalise import cross_entropy

FloatArray = npt.NDArray[np.float64]

SHOTS = (1, 2, 5, 10)
RETAIN_BATCH = 64
HEAD_RATE = 1e-2
PROBE_SHOTS, PROBE_DRAWS, PROBE_RETAIN = 5, 3, 256
_RIDGE = 0.01


def relearned_from(
    model: nn.Module, forget: Examples, retain: Examples, shots: Sequence[int], seed: int, rate: float, steps: int
) -> list[nn.Module]:
    """Copies of a model, each after Adam on a few examples of what was forgotten, in every batch, beside retain ones.

    Parameters
    ----------
    model : nn.Module
    forget, retain : Examples
        The first examples of a random order of the former are what the attacker holds.
    shots : sequence of int
        How many they are, for each copy. Copies are trained side by side, which changes nothing but the time.
    seed : int
        Of the draws.
    rate : float
        Learning rate.
    steps : int
    """
    base = copy.deepcopy(model).train()
    draws = [torch.Generator().manual_seed(seed * 100 + count) for count in shots]
    held = [torch.randperm(len(forget.labels), generator=draw)[:n] for n, draw in zip(shots, draws, strict=True)]
    most, beside = max(len(index) for index in held), min(RETAIN_BATCH, len(retain.labels))
    padded = torch.stack([torch.cat([index, index.new_zeros(most - len(index))]) for index in held])
    counted = torch.stack([torch.arange(beside + most) < beside + len(index) for index in held]).float()
    counted = counted / counted.sum(1, keepdim=True)
    parameters = {
        name: value.detach().expand(len(shots), *value.shape).clone().requires_grad_(True)
        for name, value in base.named_parameters()
        if value.requires_grad
    }
    optimiser = torch.optim.Adam(list(parameters.values()), lr=rate)
    run = vmap(lambda own, inputs: functional_call(base, own, (inputs,)), randomness="different")
    for _ in range(steps):
        index = torch.stack([torch.randperm(len(retain.labels), generator=draw)[:beside] for draw in draws])
        inputs, labels = (
            torch.cat([kept[index], gone[padded]], 1) for kept, gone in zip(retain, forget, strict=True)
        )  # fmt: skip
        logits = run(parameters, inputs)
        each = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        loss = (each.reshape(len(shots), beside + most, -1).mean(2) * counted).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    trained = []
    for place in range(len(shots)):
        one = copy.deepcopy(model).eval()
        one.load_state_dict({name: value[place].detach() for name, value in parameters.items()}, strict=False)
        trained.append(one)
    return trained


def kshot(model: nn.Module, forget: Examples, retain: Examples, seed: int, how: FewShot) -> dict[str, float]:
    """Forget accuracy after relearning from each of `SHOTS`, at the better of two learning rates."""
    # Logits of tokens are large: there one copy at a time.
    groups = [SHOTS] if forget.labels.ndim == 1 else [(shots,) for shots in SHOTS]
    best = dict.fromkeys(map(str, SHOTS), 0.0)
    for group in groups:
        for rate in (how.rate, how.faster * how.rate):
            trained = relearned_from(model, forget, retain, group, seed, rate, how.steps)
            for shots, one in zip(group, trained, strict=True):
                best[str(shots)] = max(best[str(shots)], _accuracy(one, forget))
    return best


def kshot_head(model: nn.Module, forget: Examples, retain: Examples, seed: int, how: FewShot) -> dict[str, float]:
    """Likewise with the head alone, on representations that are made once."""
    kept = retain.take(torch.arange(min(512, len(retain.labels))))
    known = {"forget": _head_inputs(model, forget.inputs), "retain": _head_inputs(model, kept.inputs)}
    found = {}
    for shots in SHOTS:
        generator = torch.Generator().manual_seed(seed * 100 + shots)
        index = torch.randperm(len(forget.labels), generator=generator)[:shots]
        head = copy.deepcopy(model.get_submodule("head"))
        for parameter in head.parameters():
            parameter.requires_grad_(True)
        optimiser = torch.optim.Adam(head.parameters(), lr=HEAD_RATE)
        for _ in range(how.steps):
            beside = torch.randperm(len(kept.labels), generator=generator)[:RETAIN_BATCH]
            inputs = torch.cat([known["retain"][beside], known["forget"][index]])
            loss = cross_entropy(head(inputs), torch.cat([kept.labels[beside], forget.labels[index]]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            found[str(shots)] = float((head(known["forget"]).argmax(-1) == forget.labels).float().mean())
    return found


def probe_kshot_auc(
    model: nn.Module, fit: tuple[Examples, Examples], judge: tuple[Examples, Examples], seed: int
) -> float:
    """Area under the ROC curve of a ridge probe of `PROBE_SHOTS` examples, at the block where it is largest.

    Parameters
    ----------
    model : nn.Module
    fit, judge : (Examples, Examples)
        What is forgotten and what stays: examples the probe is fitted to, and unseen ones it is judged on.
    seed : int
        Of the draws, over which the mean is taken.
    """
    sides = [block_outputs(model, side.inputs) for side in (*fit, *judge)]
    truth = np.repeat([1.0, 0.0], [len(judge[0].labels), len(judge[1].labels)])
    means = []
    for name in sides[0]:
        forget, retain, *unseen = (side[name] for side in sides)
        scores = []
        for draw in range(PROBE_DRAWS):
            generator = np.random.default_rng((seed, draw))
            few = forget[generator.permutation(len(forget))[:PROBE_SHOTS]]
            rest = retain[generator.permutation(len(retain))[:PROBE_RETAIN]]
            scores.append(roc_auc_score(truth, _ridge(few, rest, np.concatenate(unseen))))
        means.append(float(np.mean(scores)))
    return max(means)


@torch.no_grad()
def block_outputs(model: nn.Module, inputs: torch.Tensor) -> dict[str, FloatArray]:
    """By name of a block, float64 [n, 2 d] of its output: the first token, and the mean of all.

    Models without blocks give what goes into their head.
    """
    modules = {name: module for name, module in model.named_modules() if BLOCK.search(name)}
    if not modules:
        return {"head": _head_inputs(model, inputs).double().numpy()}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in modules}

    def keep(name: str, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        value = output if isinstance(output, torch.Tensor) else output[0]
        found[name].append(torch.cat([value[:, 0], value.mean(1)], 1) if value.ndim == 3 else value.flatten(1))

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: keep(name, out)) for name, module in modules.items()
    ]
    try:
        for part in torch.split(inputs, 64):
            model(part)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}


def _ridge(few: FloatArray, rest: FloatArray, unseen: FloatArray) -> FloatArray:
    """Scores of a ridge regression on two classes that weigh the same."""
    mean, scale = rest.mean(0), rest.std() + 1e-12
    x = np.concatenate([few, rest])
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    y = np.repeat([1.0, -1.0], [len(few), len(rest)])
    weight = np.repeat([0.5 / len(few), 0.5 / len(rest)], [len(few), len(rest)])
    gram = x.T @ (weight[:, None] * x)
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    solved = np.linalg.solve(gram, x.T @ (weight * y))
    scores: FloatArray = np.column_stack([(unseen - mean) / scale, np.ones(len(unseen))]) @ solved
    return scores


@torch.no_grad()
def _head_inputs(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    parts: list[torch.Tensor] = []
    handle = model.get_submodule("head").register_forward_pre_hook(lambda _, args: parts.append(args[0]))
    try:
        for part in torch.split(inputs, 64):
            model(part)
    finally:
        handle.remove()
    return torch.cat(parts)


@torch.no_grad()
def _accuracy(model: nn.Module, examples: Examples) -> float:
    hits = sum(
        int((model(x).argmax(-1) == y).sum())
        for x, y in zip(torch.split(examples.inputs, 64), torch.split(examples.labels, 64), strict=True)
    )
    return hits / examples.labels.numel()
