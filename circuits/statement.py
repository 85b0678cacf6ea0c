"""The statement a chunk proof shows, as an ONNX graph for ezkl, and the vectors that go into it.

One chunk is ``R`` rows by ``B`` columns of one column block of one layer. The circuit commits to five vectors, in this
order (each commitment is one of the leading points of the proof):

``theta_u``  the chunk after unlearning, then salts
``delta``    theta_u - theta_p, then salts
``curvature`` H, ``B x B``, then salts
``public``   mask (``R x B``), guard V^T (``r x B``), slack weights, the number 1, context, powers of the challenge:
             recomputed by the verifier
``aux``      multipliers mu (``R x r``), slack limbs, residuals E (``R x B``) and F (``R x r``), salts

and has four public outputs, each of which must equal a constant the verifier knows:

1. ``sum(m * theta_u^2) == 0``: masked weights are zero.
2. ``sum((E * u)^2) + slack_s == c_s``: stationarity on the unmasked weights, ``u = 1 - m``.
3. ``sum(F^2) + slack_g == c_g``: the unmasked change is orthogonal to the guard.
4. ``a^T (delta H - mu V^T - E) b + a^T ((delta * u) V - F) c == 0``: E and F are the residuals they claim to be.

**Why E and F can be believed.** a, b and c hold powers of a challenge: ``a_i = z^(i (B + r))``, ``b_j = z^j``,
``c_j = z^(B + j)``. Output 4 is therefore a polynomial in z of degree below ``R (B + r)`` whose coefficients are the
errors in E and F, and z is a hash of the commitments to all that is in it (`zkapex.proofs.chunk.challenge`): it
vanishes with probability below ``R (B + r) / 2^253`` unless every error is zero. This is Freivalds' argument made
non-interactive by Fiat and Shamir. Ezkl has one of its own, which must never be enabled: in 23.0.5 it checks a product
in cells that nothing ties to the ones used afterwards, so a prover may claim any (``tests/proofs/test_forgery.py``).

**Why nothing wraps around the field.** Every private value except salts, E and F passes through one lookup whose table
is the identity on ``[-limit, largest_value]``, and only the *output* of that lookup is used, so it cannot be optimised
away (a lookup whose result nothing uses is silently dropped by ezkl's front end). E and F equal sums of products of
such values. The largest sum is then bounded by `StatementSpec.largest_sum`, which is checked to be far below the
field's order. See ``docs/security.md``.

**Why the lookup is an arc tangent.** ezkl has no identity table, but ``s * atan(x / s)`` rounds to ``x`` for every
``|x| < (1.5 s^2)^(1/3)``. With the fixed-point scale ``s = 2^24`` that holds for ``|x| <= 75000``.

The scale has a price: ezkl aligns the scales of what it adds by multiplying, so a sum is first multiplied by the public
number 1 as often as it takes to reach the scale of what it is added to.

**Why slicing is a gather.** Splitting salts off with ONNX ``Slice`` copies every kept value into a new cell;
``GatherElements`` with constant indices only relabels cells, and is free (``docs/adr/0003-statement-layout.md``).
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydantic import BaseModel, ConfigDict, Field, model_validator

from zkapex.circuits.field import MODULUS
from zkapex.circuits.slack import SLACK_LIMBS

SALTS = 4
"""Uniform field elements at the end of every private vector. Every proof opens each of its vectors at one point, which
uses one up; a chunk's weights are opened at most twice, as the result of one request and the start of the next."""

CURVATURE_SALTS = 64
"""Likewise for the curvature, which one proof per band of rows opens in every request."""

SCALE_BITS = 24
"""ezkl's fixed-point scale. Inputs are fed as raw integers, so it only sets the scale of the lookup's arc tangent."""

IDENTITY_LIMIT = 75000
"""Up to here the lookup's arc tangent is the identity."""

INPUTS = ("theta_u", "delta", "curvature", "public", "aux")
"""The committed vectors, in the order of their commitments in a proof."""


class StatementSpec(BaseModel):
    """Everything that determines the circuit; two equal specs share keys.

    Attributes
    ----------
    rows_per_chunk, block_width : int
        Shape ``R x B`` of a chunk, in weights.
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
        Whether matrix products are checked at a random point (output 4) or computed in the circuit, which takes ``B``
        cells per weight more, and no output 4.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["guarded-group-obs"] = "guarded-group-obs"
    version: Literal[1] = 1
    rows_per_chunk: int = Field(ge=1, le=4096)
    block_width: int = Field(ge=2, le=1024)
    guard_rank: int = Field(ge=0, le=64)
    weight_limit: int = Field(ge=16, le=65000)
    guard_limit: int = Field(default=1024, ge=1, le=65000)
    log2_rows: int = Field(ge=8, le=22)
    inner_columns: int = Field(default=2, ge=1, le=16)
    freivalds: bool = True

    @model_validator(mode="after")
    def _no_wrap_around(self) -> StatementSpec:
        if self.largest_sum() * 4 >= MODULUS:
            raise ValueError("the statement's sums could wrap around the field: lower weight_limit or the chunk's size")
        if self.largest_value > IDENTITY_LIMIT:
            raise ValueError(f"the lookup would reach {self.largest_value}, beyond {IDENTITY_LIMIT}: lower log2_rows")
        return self

    @property
    def weights(self) -> int:
        """Weights in one chunk, padding included."""
        return self.rows_per_chunk * self.block_width

    @property
    def largest_value(self) -> int:
        """An upper bound on what the lookup admits: ezkl extends its table above ``weight_limit`` to fill the rows.

        The lower end is exactly ``-weight_limit``, and it is the lower end alone that limits a tolerance.
        """
        return max(self.weight_limit, (1 << self.log2_rows) - self.weight_limit)

    def largest_sum(self) -> int:
        """An upper bound on the absolute value of any integer that arises in the circuit outside the slack terms."""
        limit, width, rank = self.largest_value, self.block_width, self.guard_rank
        residual = width * limit * limit + rank * limit * self.guard_limit
        guard = width * limit * self.guard_limit
        return max(self.weights * residual * residual, self.rows_per_chunk * max(rank, 1) * guard * guard)

    def input_lengths(self) -> dict[str, int]:
        """Length of every committed vector, salts and context included."""
        width, rank = self.block_width, self.guard_rank
        return {
            "theta_u": self.weights + SALTS,
            "delta": self.weights + SALTS,
            "curvature": width * width + CURVATURE_SALTS,
            "public": self.weights + rank * width + 2 * SLACK_LIMBS + 2 + self.challenge_powers,
            "aux": self.rows_per_chunk * rank + 2 * SLACK_LIMBS + self.residuals + SALTS,
        }

    @property
    def residuals(self) -> int:
        """Committed residuals: E and F, if products are checked at a random point."""
        return self.rows_per_chunk * (self.block_width + self.guard_rank) if self.freivalds else 0

    @property
    def challenge_powers(self) -> int:
        """Committed powers of the challenge: a, then b and c, if products are checked at a random point."""
        return self.rows_per_chunk + self.block_width + self.guard_rank if self.freivalds else 0

    def digest(self) -> str:
        """SHA-256 (hex) of the graph and of the run arguments: the identity of the circuit before keys exist."""
        h = hashlib.sha256(b"zkapex statement v1\0")
        h.update(build_graph(self).SerializeToString(deterministic=True))
        h.update(self.model_dump_json().encode())
        return h.hexdigest()


class _Graph:
    """A thin writer of ONNX nodes in single-assignment form."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []

    def _fresh(self) -> str:
        return f"v{len(self.nodes) + len(self.constants)}"

    def input(self, name: str, length: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [length]))
        return name

    def constant(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = self._fresh()
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = self._fresh()
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def take(self, vector: str, start: int, stop: int) -> str:
        return self.op("GatherElements", vector, self.constant(np.arange(start, stop, dtype=np.int64)), axis=0)

    def reshape(self, value: str, *shape: int) -> str:
        return self.op("Reshape", value, self.constant(np.array(shape, dtype=np.int64)))

    def bounded(self, vector: str) -> str:
        """The same values, each forced into ``[-limit, limit]`` by the lookup."""
        return self.op("Atan", vector)

    def einsum(self, equation: str, a: str, b: str) -> str:
        return self.op("Einsum", a, b, equation=equation)

    def dot(self, a: str, b: str) -> str:
        return self.einsum("i,i->", a, b)


def build_graph(spec: StatementSpec) -> onnx.ModelProto:
    """The statement as an ONNX model (opset 17) whose inputs are `INPUTS` and whose outputs are the sums above."""
    rows, width, rank, count = spec.rows_per_chunk, spec.block_width, spec.guard_rank, spec.weights
    g = _Graph()
    lengths = spec.input_lengths()
    raw = {name: g.input(name, lengths[name]) for name in INPUTS}

    theta_u = g.bounded(g.take(raw["theta_u"], 0, count))
    delta = g.reshape(g.bounded(g.take(raw["delta"], 0, count)), rows, width)
    curvature = g.reshape(g.bounded(g.take(raw["curvature"], 0, width * width)), width, width)
    slack_at, residual_at = rows * rank, rows * rank + 2 * SLACK_LIMBS
    aux = g.bounded(g.take(raw["aux"], 0, residual_at))
    mask = g.take(raw["public"], 0, count)
    weights_at = count + rank * width
    unit_at = weights_at + 2 * SLACK_LIMBS
    unit = g.take(raw["public"], unit_at, unit_at + 1)
    keep = g.reshape(g.op("Sub", unit, mask), rows, width)

    def lift(scalar: str, times: int) -> str:
        """The same number at a scale larger by `times` values', so that ezkl has nothing to align in a sum."""
        for _ in range(times):
            scalar = g.op("Mul", scalar, unit)
        return scalar

    def bound(values: str, size: int, factors: int, index: int) -> str:
        """Sum of squares of `size` values, each a product of `factors` committed ones, plus its slack."""
        limbs = g.take(aux, slack_at + index * SLACK_LIMBS, slack_at + (index + 1) * SLACK_LIMBS)
        weights = g.take(raw["public"], weights_at + index * SLACK_LIMBS, weights_at + (index + 1) * SLACK_LIMBS)
        slack = g.reshape(g.dot(limbs, weights), 1)
        if not size:
            return slack
        flat = g.reshape(values, size)
        return g.op("Add", g.reshape(g.dot(flat, flat), 1), lift(slack, 2 * factors - 2))

    masked = g.reshape(g.dot(g.op("Mul", mask, theta_u), theta_u), 1)
    guard_t = mu = change = ""
    if rank:
        guard_t = g.reshape(g.take(raw["public"], count, weights_at), rank, width)
        mu = g.reshape(g.take(aux, 0, slack_at), rows, rank)
        change = g.op("Mul", delta, keep)

    if spec.freivalds:
        residual = g.reshape(g.take(raw["aux"], residual_at, residual_at + count), rows, width)
        powers_at = unit_at + 2
        a = g.take(raw["public"], powers_at, powers_at + rows)
        b = g.take(raw["public"], powers_at + rows, powers_at + rows + width)
        left, right = g.einsum("i,ij->j", a, delta), g.einsum("ij,j->i", curvature, b)
        product, claimed = g.dot(left, right), g.dot(g.einsum("i,ij->j", a, residual), b)
        leak = ""
        if rank:
            leak = g.reshape(g.take(raw["aux"], residual_at + count, residual_at + spec.residuals), rows, rank)
            c = g.take(raw["public"], powers_at + rows + width, powers_at + spec.challenge_powers)
            product = g.op("Sub", product, g.dot(g.einsum("i,ij->j", a, mu), g.einsum("ij,j->i", guard_t, b)))
            claimed = g.op("Add", claimed, g.dot(g.einsum("i,ij->j", a, leak), c))
        error = g.op("Sub", g.reshape(product, 1), lift(g.reshape(claimed, 1), 1))
        if rank:
            leaked = g.dot(g.einsum("i,ij->j", a, change), g.einsum("ij,i->j", guard_t, c))
            error = g.op("Add", lift(error, 1), g.reshape(leaked, 1))
        factors = (2, 1)
    else:
        residual, leak, error = g.op("MatMul", delta, curvature), "", ""
        if rank:
            residual = g.op("Sub", residual, g.op("MatMul", mu, guard_t))
            leak = g.op("MatMul", change, g.op("Transpose", guard_t, perm=[1, 0]))
        factors = (3, 3)

    kept = g.op("Mul", residual, keep)
    outputs = [masked, bound(kept, count, factors[0], 0), bound(leak, rows * rank, factors[1], 1)]
    if error:
        outputs.append(error)

    graph = helper.make_graph(
        g.nodes,
        f"{spec.kind}-v{spec.version}",
        g.inputs,
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, [1]) for out in outputs],
        g.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="zkapex")
    onnx.checker.check_model(model)
    return model
