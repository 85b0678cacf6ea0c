"""What data, models, checkpoints and environments are supported, refused or ignored: the cases behind docs/limits.md.

A test of a case that is refused calls `refuses`, which compares class and message with what is written here; a test of
any other is marked with `case`. `tests/test_limits.py` checks that every case has a test and that the page says the
same; ``make limits`` writes the page's tables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from zkapex import errors

START, END = "<!-- tables: written by make limits -->", "<!-- end of tables -->"
GAP = "…"
"""Stands for what differs from case to case in a message."""

Test = TypeVar("Test", bound=Callable[..., object])
Verdict = Literal["supported", "refused", "ignored"]


@dataclass(frozen=True)
class Limit:
    """One case.

    Attributes
    ----------
    area : str
        The table it is in.
    what : str
        The case, in words.
    verdict : str
    says : str
        The message of what is refused, with `GAP` for what differs; else what happens.
    error : type
        Of what is refused.
    """

    area: str
    what: str
    verdict: Verdict
    says: str
    error: type[errors.Error] = errors.InputError


def _refused(area: str, what: str, says: str, error: type[errors.Error] = errors.InputError) -> Limit:
    return Limit(area, what, "refused", says, error)


def _supported(area: str, what: str, says: str = "") -> Limit:
    return Limit(area, what, "supported", says)


def _ignored(area: str, what: str, says: str = "") -> Limit:
    return Limit(area, what, "ignored", says)


MODELS, TRAINING = "Models", "Training and evaluation on a device"

LIMITS: dict[str, Limit] = {
    "model-plain": _supported(MODELS, "target layers that are `nn.Linear`, each called once in a forward pass"),
    "model-keyword": _supported(MODELS, "a layer called by keyword, `layer(input=x)`"),
    "model-float64": _supported(MODELS, "weights in float32 or float64, on any device torch has"),
    "model-half-tiny": _supported(MODELS, "weights in float16 with profile `tiny`", "float16 holds integers to 2048"),
    "model-half": _refused(
        MODELS,
        "target layers in float16 with profiles `edge` and `server`",
        "the weights of layer … are float16, which cannot hold the integers that are proved",
    ),
    "model-bfloat16": _refused(
        MODELS, "anything in bfloat16 or a smaller float", "… of the model is bfloat16, which cannot be sent or kept"
    ),
    "model-readback": _refused(
        MODELS,
        "a layer that does not hold what is put into it, whatever the reason",
        "layer … does not hold the weights it was given",
    ),
    "model-not-linear": _refused(
        MODELS, "a target layer of another type, such as a convolution", "… is not a linear layer of the model"
    ),
    "model-no-layer": _refused(MODELS, "a target layer that there is not", "… is not a layer of the model"),
    "model-reused": _refused(
        MODELS,
        "a layer called more than once in a forward pass, or whose weight is also used outside of it",
        "layer … is used more than once in a forward pass",
    ),
    "model-unused": _refused(MODELS, "a layer that is never called", "layers … took no part in the forward pass"),
    "model-tied": _refused(
        MODELS, "a layer whose weight is another parameter's, too", "the weight of layer … is also …"
    ),
    "model-parametrised": _refused(
        MODELS,
        "a layer with `weight_norm`, `spectral_norm`, pruning or an adapter",
        "the weight of layer … is computed from other parameters",
    ),
    "model-own-forward": _refused(
        MODELS,
        "a subclass of `nn.Linear` that computes something else",
        "layer … does not compute what a linear layer does",
    ),
    "model-not-finite": _refused(
        MODELS, "NaN or infinities in a parameter or buffer", "the values of … of the model are not finite"
    ),
    "model-inputs": _refused(
        MODELS, "inputs of another shape, dtype or device than the model's", "the model does not take its inputs, …"
    ),
    "model-overflow": _refused(MODELS, "logits that overflow", "the model's logits are not finite"),
    "model-output": _refused(
        MODELS,
        "an output that is no tensor of logits",
        "the model's output is no tensor of logits with one entry per example: …",
    ),
    "inputs-not-finite": _refused(
        TRAINING,
        "NaN or infinities in the inputs of curvature",
        "the inputs that curvature is taken from are not finite",
    ),
    "activations-not-finite": _refused(
        TRAINING, "activations that overflow on the way to a layer", "the inputs of layer … are not finite"
    ),
    "train-not-finite": _refused(
        TRAINING, "NaN or infinities in what is trained on", "the inputs to train on are not finite"
    ),
    "train-diverged": _refused(TRAINING, "training that diverges", "training diverged: the mean loss is …"),
    "labels-float": _refused(TRAINING, "labels that are not int64", "labels must be int64 numbers of classes, not …"),
    "labels-beyond": _refused(
        TRAINING, "a label beyond the model's classes", "the label … is no class of the model, which has …"
    ),
    "batchnorm": _supported(
        TRAINING, "batch normalisation where one example is left over", "it joins the batch before it"
    ),
    "batchnorm-one": _refused(
        TRAINING,
        "batch normalisation with one example, or batches of one",
        "batch normalisation cannot be trained on batches of one example",
    ),
    "evaluate-partly": _supported(
        TRAINING,
        "`Task.evaluate` without some of `forget`, `retain`, `personal`, or with none of their examples",
        "the others are reported",
    ),
    "evaluate-counts": _refused(
        TRAINING,
        "`Task.evaluate` with more examples right than there are",
        "the task counts … of … examples of … as right",
    ),
    "evaluate-unknown": _refused(
        TRAINING, "`Task.evaluate` with a data set of another name", "the task evaluates a data set …"
    ),
}


def refuses(key: str, action: Callable[[], object]) -> errors.Error:
    """The error that `action` ends with: of the class and with the message that the case has."""
    limit = LIMITS[key]
    assert limit.verdict == "refused", key
    with pytest.raises(errors.Error) as caught:
        action()
    error = caught.value
    assert isinstance(error, limit.error), f"{type(error).__name__}: {error.explain()}"
    pattern = ".+".join(re.escape(part) for part in limit.says.split(GAP))
    assert re.fullmatch(pattern, error.what, re.DOTALL), f"{limit.says!r} is not what it says: {error.explain()}"
    return error


def case(key: str) -> Callable[[Test], Test]:
    """Marks the test of a case that is supported or ignored."""
    assert LIMITS[key].verdict != "refused", key
    return lambda test: test


def tables() -> str:
    """The tables of docs/limits.md."""
    lines: list[str] = []
    for area in dict.fromkeys(limit.area for limit in LIMITS.values()):
        lines += ["", f"## {area}", "", "| | | |", "| --- | --- | --- |"]
        for limit in LIMITS.values():
            if limit.area == area:
                says = f"`{limit.error.__name__}`: {limit.says}" if limit.verdict == "refused" else limit.says
                lines.append(f"| {limit.what} | {limit.verdict} | {says} |")
    return "\n".join([*lines, ""])


def with_tables(page: str) -> str:
    """The page with its tables as they should be."""
    before, rest = page.split(START)
    return f"{before}{START}\n{tables()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
