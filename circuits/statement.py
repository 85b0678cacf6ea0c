"""The statement a chunk proof shows, as an ONNX graph for ezkl, and the vectors that go into it.

One chunk is ``R`` rows by ``B`` columns of one column block of one layer. The circuit commits to five vectors, in this
order (each commitment is one of the leading points of the proof):

``theta_u``  the chunk after unlearning, then salts
``delta``    theta_u - theta_p, then salts
``curvature`` H, ``B x B``, then salts
``public``   mask (``R x B``), guard V^T (``r x B``), slack weights, the number 1, context: recomputed by the verifier
``aux``      multipliers mu (``R x r``), slack limbs, salts

and has three public outputs, each of which must equal a constant the verifier knows:

1. ``sum(m * theta_u^2) == 0``: masked weights are zero.
2. ``sum(((delta @ H - mu @ V^T) * u)^2) + slack_s == c_s``: stationarity on the unmasked weights, ``u = 1 - m``.
3. ``sum(((delta * u) @ V)^2) + slack_g == c_g``: the unmasked change is orthogonal to the guard.

**Why nothing wraps around the field.** Every private value except salts passes through one lookup whose table is the
identity on ``[-limit, limit]``, and only the *output* of that lookup is used, so it cannot be optimised away (a lookup
whose result nothing uses is silently dropped by ezkl's front end). The largest sum is then bounded by
`StatementSpec.largest_sum`, which is checked to be far below the field's order. See ``docs/security.md``.

**Why the lookup is an arc tangent.** ezkl has no identity table, but ``s * atan(x / s)`` rounds to ``x`` for every
``|x| < (1.5 s^2)^(1/3)``. With the fixed-point scale ``s = 2^24`` that holds for ``|x| <= 75000``.

The scale has a price: ezkl aligns the scales of what it adds by multiplying, so the slack is first multiplied by the
public number 1 as often as it takes to reach the scale of the sum it completes.

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
        Whether matrix products are checked by ezkl's randomised (Freivalds) argument.
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
        return self

    @property
    def weights(self) -> int:
        """Weights in one chunk, padding included."""
        return self.rows_per_chunk * self.block_width

    def largest_sum(self) -> int:
        """An upper bound on the absolute value of any integer that arises in the circuit outside the slack terms."""
        limit, width, rank = self.weight_limit, self.block_width, self.guard_rank
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
            "public": self.weights + rank * width + 2 * SLACK_LIMBS + 2,
            "aux": self.rows_per_chunk * rank + 2 * SLACK_LIMBS + SALTS,
        }

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

    def dot(self, a: str, b: str) -> str:
        return self.op("Einsum", a, b, equation="i,i->")


def build_graph(spec: StatementSpec) -> onnx.ModelProto:
    """The statement as an ONNX model (opset 17) whose inputs are `INPUTS` and whose outputs are the three sums."""
    rows, width, rank, count = spec.rows_per_chunk, spec.block_width, spec.guard_rank, spec.weights
    g = _Graph()
    lengths = spec.input_lengths()
    raw = {name: g.input(name, lengths[name]) for name in INPUTS}

    theta_u = g.bounded(g.take(raw["theta_u"], 0, count))
    delta = g.reshape(g.bounded(g.take(raw["delta"], 0, count)), rows, width)
    curvature = g.reshape(g.bounded(g.take(raw["curvature"], 0, width * width)), width, width)
    aux = g.bounded(g.take(raw["aux"], 0, rows * rank + 2 * SLACK_LIMBS))
    slack_at = rows * rank
    mask = g.take(raw["public"], 0, count)
    weights_at = count + rank * width
    unit_at = weights_at + 2 * SLACK_LIMBS
    unit = g.take(raw["public"], unit_at, unit_at + 1)
    keep = g.reshape(g.op("Sub", unit, mask), rows, width)

    def slack(index: int) -> str:
        limbs = g.take(aux, slack_at + index * SLACK_LIMBS, slack_at + (index + 1) * SLACK_LIMBS)
        weights = g.take(raw["public"], weights_at + index * SLACK_LIMBS, weights_at + (index + 1) * SLACK_LIMBS)
        total = g.reshape(g.dot(limbs, weights), 1)
        for _ in range(4):  # from the scale of a product of two values to that of a product of six
            total = g.op("Mul", total, unit)
        return total

    masked = g.dot(g.op("Mul", mask, theta_u), theta_u)

    residual = g.op("MatMul", delta, curvature)
    leak = None
    if rank:
        guard_t = g.reshape(g.take(raw["public"], count, weights_at), rank, width)
        mu = g.reshape(g.take(aux, 0, slack_at), rows, rank)
        residual = g.op("Sub", residual, g.op("MatMul", mu, guard_t))
        leak = g.op("MatMul", g.op("Mul", delta, keep), g.op("Transpose", guard_t, perm=[1, 0]))
        leak = g.reshape(leak, rows * rank)
    kept = g.reshape(g.op("Mul", residual, keep), count)

    outputs = [g.reshape(masked, 1), g.op("Add", g.reshape(g.dot(kept, kept), 1), slack(0))]
    outputs.append(g.op("Add", g.reshape(g.dot(leak, leak), 1), slack(1)) if leak is not None else slack(1))

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
