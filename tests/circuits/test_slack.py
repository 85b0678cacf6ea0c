"""Tolerances: every admissible sum can be completed, no other can, and what is enforced is what was asked for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkapex.circuits.halo2.slack import SLACK_LIMBS, Slack, slack_for, slack_limbs
from zkapex.errors import ProverError

LIMITS = st.sampled_from([16, 100, 4032, 16320, 65000])


@st.composite
def tolerances(draw: st.DrawFn) -> tuple[int, int]:
    """(tau, limit), small, large and at the edges between numbers of limbs."""
    limit = draw(LIMITS)
    base = 2 * limit + 1
    edge = draw(st.sampled_from([0, *(base**k - 1 for k in range(1, SLACK_LIMBS + 1))]))
    tau = draw(st.one_of(st.integers(0, base**SLACK_LIMBS - 1), st.integers(max(0, edge - 5), edge + 5)))
    return min(tau, base**SLACK_LIMBS - 1), limit


@given(tolerances(), st.data())
def test_every_admissible_sum_is_completed_by_limbs_in_range(case: tuple[int, int], data: st.DataObject) -> None:
    tau, limit = case
    slack = slack_for(tau, limit)
    total = data.draw(st.one_of(st.integers(0, slack.largest), st.sampled_from([0, 1, tau, slack.half, slack.largest])))
    limbs = slack_limbs(slack, min(total, slack.largest), limit)
    assert len(limbs) == len(slack.weights) == SLACK_LIMBS
    assert all(-limit <= limb <= limit for limb in limbs)
    assert min(total, slack.largest) + sum(w * x for w, x in zip(slack.weights, limbs, strict=True)) == slack.half


@given(tolerances(), st.integers(1, 2**70))
def test_no_other_sum_is_completed(case: tuple[int, int], beyond: int) -> None:
    tau, limit = case
    slack = slack_for(tau, limit)
    for total in (slack.largest + beyond, -beyond):
        with pytest.raises(ProverError, match="above the tolerance"):
            slack_limbs(slack, total, limit)


@given(tolerances())
def test_limbs_in_range_cannot_reach_beyond_the_enforced_tolerance(case: tuple[int, int]) -> None:
    """The most negative slack is what bounds the sum; the lookup's lower end is exactly -limit."""
    tau, limit = case
    slack = slack_for(tau, limit)
    assert all(w >= 0 for w in slack.weights)
    assert sum(slack.weights) * limit == slack.half


@given(tolerances())
def test_the_enforced_tolerance_is_at_least_tau_and_tight(case: tuple[int, int]) -> None:
    tau, limit = case
    slack = slack_for(tau, limit)
    assert tau <= slack.largest <= max(tau, 0) + 2 * limit + 1


def test_small_limits_exhaustively() -> None:
    """Every sum for every tolerance that two limbs of size 2 can express, by trying all limbs."""
    limit = 2
    for tau in range(25):
        slack = slack_for(tau, limit)
        reachable = {
            slack.half - sum(w * x for w, x in zip(slack.weights, limbs, strict=False))
            for limbs in itertools.product(range(-limit, limit + 1), repeat=2)
        }
        assert max(reachable) == slack.largest
        for total in range(slack.largest + 1):
            assert total in reachable
            slack_limbs(slack, total, limit)


def test_impossible_tolerances_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        slack_for(-1, 4032)
    with pytest.raises(ValueError, match="limbs"):
        slack_for((2 * 4032 + 1) ** SLACK_LIMBS + 1, 4032)


def test_a_slack_whose_weights_cannot_express_it_is_a_defect_not_a_wrong_limb() -> None:
    with pytest.raises(ProverError, match="decomposition failed"):
        slack_limbs(Slack((1, 1000, 0, 0), 500), 450, 16)
