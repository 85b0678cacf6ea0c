"""What determines a circuit: the statement proved about one chunk of weights, and its exact size.

One chunk is ``R`` rows by ``B`` columns of one column block of one layer. A circuit commits to a few vectors (each
commitment is one of the leading points of every proof) whose parts `StatementSpec.parts` lists, and has public outputs
that must equal constants the verifier knows. What kinds of statement there are, their graphs, and why they show what
they claim, is in `zkapex.circuits.operators`, one module each:

``guarded-group-obs``  masked weights are zero and the others moved as guarded Group-OBS moves them
``mask-only``          masked weights are zero, whatever the others are
``dampening``          every weight was multiplied by a public factor and rounded
``second-moment``      not about weights: a column block's curvature factor is the second moment of activations

**Why nothing wraps around the field.** Every private value except salts and residuals passes through one lookup whose
table is the identity on ``[-limit, largest_value]``, and only the *output* of that lookup is used, so it cannot be
optimised away (a lookup whose result nothing uses is silently dropped by ezkl's front end). Residuals equal sums of
products of such values. The largest sum is then bounded by `StatementSpec.largest_sum`, which is checked to be far
below the field's order. See ``docs/security.md``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from zkapex.circuits.field import MODULUS
from zkapex.circuits.operators import Statement, statement, tolerances
from zkapex.errors import InputError

SALTS = 4
"""Uniform field elements at the end of every private vector. Every proof opens each of its vectors at one point, which
uses one up; a chunk's weights are opened at most twice, as the result of one request and the start of the next."""

FACTOR_SALTS = 64
"""Likewise for a curvature factor shared by all bands of rows, each of which opens it in every request."""

OWN_FACTOR_SALTS = 16
"""Likewise for a curvature factor of one chunk alone."""

RESERVED_ROWS = 8
"""Rows halo2 keeps for blinding; a circuit must leave them free."""

IDENTITY_LIMIT = 75000
"""Up to here the lookup's arc tangent is the identity."""

FACTOR_UNIT = tolerances.FACTOR_UNIT
"""Dampening factors are whole multiples of ``1 / FACTOR_UNIT``."""

MAX_SCALE = 1 << 16
"""Largest scale between the curvature and the second moment of activations."""


class StatementSpec(BaseModel):
    """Everything that determines the circuit; two equal specs share keys.

    Attributes
    ----------
    kind : str
        The operator, or another kind of statement that `zkapex.circuits.operators` knows.
    rows_per_chunk, block_width : int
        Shape ``R x B`` of a chunk, in weights; of the activations for second-moment.
    curvature : str
        ``kfac``: one curvature matrix per column block, shared by its rows. ``block-fisher``: one per row of each
        chunk, that is per B consecutive weights (ZK-APEX, section 4). ``none`` for mask-only and dampening,
        ``kfac`` for second-moment.
    curvature_rank : int
        Rows ``q`` of the committed factor F of each curvature matrix ``H = F^T F + ridge I``.
    ridge : int
        The multiple of the identity in H, below which none of its eigenvalues lies, whatever F is; 0 where the
        statement has no H.
    guard_rank : int
        Columns ``r`` of the guard V; 0 is the paper's plain Group-OBS.
    weight_limit : int
        Largest absolute value the lookup admits for every private value.
    guard_limit : int
        Largest absolute value of a guard entry (public, checked by the verifier).
    log2_rows : int
        Height of the circuit; the lookup table must fit in it.
    inner_columns : int
        ezkl's ``num_inner_cols``.
    freivalds : bool
        Whether matrix products are checked at a random point or computed in the circuit, which takes about ``2 q``
        cells per weight more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = "guarded-group-obs"
    version: Literal[2] = 2
    rows_per_chunk: int = Field(ge=1, le=65536)
    block_width: int = Field(ge=2, le=1024)
    curvature: Literal["kfac", "block-fisher", "none"] = "kfac"
    curvature_rank: int = Field(default=0, ge=0, le=1024)
    ridge: int = Field(default=0, ge=0, le=65000)
    guard_rank: int = Field(default=0, ge=0, le=64)
    weight_limit: int = Field(ge=16, le=65000)
    guard_limit: int = Field(default=8192, ge=1, le=65000)
    log2_rows: int = Field(ge=8, le=22)
    inner_columns: int = Field(default=2, ge=1, le=16)
    freivalds: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> StatementSpec:
        try:
            self.statement.check(self)
        except InputError as e:
            raise ValueError(f"{e.what}: {e.why}") from e
        if self.largest_value > IDENTITY_LIMIT:
            raise ValueError(f"the lookup would reach {self.largest_value}, beyond {IDENTITY_LIMIT}: lower log2_rows")
        if self.largest_residual >= 2**63:
            raise ValueError("the statement's residuals could exceed 64 bits: lower weight_limit or curvature_rank")
        if (longest := max(self.input_lengths().values())) > (1 << self.log2_rows) - RESERVED_ROWS:
            raise ValueError(f"a vector of {longest} values is longer than the circuit's 2^{self.log2_rows} rows")
        if self.largest_sum() * 4 >= MODULUS:
            raise ValueError("the statement's sums could wrap around the field: lower weight_limit or the chunk's size")
        return self

    @property
    def statement(self) -> Statement:
        """The kind of statement.

        Raises
        ------
        InputError
            Nothing that is installed here knows it.
        """
        return statement(self.kind)

    @property
    def constrains_result(self) -> bool:
        """See `zkapex.circuits.operators.declaration.Statement`."""
        return self.statement.constrains_result

    @property
    def weights(self) -> int:
        """Weights in one chunk, padding included."""
        return self.rows_per_chunk * self.block_width

    @property
    def factor_shape(self) -> tuple[int, ...]:
        """Shape of the committed curvature factor: ``(q, B)``, or ``(R, q, B)`` with one per row."""
        one = (self.curvature_rank, self.block_width)
        return (self.rows_per_chunk, *one) if self.curvature == "block-fisher" else one

    @property
    def largest_value(self) -> int:
        """An upper bound on what the lookup admits: ezkl extends its table above ``weight_limit`` to fill the rows.

        The lower end is exactly ``-weight_limit``, and it is the lower end alone that limits a tolerance.
        """
        return max(self.weight_limit, (1 << self.log2_rows) - self.weight_limit)

    @property
    def rounding_weight(self) -> int:
        """What dampening multiplies a rounding error, in units of ``1 / FACTOR_UNIT``, by before looking it up.

        The lookup then admits errors up to about ``FACTOR_UNIT / 2`` and no more.
        """
        return 2 * self.weight_limit // FACTOR_UNIT

    @property
    def largest_rounding(self) -> float:
        """What dampening may round a weight by, at most: the upper end of the lookup is above ``weight_limit``."""
        return self.largest_value // self.rounding_weight / FACTOR_UNIT

    @property
    def largest_residual(self) -> int:
        """An upper bound on an entry of the residual E; below 2^63, so that provers may compute it in 64 bits."""
        limit, width = self.largest_value, self.block_width
        curvature = self.curvature_rank * limit * limit + self.ridge
        return width * limit * curvature + self.guard_rank * limit * self.guard_limit

    def largest_sum(self) -> int:
        """An upper bound on the absolute value of any integer that arises in the circuit outside the slack terms."""
        return self.statement.largest_sum(self)

    def parts(self, vector: str) -> dict[str, int]:
        """Names and lengths of what a committed vector holds, in order."""
        if vector in ("theta_u", "delta", "activations"):
            return {"values": self.weights, "salts": SALTS}
        if vector == "factor":
            size = self.curvature_rank * (self.weights if self.curvature == "block-fisher" else self.block_width)
            return {"values": size, "salts": FACTOR_SALTS if self.curvature == "kfac" else OWN_FACTOR_SALTS}
        return self.statement.parts(self, vector)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The committed vectors, in the order of their commitments in a proof."""
        return self.statement.inputs

    def input_lengths(self) -> dict[str, int]:
        """Length of every committed vector, salts and context included."""
        return {name: sum(self.parts(name).values()) for name in self.inputs}
