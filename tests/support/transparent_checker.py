"""What a statement says of given rows, equation by equation, without a code, trees or masks: for forged witnesses.

Every equation of a statement has a multiplier of its own, drawn from the transcript under a label. With all other
multipliers set to zero, the two polynomials are that equation alone; here they are evaluated where rows have their
values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from zkapex.circuits.transparent import compliance, dampening, enrol, group_obs
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.field import Array, residues
from zkapex.circuits.transparent.group_obs import Request, Witness
from zkapex.circuits.transparent.iop import MASKS, Prover
from zkapex.circuits.transparent.layout import Layout
from zkapex.circuits.transparent.moment import Moment
from zkapex.circuits.transparent.program import Program, sum_over_slots
from zkapex.circuits.transparent.transcript import Secret, Transcript

Change = Callable[[str, Array], None]
"""Called with the name of rows and their values ``[rows, slots]``, which it may change."""

UNLEARN = {
    "stationarity": ("equations", 0),
    "guard": ("equations", 1),
    "d": ("vectors", 0),
    "n": ("vectors", 1),
    "h": ("vectors", 2),
    "squares of E": ("sizes E", None),
    "squares of L": ("sizes L", None),
    "all of E": ("total sizes", 0),
    "all of L": ("total sizes", 1),
    "projection": ("norms", 0),
    "projection of v": ("norms", 1),
    "masked": ("masked", None),
    "Dm": ("Dm", None),
    "same curvature": ("same curvature", None),
    "bits": ("Boolean", None),
}
"""Equations of guarded Group-OBS by the label and number of their multiplier."""

ENROL = {
    "curvature": ("multipliers", 0),
    "left": ("multipliers", 1),
    "right": ("multipliers", 2),
    "projection": ("multipliers", 3),
    "projection of v": ("multipliers", 4),
    "beyond": ("beyond", None),
    "bits": ("Boolean", None),
}

ATTEST = ENROL | {
    "second moment": ("moment", 0),
    "left_A": ("moment", 1),
    "right_A": ("moment", 2),
    "no activation": ("no activation", None),
    "squares of D": ("sizes D", None),
}
"""And those of an enrolment that shows what curvature was made of."""

COMPLY = {
    "guard": ("equations", 0),
    "n": ("equations", 1),
    "squares of L": ("sizes L", None),
    "all of L": ("total sizes", 0),
    "projection": ("norms", 0),
    "projection of v": ("norms", 1),
    "masked": ("masked", None),
    "bits": ("Boolean", None),
}

DAMPEN = {
    "factors": ("rho", None),
    "same": ("same", None),
    "projection": ("norms", 0),
    "projection of v": ("norms", 1),
    "bits": ("Boolean bits", None),
    "bits of errors": ("Boolean errors", None),
}


class Only(Transcript):
    """A transcript whose multipliers are zero but for one equation's."""

    def __init__(self, statement: str, equations: Mapping[str, tuple[str, int | None]], which: str) -> None:
        super().__init__(statement)
        self._labels = {label for label, _ in equations.values()}
        self._keep = equations[which]

    def field(self, label: str, *shape: int) -> Array:
        x = super().field(label, *shape)
        if label in self._labels:
            keep = np.zeros(shape, bool)
            if label == self._keep[0]:
                keep[slice(None) if self._keep[1] is None else self._keep[1]] = True
            x[~keep] = 0
        return x


class Checker(Prover):
    """A prover's side that commits to nothing, and knows at the end whether its equation holds."""

    holds: bool

    def __init__(self, layout: Layout, transcript: Transcript, change: Change = lambda name, rows: None) -> None:
        super().__init__(layout.parameters, "checker", b"", Secret(b""), 0.0)
        self.transcript, self._change, self._values = transcript, change, {}

    def commit(self, label: str, sizes: Mapping[str, int], make: Callable, masks: bool = False) -> None:
        self.put("", label, make())
        assert {n: self.counts[n] for n in sizes} == dict(sizes)
        self.counts |= MASKS if masks else {}

    def put(self, prefix: str, label: str, values: Mapping[str, np.ndarray]) -> None:
        root = hashlib.sha256()
        for name, rows in values.items():
            full = np.zeros((len(rows), self.parameters.slots), np.uint64)
            full[:, : rows.shape[1]] = rows if rows.dtype == np.uint64 else residues(rows)
            self._change(prefix + name, full)
            self._values[prefix + name] = full
            root.update(full.tobytes())
        self._attach(prefix, label, {name: len(rows) for name, rows in values.items()}, root.digest())

    def finish(self, program: Program) -> None:
        k, slots = self.parameters.k, self.parameters.slots

        def wide(rows: np.ndarray) -> Array:
            return np.pad(np.asarray(rows, np.uint64), ((0, 0), (0, k - rows.shape[1])))

        s, v = program.evaluate(lambda name, a, b: wide(self._values[name][a:b]), k, wide)
        self.holds = bool((sum_over_slots(s, slots) == program.constant).all() and not v[:, :slots].any())


def unlearn_violated(
    request: Request,
    witness: Witness,
    change: Change = lambda name, rows: None,
    old_curvature: np.ndarray | None = None,
    equations: Iterable[str] = UNLEARN,
) -> set[str]:
    """The equations of guarded Group-OBS that do not hold of a witness, with some of its rows changed."""
    y, out = request.layout, set()
    for which in equations:
        side = Checker(y, Only(group_obs.NAME, UNLEARN, which), change)
        before = witness.curvature if old_curvature is None else old_curvature
        side.put("old.", "state", {"theta": y.pack(witness.before), "H": y.flat(before)})
        side.put("new.", "state", {"theta": y.pack(witness.after), "H": y.flat(witness.curvature)})
        group_obs.unlearn(side, request, witness)
        if not side.holds:
            out.add(which)
    return out


def comply_violated(
    request: compliance.Compliance, held: compliance.Held, change: Change = lambda name, rows: None
) -> set[str]:
    """As `unlearn_violated`, of a compliance statement; the state's curvature, if any, is nothing it reads."""
    y, out = request.layout, set()
    for which in COMPLY:
        side = Checker(y, Only(compliance.NAME, COMPLY, which), change)
        side.strict = False
        state = {"theta": y.pack(held.weights)}
        if y.factor_rank:
            state["H"] = y.flat(np.zeros((y.blocks, y.width, y.width), np.int64))
        side.put("new.", "state", state)
        compliance.comply(side, request, held)
        if not side.holds:
            out.add(which)
    return out


def dampen_violated(
    request: dampening.Dampening, witness: dampening.Dampened, change: Change = lambda name, rows: None
) -> set[str]:
    """As `unlearn_violated`, of dampening."""
    y, out = request.layout, set()
    for which in DAMPEN:
        side = Checker(y, Only(dampening.NAME, DAMPEN, which), change)
        side.strict = False
        side.put("old.", "state", {"theta": y.pack(witness.before)})
        side.put("new.", "state", {"theta": y.pack(witness.after)})
        dampening.dampen(side, request, witness)
        if not side.holds:
            out.add(which)
    return out


def enrol_violated(
    y: Layout,
    witness: Enrolled,
    change: Change = lambda name, rows: None,
    curvature: np.ndarray | None = None,
    moment: Moment | None = None,
) -> set[str]:
    """As `unlearn_violated`, of an enrolment; the state's curvature may be another than the factors'."""
    out, equations = set(), ENROL if moment is None else ATTEST
    for which in equations:
        side = Checker(y, Only(enrol.NAME, equations, which), change)
        side.strict = moment is None
        state = {"theta": y.pack(witness.theta)}
        if y.factor_rank:
            state["H"] = y.flat(witness.curvature(y) if curvature is None else curvature)
        side.put("state.", "state", state)
        enrol.enrol(side, y, witness, moment)
        if not side.holds:
            out.add(which)
    return out


def lying_bits(values: np.ndarray, width: int, strict: bool = True) -> np.ndarray:
    """What a cheating prover writes where an honest one stops: as many bits as there is room for."""
    return (np.asarray(values).astype(np.int64)[..., None] >> np.arange(width)) & 1


def read_slots(program: Program, name: str) -> np.ndarray:
    """Whether anything reads a slot, ``[rows, slots]``."""
    out = np.zeros((program.counts[name], program.slots), bool)
    terms = program._terms.get(name)
    if terms is not None:
        for by_row, by_slot in terms.outer:
            out[:, : len(by_slot)] |= by_row.any(1)[:, None] & by_slot.any(1)[None]
        for by_row in (*terms.squares, *terms.linear, *terms.booleans):
            out |= by_row.any(1)[:, None]
        if terms.entries is not None:
            out |= terms.entries.any(1)
        for table, by_row in terms.public:
            values = program._tables[table]
            out[:, : values.shape[1]] |= by_row.any(1)[:, None] & values.astype(bool)
    for left, right, coefficient in program._products:
        if name in (left, right) and coefficient.any():
            out[:] = True
    return out
