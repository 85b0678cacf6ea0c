"""Forged witnesses: whatever is wrong with one is noticed, by the equations that speak of it and by no others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from transparent_checker import UNLEARN, enrol_violated, lying_bits, unlearn_violated
from transparent_examples import SEED, Example, example, small

from zkapex.circuits.transparent import group_obs, iop
from zkapex.circuits.transparent.field import P
from zkapex.circuits.transparent.group_obs import Request, Witness
from zkapex.circuits.transparent.layout import commit
from zkapex.circuits.transparent.prove import prove_change, verify_change
from zkapex.errors import ProofError

Y = small(12, 21, rank=2, width=6)
EX = example(Y, density=0.03, seed=3, targets=(2,), steered=True)
REQUEST, WITNESS = EX.request, EX.witness
ROW, COL = (int(i) for i in np.argwhere(REQUEST.mask[:, : Y.width])[0])
"""A masked weight of a block that is steered."""
FREE = int(np.flatnonzero(~REQUEST.mask[ROW, : Y.width])[0])


@pytest.fixture(autouse=True)
def _liars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iop, "to_bits", lying_bits)


@dataclass(frozen=True)
class Claiming(Witness):
    """A witness with residuals of its own."""

    e: np.ndarray | None = None
    own: np.ndarray | None = None

    def residuals(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        e, own = super().residuals(request)
        return e if self.e is None else self.e.copy(), own if self.own is None else self.own.copy()


def claiming(witness: Witness, e: np.ndarray | None = None, own: np.ndarray | None = None) -> Claiming:
    return Claiming(witness.before, witness.after, witness.mu, witness.curvature, e, own)


def moved(by: int, row: int = ROW, col: int = FREE) -> Witness:
    after = WITNESS.after.copy()
    after[row, col] += by
    return replace(WITNESS, after=after)


def refused(request: Request, witness: Witness) -> None:
    """The whole proof is refused, too, and not for what it is made of."""
    y = request.layout
    old, new = commit(y, witness.before, witness.curvature, SEED), commit(y, witness.after, witness.curvature, SEED)
    proof = prove_change(request, old, new, witness, b"context", SEED)
    with pytest.raises(ProofError, match="does not hold") as caught:
        verify_change(request, old.root, new.root, b"context", proof)
    assert "sum over slots" in caught.value.why or "at every slot" in caught.value.why


def test_an_honest_witness_violates_nothing() -> None:
    assert unlearn_violated(REQUEST, WITNESS) == set()


def test_a_masked_weight_that_stays_with_everything_else_fitted() -> None:
    """L as if the weight were zero, E false: the mask's own equation has to notice, as the guard's says u * delta."""
    left = moved(1, ROW, COL)
    _, own = left.residuals(REQUEST)
    own[0, ROW] -= REQUEST.guard[0, COL]
    assert unlearn_violated(REQUEST, claiming(left, own=own)) == {"masked", "guard"}
    e2, own2 = left.residuals(REQUEST)
    assert unlearn_violated(REQUEST, claiming(left, e2, own2)) == {"masked"}
    refused(REQUEST, claiming(left, e2, own2))


def test_all_masked_weights_stay() -> None:
    kept = replace(WITNESS, after=np.where(REQUEST.mask, WITNESS.before, WITNESS.after))
    assert "masked" in unlearn_violated(REQUEST, kept)


def test_a_free_weight_moved_past_the_tolerance() -> None:
    violated = unlearn_violated(REQUEST, moved(800))
    assert violated == {"squares of E", "squares of L"} or violated >= {"squares of E"}
    assert violated <= {"squares of E", "squares of L", "all of E", "all of L", "projection of v"}
    refused(REQUEST, moved(800))


def test_a_target_missed() -> None:
    """In the block whose result is prescribed: along its guard, by more than rounding explains."""
    along = np.rint(REQUEST.guard[2, :, 0] / 8192 * 60).astype(np.int64)
    after = WITNESS.after.copy()
    row = int(np.flatnonzero(~REQUEST.mask[:, 2 * Y.width : 3 * Y.width].any(1))[0])
    after[row, 2 * Y.width : 3 * Y.width] += along
    violated = unlearn_violated(REQUEST, replace(WITNESS, after=after))
    assert "squares of L" in violated
    assert violated <= {"squares of E", "squares of L", "all of E", "all of L"}


def test_targets_are_about_the_result_and_steering_about_the_change() -> None:
    """The same numbers, read the other way."""
    other = replace(REQUEST, on_result=~REQUEST.on_result)
    _, own = WITNESS.residuals(REQUEST)
    assert unlearn_violated(other, claiming(WITNESS, own=own)) >= {"guard"}
    assert "squares of L" in unlearn_violated(other, WITNESS)


def test_false_small_residuals() -> None:
    """Nothing repaired, and residuals that claim otherwise."""
    after = np.where(REQUEST.mask, 0, WITNESS.before)
    lazy = replace(WITNESS, after=after, mu=np.zeros_like(WITNESS.mu))
    e, own = lazy.residuals(REQUEST)
    e[np.abs(e) > 1000] = 0
    honest = lazy.residuals(REQUEST)
    assert unlearn_violated(REQUEST, claiming(lazy, e, np.zeros_like(own))) == {"stationarity", "guard"}
    assert unlearn_violated(REQUEST, claiming(lazy, e, honest[1])) >= {"stationarity"}
    refused(REQUEST, claiming(lazy, e, np.zeros_like(own)))


def test_curvature_swapped_after_enrolment() -> None:
    other = WITNESS.curvature.copy()
    other[0, 0, 0] += 7
    assert unlearn_violated(REQUEST, WITNESS, old_curvature=other) == {"same curvature"}


@pytest.mark.parametrize(
    ("rows", "noticed"),
    [
        ("d", {"stationarity", "guard", "d"}),
        ("n", {"guard", "n"}),
        ("h", {"stationarity", "h"}),
        ("Dm", {"Dm", "n"}),
        ("v", {"projection", "projection of v"}),
        ("X", {"stationarity"}),
        ("mu", {"stationarity", "projection"}),
        ("L", {"guard", "squares of L", "projection"}),
        ("E", {"stationarity", "squares of E", "projection"}),
        ("new.H", {"same curvature", "h"}),
        ("old.theta", {"d"}),
        ("new.theta", {"d", "projection"}),
    ],
)
def test_one_entry_altered(rows: str, noticed: set[str]) -> None:
    """Everything that names an entry notices; the prover went on with what it had."""
    slot = int(np.flatnonzero(~REQUEST.packed_mask[0] & ~Y.beyond[0])[0])

    def change(name: str, values: np.ndarray) -> None:
        if name == rows:
            values[0, 0 if rows not in {"E", "old.theta", "new.theta"} else slot] = np.uint64(
                (int(values[0, 0 if rows not in {"E", "old.theta", "new.theta"} else slot]) + 3) % P
            )

    # v as the honest prover made it, so that only what was altered differs.
    found = unlearn_violated(REQUEST, WITNESS, change)
    assert found == noticed, found ^ noticed


def test_bits_that_are_none() -> None:
    def change(name: str, values: np.ndarray) -> None:
        if name == "bits":  # 2 = 10 in binary: the sum stays what it was
            at = next(i for i in range(20) if values[0, i] == 0 and values[0, i + 1] == 1)
            values[0, at], values[0, at + 1] = 2, 0

    assert unlearn_violated(REQUEST, WITNESS, change) == {"bits"}


def enrolled_with(curvature: np.ndarray) -> set[str]:
    return enrol_violated(Y, EX.enrolled, curvature=curvature)


def test_enrolled_curvature_that_is_no_square_or_lacks_its_ridge() -> None:
    h = EX.enrolled.curvature(Y)
    assert h is not None
    assert enrol_violated(Y, EX.enrolled) == set()
    bad = h.copy()
    bad[1, 2, 3] += 1
    assert enrolled_with(bad) >= {"curvature"}
    assert enrolled_with(h - Y.ridge * np.eye(Y.width, dtype=np.int64)) >= {"curvature"}


def test_enrolled_weights_out_of_range_or_beyond_the_layer() -> None:
    far = EX.enrolled.theta.copy()
    far[0, 0] += 1 << 40
    assert enrol_violated(Y, replace(EX.enrolled, theta=far)) == {"projection of v"}

    def outside(name: str, values: np.ndarray) -> None:
        if name == "state.theta":
            row, slot = (int(i) for i in np.argwhere(Y.beyond)[0])
            values[row, slot] = 1

    assert enrol_violated(Y, EX.enrolled, outside) == {"beyond", "projection"}


def test_huge_weights_whose_residuals_squares_cancel_modulo_p() -> None:
    """Only the projections know that integers are meant: E and its square sum are right modulo p."""
    e, own = WITNESS.residuals(REQUEST)
    g = int(np.flatnonzero(~Y.beyond.all(1))[0])
    # i^2 = -1 modulo p, i = 2^48: an entry 2^20 and another 2^20 i have squares that cancel.
    free = np.flatnonzero(~REQUEST.packed_mask[g] & ~Y.beyond[g])[:2]
    i = pow(7, (P - 1) // 4, P)

    def change(name: str, values: np.ndarray) -> None:
        if name == "E":
            x, y = (int(values[g, slot]) for slot in free)
            # (x + t)^2 + (y + s)^2 = x^2 + y^2 with s = i t + c: linear in t once c is fixed.
            c = 12345
            # 2xt + t^2 + 2y(it+c) + (it+c)^2 = 0  ->  t (2x + 2yi + 2ic) = -(2yc + c^2)
            t = -(2 * y * c + c * c) * pow(2 * x + 2 * y * i + 2 * i * c, -1, P) % P
            values[g, free[0]] = (x + t) % P
            values[g, free[1]] = (y + i * t + c) % P

    found = unlearn_violated(REQUEST, claiming(WITNESS, e, own), change)
    assert "squares of E" not in found
    assert "all of E" not in found
    assert found == {"stationarity", "projection"}


def test_every_equation_is_violated_by_something_above() -> None:
    """The list of equations is the statement's: no multiplier is drawn under a label that the list does not know."""
    drawn: set[str] = set()
    from transparent_checker import Checker, Only

    class Noting(Only):
        def field(self, label: str, *shape: int) -> np.ndarray:
            drawn.add(label)
            return super().field(label, *shape)

    side = Checker(Y, Noting(group_obs.NAME, UNLEARN, "bits"))
    side.put("old.", "state", {"theta": Y.pack(WITNESS.before), "H": Y.flat(WITNESS.curvature)})
    side.put("new.", "state", {"theta": Y.pack(WITNESS.after), "H": Y.flat(WITNESS.curvature)})
    group_obs.unlearn(side, REQUEST, WITNESS)
    points = {"a1", "a2", "b", "c", "beta", "beta guard", "s block", "s column", "s beyond", "s h"}
    points |= {"projection rows", "projection columns", "projections of v"}
    assert drawn - points == {label for label, _ in UNLEARN.values()}


def test_the_example_has_what_these_tests_need() -> None:
    assert isinstance(EX, Example)
    assert REQUEST.offsets[0].any()
    assert REQUEST.on_result.tolist() == [False, False, True, False]
    assert Y.beyond.any()
