"""Dampening about a layer: every masked weight is a public factor times the one before, rounded; the others stay.

With U the unit of factors and f the factor of a weight, ``e = U theta_u - f theta_p`` has to be in [-U/2, U/2], which
is shown bit by bit: ``e + U/2 = b_0 + 2 b_1 + ... + U/2 b_7 + b_8`` for U = 256, nine Booleans that come to 0 to 256
and to nothing else. The sum over masked weights at random coefficients ``rho_g sigma_i`` (row of the code, slot) is

    sum rho sigma (U theta_u - f theta_p + U/2) == sum rho sigma (the bits of each),

a polynomial of degree 2 whose coefficients are the errors of each weight. There is no tolerance.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from zkapex.circuits.operators.tolerances import FACTOR_UNIT
from zkapex.circuits.transparent.field import Array, Integers, P, integers_in_k, negative, outer, prod, total
from zkapex.circuits.transparent.group_obs import Booleans
from zkapex.circuits.transparent.iop import Side
from zkapex.circuits.transparent.layout import Layout, weight_norm
from zkapex.circuits.transparent.layout import digest as digest_of
from zkapex.circuits.transparent.program import Program
from zkapex.circuits.transparent.projection import Norms
from zkapex.errors import InputError, ProverError

NAME = "dampening"
HALF = FACTOR_UNIT // 2
WEIGHTS: Integers = np.array([*(1 << i for i in range(FACTOR_UNIT.bit_length() - 1)), 1], np.int64)
"""Of the bits of one error: they come to 0 to FACTOR_UNIT, the powers of two below it being one less together."""


@dataclass(frozen=True)
class Dampening:
    """What is public about a layer.

    Parameters
    ----------
    layout : Layout
    mask : bool [rows, cols]
    factors : int64 [rows, cols]
        In units of ``1 / FACTOR_UNIT``, from 0 to one; one where nothing is masked.

    Raises
    ------
    InputError
        A shape or a range is wrong, or nothing may change.
    """

    layout: Layout
    mask: Booleans
    factors: Integers

    def __post_init__(self) -> None:
        y = self.layout
        shape = (y.rows, y.cols)
        if self.mask.shape != shape or self.mask.dtype != np.bool_:
            raise InputError(f"mask is {self.mask.dtype}{list(self.mask.shape)}, not bool{list(shape)}")
        if self.factors.shape != shape or self.factors.dtype != np.int64:
            raise InputError(f"factors are {self.factors.dtype}{list(self.factors.shape)}, not int64{list(shape)}")
        if (
            self.factors.min() < 0
            or self.factors.max() > FACTOR_UNIT
            or (self.factors[~self.mask] != FACTOR_UNIT).any()
        ):
            raise InputError("dampening factors lie between 0 and one, and are one where nothing is masked")
        if not self.mask.any():
            raise InputError("the request changes nothing in this layer")

    def digest(self) -> bytes:
        """Of everything public."""
        arrays = (np.packbits(self.mask), self.factors.astype("<i8"))
        parts = [self.layout.digest_parts(), *(a.tobytes() for a in arrays)]
        return hashlib.sha512(b"".join(len(x).to_bytes(8, "little") + x for x in parts)).digest()


@dataclass(frozen=True)
class Dampened:
    """What a device knows: weights before and after, int64 ``[rows, cols]``."""

    before: Integers
    after: Integers

    def digest(self) -> bytes:
        """Of what is private."""
        return digest_of(self.before, self.after)


def check_no_wrap(y: Layout, norms: Norms) -> float:
    """The largest error that an equation can come to, given what projections show; raises ValueError if too large."""
    largest = 2 * FACTOR_UNIT * norms.bound(0) + 2 * FACTOR_UNIT
    if largest >= P / 4:
        raise ValueError("equations of the layer could wrap around the field")
    return largest


def error_bits(errors: Integers, strict: bool) -> Integers:
    """The nine bits of each of ``e + U/2``, one error after the other.

    Raises
    ------
    ProverError
        An error is larger than rounding makes it, and the prover is strict.
    """
    shifted = errors + HALF
    if (shifted < 0).any() or (shifted > FACTOR_UNIT).any():
        if strict:
            raise ProverError("the witness does not satisfy the statement", why="a weight is not what its factor makes")
        shifted = np.clip(shifted, 0, FACTOR_UNIT)
    last = shifted == FACTOR_UNIT
    rest = shifted - last
    low = (rest[:, None] >> np.arange(len(WEIGHTS) - 1)) & 1
    bits: Integers = np.concatenate([low, last[:, None].astype(np.int64)], 1)
    return bits


def dampen(side: Side, request: Dampening, witness: Dampened | None) -> None:
    """The statement. Attach the states as ``old.`` and ``new.`` first; the prover's side has a witness."""
    y, transcript, field = request.layout, side.transcript, side.transcript.field
    transcript.absorb("request", request.digest())
    packed = y.pack(request.mask).astype(np.bool_)
    rows, slots = np.nonzero(packed)
    factors = y.pack(request.factors).astype(np.int64)[rows, slots]
    count = y.rows_for(len(WEIGHTS) * len(rows))

    def first() -> dict[str, np.ndarray]:
        assert witness is not None
        before, after = (y.pack(x).astype(np.int64)[rows, slots] for x in (witness.before, witness.after))
        return {"errors": y.flat(error_bits(FACTOR_UNIT * after - factors * before, side.strict).reshape(-1))}

    side.commit("first", {"errors": count}, first, masks=True)
    norms = Norms(side, [(("new.theta",), weight_norm(y))])
    check_no_wrap(y, norms)

    def second() -> dict[str, np.ndarray]:
        assert witness is not None
        return {"v": y.flat(norms.project({"new.theta": y.pack(witness.after).astype(np.int64)}))}

    side.commit("second", {"v": norms.rows_of_v}, second)
    norms.second()
    side.commit("third", {"bits": y.rows_for(norms.number_of_bits)}, lambda: {"bits": y.flat(norms.bits())})
    program, tau = Program(y.parameters.slots, side.counts), field("norms", 2)
    program.entries("bits", norms.constrain(program, tau[0], tau[1], "v"))
    by_row, by_slot = field("rho", y.theta_rows), field("sigma", packed.shape[1])
    each = prod(by_row[rows], by_slot[slots])
    program.entries("new.theta", _laid_out(y, rows, slots, prod(each, integers_in_k(FACTOR_UNIT))))
    program.entries("old.theta", negative(_laid_out(y, rows, slots, prod(each, integers_in_k(factors)))))
    program.entries("errors", negative(outer(each, integers_in_k(WEIGHTS))))
    program.equals(negative(prod(total(each), integers_in_k(HALF))))
    same = field("same", y.theta_rows)
    program.table("kept", ~packed)
    program.vanishes("new.theta", same, "kept")
    program.vanishes("old.theta", negative(same), "kept")
    for name in ("bits", "errors"):
        program.booleans(name, field(f"Boolean {name}", side.counts[name]))
    side.finish(program)


def _laid_out(y: Layout, rows: np.ndarray, slots: np.ndarray, values: Array) -> Array:
    """Coefficients of single slots, as `Program.entries` takes them."""
    full = np.zeros((y.theta_rows, y.parameters.slots, 3), np.uint64)
    full[rows, slots] = values
    return full.reshape(-1, 3)
