"""`zkapex attack`: what it does with what a demo of several requests left behind, and what it prints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zkapex.cli.attack import show
from zkapex.simulation.demo.attack import LeftBehind, after_attack, attack
from zkapex.simulation.demo.settings import DemoSettings
from zkapex.simulation.evaluation.metrics.undo import Public
from zkapex.simulation.federation.federation import federation_of
from zkapex.simulation.scenarios.base import FewShot
from zkapex.transport.app import installed_app, run_config_of


@pytest.fixture(scope="module")
def left() -> tuple[LeftBehind, ...]:
    """Two requests; the head of one client's model answers the first one's digit as soon as its bias is given back."""
    settings = DemoSettings.of("digits", {"clients": 2, "dishonest": 0, "requests": 2})
    federation = federation_of(run_config_of(installed_app(), settings.run_config))
    federation = replace(federation, config=replace(federation.config, attack=FewShot(steps=2)))
    asked = {name: federation.for_request(name) for name in federation.ids}
    last = asked[federation.ids[-1]]
    models = [last.config.build(last.bench, seed).eval() for seed in range(4)]
    head = {("head", 0): np.eye(32)[:, :2]}
    rows = torch.from_numpy(np.random.default_rng(0).normal(0, 1.0, (10, 2))).numpy()
    rows[asked[federation.ids[0]].request.forget_class] += 30.0
    public = Public({"head": np.zeros((10, 32), np.bool_)}, head, {("head", 0): rows}, 32, everywhere=True)
    return tuple(
        LeftBehind(name, public, tuple(models[:2]), tuple(models[2:]), (0, 1), last, one) for name, one in asked.items()
    )


@pytest.fixture(scope="module")
def attacked(left: tuple[LeftBehind, ...]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return attack(left, events.append), events


def test_every_request_is_attacked_in_the_last_models(
    left: tuple[LeftBehind, ...], attacked: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    found, events = attacked
    assert len(events) == 2 * 2 * 2
    assert [one["request"] for one in found["requests"]] == ["request-1", "request-2"]
    assert [one["forgotten"] for one in found["requests"]] == ["the digit 3", "the digit 5"]
    assert left[0].forget.labels.unique().tolist() == [3]
    assert left[1].forget.labels.unique().tolist() == [5]
    assert not {3, 5} & set(left[0].retain.labels.tolist()), "what other requests deleted is nothing to keep"
    assert found["requests"][0]["told"] == {"place": 1, "of": 10}
    assert found["requests"][1]["told"]["place"] > 1
    for name in ("forget_acc", "undone_forget_acc", "undone_forget_acc_5", "oracle_undone_forget_acc"):
        each = [one["mean"][name] for one in found["requests"]]
        assert found["mean"][name] == pytest.approx(sum(each) / 2)
    assert found["mean"]["kshot_forget_acc"].keys() == found["mean"]["oracle_kshot_forget_acc"].keys() == {
        "1", "2", "5", "10"
    }  # fmt: skip
    assert found["best_attack"] in {row["undone_by"] for row in found["clients"]}
    assert after_attack(left).keys() == {"forget", "retain", "personal"}


def test_people_see_a_table_for_each_request(
    attacked: tuple[dict[str, Any], list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    show(attacked[0])
    shown = capsys.readouterr().out
    assert shown.index("the digit 3") < shown.index("the digit 5")
    assert "right at guess 1 of 10" in shown
    assert shown.count("Best attack without data") == 2


def test_deletions_in_a_row_have_directions_of_their_own() -> None:
    """Two each where the proof system has room for them; in the circuit of `tiny` they share what is there."""
    several = DemoSettings.of("digits", {"requests": 4, "backend": "transparent"})
    assert several.operator == "targeted-group-obs"
    assert several.run_config["guard-rank"] == 8
    assert DemoSettings.of("digits", {"requests": 4}).operator == "targeted-group-obs"
    assert DemoSettings.of("digits", {"requests": 5}).operator == "guarded-group-obs"
    for given in ({}, {"requests": 4}, {"requests": 2, "operator": "mask-only", "backend": "transparent"}):
        assert "guard-rank" not in DemoSettings.of("digits", given).run_config
