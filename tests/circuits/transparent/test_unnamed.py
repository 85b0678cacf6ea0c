"""Slots, rows and columns without a meaning: what reads them is known, slot by slot, and can only make a proof harder.

An equation reads a slot if its coefficient there is not zero; with one equation's multipliers alone in place, that can
be seen in its program. A slot that none reads is harmless whatever is in it. One that only projections, squares or
Booleans read can only add to what has to be small. Any other has to have a meaning, or to be shown to be zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from transparent_checker import (
    COMPLY,
    DAMPEN,
    ENROL,
    UNLEARN,
    Checker,
    Only,
    comply_violated,
    dampen_violated,
    enrol_violated,
    read_slots,
    unlearn_violated,
)
from transparent_examples import complying, dampening, example, small

from zkapex.circuits.transparent import compliance, enrol, group_obs
from zkapex.circuits.transparent import dampening as dampening_module
from zkapex.circuits.transparent.field import Array
from zkapex.circuits.transparent.layout import Layout
from zkapex.circuits.transparent.program import Program

HARMLESS = {"projection", "squares of E", "squares of L", "bits", "bits of errors"}
"""Equations that a value in a slot of no meaning can only make harder to satisfy."""
POINTWISE = {"masked", "Dm", "same curvature", "same", "beyond"}
"""Equations of one slot at a time: what is in another slot cannot help them, and they only ask for more."""


class Reader(Checker):
    """Keeps the program that a statement makes."""

    program: Program

    def finish(self, program: Program) -> None:
        self.program = program
        super().finish(program)


def readers(
    y: Layout, name: str, equations: Mapping[str, tuple[str, int | None]], run: Callable[[Reader], None]
) -> dict[str, dict[str, np.ndarray]]:
    """By rows, then by equation: which slots it reads."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for which in equations:
        side = Reader(y, Only(name, equations, which))
        run(side)
        for rows in side.program.counts:
            if not rows.startswith("mask."):
                out.setdefault(rows, {})[which] = read_slots(side.program, rows)
    return out


def meaning(y: Layout, masked: int, bits: int, entries_of_v: int) -> dict[str, np.ndarray]:
    """The slots that have a meaning, by rows."""

    def first(rows: int, count: int) -> np.ndarray:
        return (np.arange(rows * y.parameters.slots) < count).reshape(rows, y.parameters.slots)

    def prefix(rows: int, count: int) -> np.ndarray:
        return np.broadcast_to(np.arange(y.parameters.slots) < count, (rows, y.parameters.slots))

    theta = prefix(y.theta_rows, y.height * y.width)
    pairs = prefix(y.pair_rows, y.pairs_per_row * y.rank)
    columns = np.repeat(first(y.vector_rows // 3, y.blocks * y.width), 3, 0)
    h = first(y.curvature_rows, y.blocks * y.width**2)
    return {
        "old.theta": theta, "new.theta": theta, "state.theta": theta, "E": theta, "L": pairs, "mu": pairs,
        "old.H": h, "new.H": h, "state.H": h, "d": columns, "n": columns, "h": columns,
        "X": first(y.rows_for(masked), masked), "Dm": prefix(3, y.height * y.width),
        "bits": first(y.rows_for(bits), bits), "v": first(y.rows_for(entries_of_v), entries_of_v),
    }  # fmt: skip


def check(found: dict[str, dict[str, np.ndarray]], meant: Mapping[str, np.ndarray], zero: Mapping[str, str]) -> None:
    """That a slot without a meaning is read by nothing that it could help, or shown to be zero by an equation."""
    for rows, by_equation in found.items():
        outside = ~meant[rows]
        for which, slots in by_equation.items():
            if which in HARMLESS | POINTWISE or which == zero.get(rows):
                continue
            helped = slots & outside
            if helped.any():
                assert rows in zero, f"{which} reads slots of {rows} that have no meaning"
                assert (by_equation[zero[rows]] | ~helped).all(), (
                    f"{which} reads slots of {rows} nobody shows to be zero"
                )


Y = small(12, 21, rank=2, width=6)
EX = example(Y, density=0.03, seed=3, targets=(2,), steered=True)


def run_unlearn(side: Reader) -> None:
    w = EX.witness
    side.put("old.", "state", {"theta": Y.pack(w.before), "H": Y.flat(w.curvature)})
    side.put("new.", "state", {"theta": Y.pack(w.after), "H": Y.flat(w.curvature)})
    group_obs.unlearn(side, EX.request, w)


def test_of_group_obs() -> None:
    found = readers(Y, group_obs.NAME, UNLEARN, run_unlearn)
    masked = int(EX.request.packed_mask.sum())
    used = {
        name: np.logical_or.reduce([slots for which, slots in by.items() if which not in POINTWISE])
        for name, by in found.items()
    }
    bits = int(np.logical_or(found["bits"]["projection of v"], found["bits"]["squares of E"]).sum())
    assert bits  # of z and of slack
    slack = np.logical_or.reduce([slots for which, slots in found["bits"].items() if which != "bits"])
    meant = meaning(Y, masked, int(slack.sum()), int(found["v"]["projection"].sum()))
    # d and h enter a product, over all slots: an equation of their own shows every one of them.
    check(found, meant, {"d": "d", "h": "h"})
    assert found["d"]["d"].all()
    assert found["h"]["h"].all()
    for rows in ("new.theta", "E", "L", "mu"):  # whatever is in them has to be small, in every slot
        assert found[rows]["projection"].all()
    for rows in ("old.theta", "X", "n"):
        assert (used[rows] <= meant[rows]).all()  # nothing at all reads the others


def test_of_enrolments() -> None:
    def run(side: Reader) -> None:
        side.put("state.", "state", {"theta": Y.pack(EX.enrolled.theta), "H": Y.flat(EX.witness.curvature)})
        enrol.enrol(side, Y, EX.enrolled)

    found = readers(Y, enrol.NAME, ENROL, run)
    used = Y.blocks * Y.factor_rank
    columns = np.repeat((np.arange(Y.rows_for(used) * Y.parameters.slots) < used).reshape(-1, Y.parameters.slots), 3, 0)
    entries = Y.blocks * Y.factor_rank * Y.width
    f = (np.arange(Y.rows_for(entries) * Y.parameters.slots) < entries).reshape(-1, Y.parameters.slots)
    slack = np.logical_or.reduce([slots for which, slots in found["bits"].items() if which != "bits"])
    meant = meaning(Y, 1, int(slack.sum()), int(found["v"]["projection"].sum()))
    check(found, meant | {"left": columns, "right": columns, "F": f}, {"left": "left", "right": "right"})
    assert found["left"]["left"].all()
    assert found["right"]["right"].all()
    assert found["state.theta"]["projection"].all()
    assert found["state.H"]["projection"].all()


def test_of_compliance() -> None:
    for along in (True, False):
        request, held = complying(Y, along=along)

        def run(side: Reader, request: compliance.Compliance = request, held: compliance.Held = held) -> None:
            side.put("new.", "state", {"theta": Y.pack(held.weights), "H": Y.flat(EX.witness.curvature)})
            compliance.comply(side, request, held)

        found = readers(Y, compliance.NAME, COMPLY, run)
        slack = np.logical_or.reduce([slots for which, slots in found["bits"].items() if which != "bits"])
        meant = meaning(Y, 1, int(slack.sum()), int(found["v"]["projection"].sum()))
        check(found, meant, {})
        assert found["new.theta"]["projection"].all()


def test_of_dampening() -> None:
    y = plain(Y)
    request, witness = dampening(y)

    def run(side: Reader) -> None:
        side.put("old.", "state", {"theta": y.pack(witness.before)})
        side.put("new.", "state", {"theta": y.pack(witness.after)})
        dampening_module.dampen(side, request, witness)

    found = readers(y, dampening_module.NAME, DAMPEN, run)
    slack = np.logical_or.reduce([slots for which, slots in found["bits"].items() if which != "bits"])
    meant = meaning(y, 1, int(slack.sum()), int(found["v"]["projection"].sum()))
    count = 9 * int(request.mask.sum())
    errors = (np.arange(y.rows_for(count) * y.parameters.slots) < count).reshape(-1, y.parameters.slots)
    check(found, meant | {"errors": errors}, {})
    assert found["new.theta"]["projection"].all()
    assert (found["errors"]["factors"] == errors).all()


def plain(y: Layout) -> Layout:
    """The same layer without a curvature and a guard."""
    return Layout(y.rows, y.cols, y.parameters, y.width, limit=y.limit)


def altered(at: str, row: int, slot: int, by: int) -> Callable[[str, Array], None]:
    def change(name: str, rows: Array) -> None:
        if name == at:
            rows[row, slot] = (int(rows[row, slot]) + by) % (2**64 - 2**32 + 1)

    return change


@pytest.mark.parametrize("seed", range(4))
def test_what_reads_a_slot_notices_what_is_in_it(seed: int) -> None:
    """The programs' coefficients are what is evaluated: any value at all, in rows and slots drawn at random."""
    found, rng = readers(Y, group_obs.NAME, UNLEARN, run_unlearn), np.random.default_rng(seed)
    names = sorted(found)
    for _ in range(3):
        rows = names[int(rng.integers(len(names)))]
        count = len(found[rows]["masked"])
        if not count or rows in ("v", "bits"):
            continue
        row, slot = int(rng.integers(count)), int(rng.integers(Y.parameters.slots))
        expected = {which for which, slots in found[rows].items() if slots[row, slot]}
        noticed = unlearn_violated(EX.request, EX.witness, altered(rows, row, slot, int(rng.integers(1, 2**62))))
        # A product notices nothing where the other factor is zero; what shows d and h notices that.
        unnoticed = {"stationarity"} if rows in ("d", "h") else set()
        assert expected - unnoticed <= noticed <= expected, (rows, row, slot)


# -- the newer statements, one equation at a time ---------------------------------------------------------------------


def test_compliance_notices_a_weight_and_a_target() -> None:
    request, held = complying(Y, along=True)
    assert comply_violated(request, held) == set()
    row, col = (int(i) for i in np.argwhere(request.mask)[0])
    kept = held.weights.copy()
    kept[row, col] = 3
    assert "masked" in comply_violated(request, compliance.Held(kept))
    free = held.weights.copy()
    block = int(np.flatnonzero(request.on_result)[0])
    free[0, block * Y.width + 1] += 4000
    assert comply_violated(request, compliance.Held(free)) & {"squares of L", "bits", "all of L"}


def test_dampening_notices_a_weight_that_is_off_by_one_and_one_that_moved() -> None:
    request, witness = dampening(plain(Y))
    assert dampen_violated(request, witness) == set()
    row, col = (int(i) for i in np.argwhere(request.mask)[1])  # the first is a tie, which may go either way
    for by in (1, -1, 40):
        off = witness.after.copy()
        off[row, col] += by
        assert dampen_violated(request, dampening_module.Dampened(witness.before, off)) == {"factors"}
    row, col = (int(i) for i in np.argwhere(~request.mask)[0])
    moved = witness.after.copy()
    moved[row, col] += 1
    assert dampen_violated(request, dampening_module.Dampened(witness.before, moved)) == {"same"}


def test_enrolment_is_as_before() -> None:
    assert enrol_violated(Y, EX.enrolled) == set()
