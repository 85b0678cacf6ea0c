"""Named circuit sizes. A profile trades proving memory and key size against the number of proofs."""

from __future__ import annotations

from dataclasses import dataclass

from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError


@dataclass(frozen=True)
class Profile:
    """A circuit height with the chunk shape that fills it.

    Attributes
    ----------
    name : str
    log2_rows : int
        Height of the circuit.
    rows_per_chunk, block_width : int
        Chunk shape, in weights, sized so that a chunk of the default guard rank just fits the rows.
    weight_limit : int
        Largest integer weight; the lookup table of ``2 * weight_limit + 1`` values must fit the rows.
    guard_rank : int
        Default guard rank.
    """

    name: str
    log2_rows: int
    rows_per_chunk: int
    block_width: int
    weight_limit: int
    guard_rank: int = 4

    def statement(self, guard_rank: int | None = None, freivalds: bool = True) -> StatementSpec:
        """The circuit of this profile."""
        return StatementSpec(
            rows_per_chunk=self.rows_per_chunk,
            block_width=self.block_width,
            guard_rank=self.guard_rank if guard_rank is None else guard_rank,
            weight_limit=self.weight_limit,
            log2_rows=self.log2_rows,
            freivalds=freivalds,
        )


PROFILES = {
    p.name: p
    for p in (
        Profile("tiny", log2_rows=13, rows_per_chunk=32, block_width=32, weight_limit=4032),
        Profile("server", log2_rows=15, rows_per_chunk=72, block_width=64, weight_limit=16320),
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
