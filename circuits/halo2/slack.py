"""Tolerances as equations: ``sum <= tau`` becomes ``sum + slack == centre`` with a range-bound slack.

The circuit can only state equalities with public constants. The slack is a public linear combination of a few private
limbs, each already confined to ``[-limit, limit]`` by the lookup every private value passes through, so it lies in
``[-half, half]`` and the sum, which is not negative, in ``[0, 2 * half]``. Four squares (Lagrange) would need the same
range bound on every root, because in a prime field almost any number is a sum of two squares, and then buy nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from zkapex.errors import ProverError

SLACK_LIMBS = 4
"""Limbs per tolerance; enough for tolerances up to ``(2 * limit + 1) ** 4``."""


@dataclass(frozen=True)
class Slack:
    """A tolerance in the form the circuit checks.

    Attributes
    ----------
    weights : tuple of int
        Public weight of each limb, `SLACK_LIMBS` of them; unused limbs weigh 0.
    half : int
        Largest absolute slack; also the public constant ``centre`` the circuit's output must equal.
    """

    weights: tuple[int, ...]
    half: int

    @property
    def largest(self) -> int:
        """The largest sum any prover can pass off: the tolerance as enforced."""
        return 2 * self.half


def slack_for(tau: int, limit: int) -> Slack:
    """The tightest `Slack` whose enforced tolerance is at least `tau`.

    Raises
    ------
    ValueError
        If `tau` is negative or too large for `SLACK_LIMBS` limbs of size `limit`.
    """
    base = 2 * limit + 1
    if tau < 0:
        raise ValueError(f"tolerance must not be negative, got {tau}")
    half = -(-tau // 2)
    used = 1
    while (base**used - 1) // 2 < half:
        used += 1
    if used > SLACK_LIMBS:
        raise ValueError(f"tolerance {tau} needs {used} limbs of size {limit}, the circuit has {SLACK_LIMBS}")
    below = (base ** (used - 1) - 1) // 2
    top = max(-(-(half - below) // limit), 1)
    weights = [base**i for i in range(used - 1)] + [top]
    return Slack(tuple(weights + [0] * (SLACK_LIMBS - used)), below + limit * top)


def slack_limbs(slack: Slack, total: int, limit: int) -> tuple[int, ...]:
    """Limbs that complete an honest `total` to ``slack.half``.

    Raises
    ------
    ProverError
        If `total` exceeds the tolerance, so that no limbs within the range exist.
    """
    if not 0 <= total <= slack.largest:
        raise ProverError(
            f"a sum of squares is {total}, above the tolerance {slack.largest}",
            why="the change to the weights is further from the exact operator than rounding explains",
            fix="check that the curvature, mask and guard are the ones the change was solved for",
        )
    rest = slack.half - total
    limbs = [0] * SLACK_LIMBS
    used = max(i for i, w in enumerate(slack.weights) if w) + 1
    top = slack.weights[used - 1]
    # Round to nearest, then clamp: what is left fits the lower limbs because they cover half of `top` on either side.
    limbs[used - 1] = min(max((2 * rest + top) // (2 * top), -limit), limit)
    rest -= limbs[used - 1] * top
    base = 2 * limit + 1
    for i in range(used - 1):
        digit = (rest + limit) % base - limit
        limbs[i] = digit
        rest = (rest - digit) // base
    if rest:
        raise ProverError("slack decomposition failed", why=f"remainder {rest}", fix="report this as a defect")
    return tuple(limbs)
