"""The lemma that bounds norms, its supremum enclosed by intervals with outward rounding, and against exact
distributions.

For an integer vector w != 0 and one column pi of a projection, X = <pi, w> / |w|: with g normal, and since the
characteristic function of an entry of pi at t is cos^2(t / 2),

    E exp(-h X^2) = E_g prod_j cos^2(g sqrt(h/2) w_j / |w|)  <=  sup over x in (0, 1] of M(x),
    M(x) = E_g |cos(g sqrt(h/2) x)|^(2 / x^2),

by Hoelder with exponents |w|^2 / w_j^2. Chernoff: P[|Pi w|^2 < c |w|^2] <= (exp(h c / 256) sup M)^256.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.special import erfc

from zkapex.circuits.transparent.params import LOG2_NORM_ERROR, NORM_SQUARE, PROJECTIONS

H, REACH, STEP = 2.5, 6.0, 0.002
SMALL = 0.25
OUT = 1 + 1e-11
"""Every computed upper bound is multiplied by this, every lower bound divided: cos, exp, log and erfc are good to
1e-15."""

EDGES = np.arange(round(REACH / STEP) + 1) * STEP
MASS = -np.diff(erfc(EDGES / math.sqrt(2))) + 1e-15
"""At least the probability that |g| lies in each piece; differences of numbers below 1, each good to 1e-16."""


def upper(first: float, last: float) -> float:
    """An upper bound on M over first <= x <= last, piece by piece of |g|.

    Where the cosine's argument stays below pi/2, log cos(y) / y^2 falls with y: the integrand falls with x and with
    g. Elsewhere its base is at most its largest value over the piece, at most 1, and its exponent at least 2 /
    last^2.
    """
    scale = math.sqrt(H / 2)
    near, far = scale * EDGES[:-1] * first / OUT, scale * EDGES[1:] * last * OUT
    base = np.minimum(1.0, np.maximum(np.abs(np.cos(near)), np.abs(np.cos(far))) * OUT + 1e-14)
    base = np.where(np.floor(near / math.pi) != np.floor(far / math.pi), 1.0, base)  # a crest lies between
    falling = far < math.pi / 2
    exponent = np.where(falling, 2 / first**2 / OUT, 2 / last**2 / OUT)
    value = np.exp(exponent * np.log(np.maximum(base, 1e-300))) * OUT
    return float((MASS * value).sum() * OUT + erfc(REACH / math.sqrt(2)) * OUT)


def enclosed(largest: float) -> int:
    """Cells of x it took to show that M stays below ``largest`` on [SMALL, 1]; fails if it does not."""
    todo, done = [(SMALL + (1 - SMALL) * i / 8, SMALL + (1 - SMALL) * (i + 1) / 8) for i in range(8)], 0
    while todo:
        first, last = todo.pop()
        done += 1
        if upper(first, last) >= largest:
            assert last - first > 1e-6, (first, last, upper(first, last))
            middle = (first + last) / 2
            todo += [(first, middle), (middle, last)]
    return done


def test_the_supremum_is_enclosed() -> None:
    largest = 2 ** ((LOG2_NORM_ERROR - H * NORM_SQUARE / math.log(2)) / PROJECTIONS)
    # cos y <= exp(-y^2 / 2) below pi/2: for small x, M is at most (1 + h)^(-1/2) and what lies beyond.
    beyond = float(erfc(math.pi / (2 * SMALL * math.sqrt(H / 2)) / math.sqrt(2)))
    assert (1 + H) ** -0.5 * (1 + 1e-12) + beyond < largest
    assert (1 + math.exp(-H)) / 2 < largest  # at x = 1, in closed form
    assert enclosed(largest) < 2000


def test_the_enclosure_fails_for_a_claim_that_is_false() -> None:
    with pytest.raises(AssertionError):
        enclosed((1 + math.exp(-H)) / 2 - 1e-3)


@pytest.mark.parametrize("w", [[1], [1, 1], [3, 1, 1], [5, -4, 3, 2, 1], [1] * 9])
def test_exact_distributions_stay_below_it(w: list[int]) -> None:
    exact = 0.0
    for signs in itertools.product((-1, 0, 1), repeat=len(w)):
        weight = float(np.prod([0.5 if s == 0 else 0.25 for s in signs]))
        product = sum(s * x for s, x in zip(signs, w, strict=True))
        exact += weight * math.exp(-H * product**2 / sum(x * x for x in w))
    assert exact <= 2 ** ((LOG2_NORM_ERROR - H * NORM_SQUARE / math.log(2)) / PROJECTIONS)
