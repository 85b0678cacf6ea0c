"""Named circuit sizes. A profile trades proving memory and key size against the number of proofs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from zkapex.circuits.operators import operator_names, statement
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError

CurvatureKind = Literal["kfac", "block-fisher"]
CURVATURES = get_args(CurvatureKind)


@dataclass(frozen=True)
class Profile:
    """A circuit height with the chunk shapes that fill it.

    Attributes
    ----------
    name : str
    log2_rows : int
        Height of the circuit.
    block_width : int
        Columns of a chunk.
    weight_limit : int
        Largest integer weight; the lookup table of ``2 * weight_limit + 1`` values must fit the rows.
    rows_per_chunk : mapping
        Rows of a chunk with ``kfac`` and ``block-fisher`` curvature, with products checked at a random point, and of
        both with products computed in the circuit (``kfac-plain``, ``block-fisher-plain``). Sized so that a chunk of
        the default guard rank just fits; the rows of ``kfac`` divide the usual layer sizes. And of the activations that
        a proof of a second moment is about (``second-moment``), as many as fit.
    curvature_rank : int
        Rows of the factor for ``kfac``.
    guard_rank : int
        Default guard rank.
    """

    name: str
    log2_rows: int
    block_width: int
    weight_limit: int
    rows_per_chunk: Mapping[str, int]
    curvature_rank: int
    guard_rank: int = 4

    def statement(
        self,
        kind: str = "guarded-group-obs",
        curvature: str = "kfac",
        guard_rank: int | None = None,
        freivalds: bool = True,
    ) -> StatementSpec:
        """The circuit of this profile for a kind of statement.

        Raises
        ------
        InputError
            There is no such kind.
        """
        return StatementSpec(
            kind=kind,
            block_width=self.block_width,
            weight_limit=self.weight_limit,
            log2_rows=self.log2_rows,
            **statement(kind).sized(self, curvature, guard_rank, freivalds),
        )


def _rows(kfac: int, fisher: int, kfac_plain: int, fisher_plain: int, activations: int) -> Mapping[str, int]:
    names = ("kfac", "block-fisher", "kfac-plain", "block-fisher-plain", "second-moment")
    return MappingProxyType(dict(zip(names, (kfac, fisher, kfac_plain, fisher_plain, activations), strict=True)))


PROFILES = {
    p.name: p
    for p in (
        Profile("tiny", 12, 32, 2020, _rows(32, 16, 4, 10, 70), curvature_rank=32),
        Profile("edge", 13, 48, 4080, _rows(48, 24, 9, 14, 120), curvature_rank=16),
        Profile("server", 15, 48, 16320, _rows(192, 96, 28, 56, 600), curvature_rank=24),
    )
}


def profile(name: str) -> Profile:
    """The profile called `name`.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise InputError(f"unknown profile {name!r}", fix=f"choose one of {', '.join(PROFILES)}") from None


def named_statement(
    name: str, kind: str, curvature: str, guard_rank: int | None = None, freivalds: bool = True
) -> StatementSpec:
    """The statement of a profile. Curvature, guard and products are those of guarded-group-obs alone.

    Raises
    ------
    InputError
        There is no such profile, statement or curvature, or they do not go together.
    """
    for what, value, known in (("statement", kind, operator_names()), ("curvature", curvature, CURVATURES)):
        if value not in known:
            raise InputError(f"unknown {what} {value!r}", fix=f"choose one of {', '.join(known)}")
    try:
        return profile(name).statement(kind, curvature, guard_rank, freivalds)
    except ValueError as e:
        raise InputError(f"profile {name} has no statement of guard rank {guard_rank}", why=str(e)) from e
