"""The audit draw: repeatable, steered by nobody, and as revealing as promised."""

from __future__ import annotations

import hashlib
import random
import time
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from zkapex.errors import InputError, ReceiptError
from zkapex.proofs.audit import (
    assumed_bad,
    check_audit,
    detection_probability,
    draw,
    draws_for,
    sampled_audit,
    seed_commitment,
)
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import MAX_CHUNKS, Audit

SEED, ROOT = "01" * 32, "02" * 32


def sampled(count: int, seed: str = SEED) -> Audit:
    return Audit(mode="sampled", count=count, seed_commitment=seed_commitment(seed), cheating=0.1, detection=0.5)


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
    assert detection_probability(10, 3, -1) == 0.0


@given(st.integers(1, 400), st.data())
def test_detection_probability_is_hypergeometric(touched: int, data: st.DataObject) -> None:
    proved, cheated = (data.draw(st.integers(0, touched)) for _ in range(2))
    expected = 1 - hypergeom.pmf(0, touched, cheated, proved)
    assert detection_probability(touched, proved, cheated) == pytest.approx(expected, abs=1e-9)


def test_near_certainty_is_not_called_certain() -> None:
    assert 1 - detection_probability(10_000, 9_000, 1000) < 1e-15
    assert detection_probability(10_000, 9_000, 1000) < 1
    assert detection_probability(10_000, 9_001, 1000) == 1


@given(st.integers(1, 500), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_the_smallest_sample_that_suffices_is_drawn(touched: int, cheating: float, detect: float) -> None:
    bad = assumed_bad(touched, cheating)
    count = draws_for(touched, cheating, detect)
    assert 1 <= count <= touched
    assert detection_probability(touched, count, bad) >= detect * (1 - 1e-12)
    if count > 1:
        assert detection_probability(touched, count - 1, bad) <= detect  # equal only when rounded


@pytest.mark.parametrize(
    ("touched", "cheating", "detect", "count"),
    [(1, 0.01, 0.99, 1), (8, 0.01, 0.99, 8), (100, 0.01, 0.99, 99), (100, 0.07, 0.5, 10), (10**5, 0.01, 0.99, 458)],
)
def test_sample_sizes(touched: int, cheating: float, detect: float, count: int) -> None:
    assert draws_for(touched, cheating, detect) == count


def test_fractions_are_the_decimals_they_are_written_as() -> None:
    assert assumed_bad(100, 0.07) == 7  # 0.07 * 100 is a little more than 7 in binary
    assert assumed_bad(100, 0.071) == 8
    assert assumed_bad(3, 1e-5) == 1


def test_sample_sizes_of_the_largest_models_take_no_time() -> None:
    start = time.process_time()
    for cheating in (1e-6, 0.01, 0.5, 1.0):
        sampled_audit(MAX_CHUNKS, cheating, 0.999999, SEED)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "wrong", [(0, 0.5, 0.5), (9, 0.0, 0.5), (9, 1.1, 0.5), (9, 0.5, 0.0), (9, 0.5, 1.1), (9, float("nan"), 0.5)]
)
def test_audits_that_make_no_sense_are_refused(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(InputError, match="no audit"):
        draws_for(*wrong)


def test_an_audit_states_what_it_finds() -> None:
    audit = sampled_audit(300, 0.02, 0.9, SEED)
    check_audit(audit, 300)
    assert (audit.cheating, audit.seed_commitment) == (0.02, seed_commitment(SEED))
    for changed in (
        audit.model_copy(update={"detection": 0.99}),
        audit.model_copy(update={"cheating": 0.01}),
        audit.model_copy(update={"count": 301}),
    ):
        with pytest.raises(ReceiptError, match="audit"):
            check_audit(changed, 300)
    check_audit(Audit(), 300)


# -- the cheat, played on commitments


def answer(number: int, touched: int) -> list[tuple[int, str]]:
    """One client's commitments to all its touched chunks, as distinct as real ones."""
    return [(chunk, hashlib.sha512(f"{number}/{chunk}".encode()).hexdigest()) for chunk in range(touched)]


@pytest.mark.parametrize(
    ("touched", "cheating", "detect"),
    [(60, 0.05, 0.5), (200, 0.02, 0.9), pytest.param(500, 0.01, 0.99, marks=pytest.mark.slow), (40, 0.1, 0.2)],
)
def test_a_cheat_is_found_out_as_often_as_promised(touched: int, cheating: float, detect: float) -> None:
    """800 games: the server commits, the client answers with some chunks undone, the server draws."""
    games, found = 800, 0
    luck = random.Random(touched)
    bad = assumed_bad(touched, cheating)
    for number in range(games):
        seed = luck.randbytes(32).hex()
        audit = sampled_audit(touched, cheating, detect, seed)
        undone = set(luck.sample(range(touched), bad))  # chosen before the seed is known
        drawn = draw(audit, seed, commitment_root(answer(number, touched)), range(touched))
        found += bool(undone & set(drawn))
    promised = detection_probability(touched, draws_for(touched, cheating, detect), bad)
    assert promised >= detect
    assert abs(found - games * promised) <= 4 * sqrt(games * promised * (1 - promised)) + 1


def test_a_cheat_that_is_choosy_about_its_chunks_is_found_out_as_often() -> None:
    """The first chunks, the last, neighbours: with a seed one does not know, no choice is better than another."""
    touched, games, seed = 60, 1500, "0a" * 32
    promised = detection_probability(touched, draws_for(touched, 0.05, 0.5), 3)
    for undone in ({0, 1, 2}, {57, 58, 59}, {0, 30, 59}):
        audit = sampled_audit(touched, 0.05, 0.5, seed)
        roots = (commitment_root(answer(number, touched)) for number in range(games))
        found = sum(bool(undone & set(draw(audit, seed, root, range(touched)))) for root in roots)
        assert abs(found - games * promised) <= 4 * sqrt(games * promised * (1 - promised))


def test_neither_side_can_steer_the_draw() -> None:
    touched, honest = range(50), answer(0, 50)
    audit = sampled_audit(50, 0.1, 0.8, SEED)
    first = draw(audit, SEED, commitment_root(honest), touched)
    draws = set()
    for chunk in touched:  # a client that tries another commitment gets another draw, and cannot tell which
        other = [*honest]
        other[chunk] = (chunk, "00" * 64)
        draws.add(draw(audit, SEED, commitment_root(other), touched))
    assert len(draws | {first}) > len(touched) - 5
    for seed in ("00" * 32, "ff" * 32):  # a server that tries another seed contradicts what it signed
        with pytest.raises(ReceiptError, match="committed to"):
            draw(audit, seed, commitment_root(honest), touched)
