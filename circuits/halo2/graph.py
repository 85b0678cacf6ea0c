"""A writer of ONNX graphs over committed integers, as ezkl lays them out most cheaply.

**Scales.** Values are fed as raw integers; ezkl's fixed-point scale (`SCALE_BITS` per factor) is only a label, but ezkl
aligns the labels of what it adds by multiplying. So every sum is brought to one label first, by multiplying its smaller
side with the public number 1 (`Graph.lift`).

**Why the lookup is an arc tangent.** ezkl has no identity table, but ``s * atan(x / s)`` rounds to ``x`` for every
``|x| < (1.5 s^2)^(1/3)``. With the fixed-point scale ``s = 2^24`` that holds for ``|x| <= 75000``.

**Why slicing is a gather.** Splitting a vector with ONNX ``Slice`` copies every kept value into a new cell;
``GatherElements`` with constant indices only relabels cells, and is free (``docs/adr/0003-statement-layout.md``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zkapex.circuits.statement import StatementSpec

SCALE_BITS = 24
"""ezkl's fixed-point scale: the label of a committed value, and what decides the lookup's arc tangent."""


class Graph:
    """ONNX nodes in single-assignment form, over the parts of a statement's committed vectors."""

    def __init__(self, spec: StatementSpec) -> None:
        self.spec = spec
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [length])
            for name, length in spec.input_lengths().items()
        ]

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One node; returns the name of its output."""
        name = self._fresh()
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def part(self, vector: str, *names: str) -> str:
        """Consecutive parts of a committed vector, as one vector."""
        parts = self.spec.parts(vector)
        order = list(parts)
        start = sum(parts[n] for n in order[: order.index(names[0])])
        return self.take(vector, start, start + sum(parts[n] for n in names))

    def take(self, vector: str, start: int, stop: int) -> str:
        """Elements ``start`` to ``stop`` of a vector."""
        return self.op("GatherElements", vector, self._constant(np.arange(start, stop, dtype=np.int64)), axis=0)

    def reshape(self, value: str, *shape: int) -> str:
        """The same elements in another shape."""
        return self.op("Reshape", value, self._constant(np.array(shape, dtype=np.int64)))

    def bounded(self, vector: str) -> str:
        """The same values, each forced into ``[-limit, largest_value]`` by the lookup."""
        return self.op("Atan", vector)

    def einsum(self, equation: str, a: str, b: str) -> str:
        """A product of two tensors."""
        return self.op("Einsum", a, b, equation=equation)

    def dot(self, a: str, b: str) -> str:
        """The inner product of two vectors, as a vector of length 1."""
        return self.reshape(self.einsum("i,i->", a, b), 1)

    def lift(self, scalar: str, unit: str, times: int) -> str:
        """The same number with a label larger by `times` factors."""
        for _ in range(times):
            scalar = self.op("Mul", scalar, unit)
        return scalar

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The finished model (opset 17) with these scalars as public outputs."""
        graph = helper.make_graph(
            self._nodes,
            f"{self.spec.kind}-v{self.spec.version}",
            self._inputs,
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, [1]) for out in outputs],
            self._constants,
        )
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="zkapex")
        onnx.checker.check_model(model)
        return model

    def _constant(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = self._fresh()
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def _fresh(self) -> str:
        return f"v{len(self._nodes) + len(self._constants)}"
