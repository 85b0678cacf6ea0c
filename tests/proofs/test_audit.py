"""The audit draw: repeatable, steered by nobody, and as revealing as promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkapex.errors import ReceiptError
from zkapex.proofs.audit import detection_probability, draw, seed_commitment
from zkapex.proofs.messages import Audit

SEED, ROOT = "01" * 32, "02" * 32


def sampled(count: int, seed: str = SEED) -> Audit:
    return Audit(mode="sampled", count=count, seed_commitment=seed_commitment(seed))


@given(st.sets(st.integers(0, 1000), min_size=1, max_size=50), st.data())
def test_draw_is_a_subset_of_the_right_size_in_any_order(touched: set[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(touched)))
    drawn = draw(sampled(count), SEED, ROOT, sorted(touched))
    assert len(set(drawn)) == count
    assert set(drawn) <= touched
    assert list(drawn) == sorted(drawn)
    assert drawn == draw(sampled(count), SEED, ROOT, sorted(touched, reverse=True))


def test_full_draws_everything() -> None:
    assert draw(Audit(), None, ROOT, (5, 2)) == (2, 5)


def test_draw_depends_on_seed_and_on_the_response() -> None:
    touched = range(200)
    draws = {draw(sampled(20, s), s, r, touched) for s in (SEED, "03" * 32) for r in (ROOT, "04" * 32)}
    assert len(draws) == 4


def test_every_chunk_is_drawn_about_equally_often() -> None:
    hits = [0] * 10
    for number in range(1000):
        for chunk in draw(sampled(3), SEED, f"{number:064x}", range(10)):
            hits[chunk] += 1
    assert all(230 < count < 370 for count in hits)  # expected 300, standard deviation 14.5


@pytest.mark.parametrize(("audit", "seed"), [(sampled(1), None), (sampled(1), "00" * 32), (Audit(), SEED)])
def test_a_wrong_seed_is_refused(audit: Audit, seed: str | None) -> None:
    with pytest.raises(ReceiptError, match="seed"):
        draw(audit, seed, ROOT, (1, 2))


def test_detection_probability() -> None:
    assert detection_probability(10, 3, 0) == 0.0
    assert detection_probability(10, 10, 1) == 1.0
    assert detection_probability(10, 3, 2) == pytest.approx(1 - (8 / 10) * (7 / 9) * (6 / 8))
    assert detection_probability(10, 3, 8) == 1.0
