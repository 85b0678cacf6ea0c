"""Attacks without data: what a receipt gives away about a model that was steered, and what it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.metrics.undo import RECEIPT, Attempt, Public, best, carried_out, undo
from zkapex.unlearning.operators import Terms

WIDTH, CLASSES = 4, 3


class Line(nn.Module):
    """One target layer, and a head that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, CLASSES, bias=False)
        self.head = nn.Linear(CLASSES, CLASSES)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(CLASSES, WIDTH))
            self.head.weight.copy_(torch.eye(CLASSES))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.fc(x))
        return logits


def examples(label: int) -> Examples:
    inputs = torch.eye(WIDTH)[torch.full((5,), label)] + 0.01
    return Examples(inputs, torch.full((5,), label))


FORGET = examples(0)
RETAIN = Examples(
    torch.cat([examples(1).inputs, examples(2).inputs]), torch.cat([examples(1).labels, examples(2).labels])
)


def steered() -> tuple[nn.Module, Public]:
    """The class 0 lives in the first input; the operator moved the first row along it by -3, and said so."""
    model = Line()
    with torch.no_grad():
        model.fc.weight[0, 0] -= 3.0
    mask = np.zeros((CLASSES, WIDTH), np.bool_)
    mask[:, 3] = True
    guard = np.array([[8192], [0], [0], [0]], np.int64)
    steering = {("fc", 0): np.array([[-3 * 8192 * 2**4], [0], [0]], np.int64)}
    return model.eval(), Public.of(Terms({"fc": mask}, {"fc": [guard]}, steering=steering), {"fc": 4}, WIDTH)


def test_what_was_steered_is_undone_by_subtracting_it() -> None:
    model, public = steered()
    found = undo(model, [], public, FORGET, RETAIN, 0)
    assert (found[0].name, found[0].forget) == ("nothing", 0.0)
    by_name = {attempt.name: attempt for attempt in found}
    assert by_name["prescribed x -1 added"] == Attempt("prescribed x -1 added", RECEIPT, 1.0, 1.0)
    assert best(found, 0.02, RECEIPT).forget == 1.0


def test_an_attempt_can_be_carried_out_again() -> None:
    model, public = steered()
    other = Line().eval()
    for attempt in undo(model, [other], public, FORGET, RETAIN, 0):
        again = carried_out(model, [other], public, 0, attempt)
        with torch.no_grad():
            hits = (again(FORGET.inputs).argmax(1) == FORGET.labels).float().mean()
        assert float(hits) == pytest.approx(attempt.forget), attempt.name


def test_targets_say_nothing_about_what_was_there() -> None:
    model, public = steered()
    terms: dict[str, Any] = {"targets": {("fc", 0): np.array([[-2 * 8192 * 2**4], [0], [0]], np.int64)}}
    mask = {"fc": np.zeros((CLASSES, WIDTH), np.bool_)}
    target = Public.of(Terms(mask, {"fc": [np.array([[8192], [0], [0], [0]], np.int64)]}, **terms), {"fc": 4}, WIDTH)
    assert target.everywhere
    assert not public.everywhere
    names = {attempt.name: attempt for attempt in undo(model, [], target, FORGET, RETAIN, None)}
    assert names["prescribed x -1 added"].forget == 0.0, "that takes the component away, and brings nothing back"
    assert not any("logit" in name or "head" in name for name in names), "there is no class to raise"
    assert not any("refilled" in name for name in names), "nothing is masked"


def test_no_more_is_lost_than_an_attacker_would_lose() -> None:
    attempts = [
        Attempt("nothing", "model", 0.0, 0.9), Attempt("little", RECEIPT, 0.5, 0.89),
        Attempt("much", RECEIPT, 0.9, 0.86), Attempt("alone", "model", 0.7, 0.89), Attempt("ruin", "models", 1.0, 0.1),
    ]  # fmt: skip
    assert best(attempts, 0.02).name == "alone"
    assert best(attempts, 0.02, RECEIPT).name == "little"
    assert best(attempts, 0.05).name == "much"
    assert best(attempts, 0.0).name == "nothing"
