"""From a statement to its graph: one module per kind of statement."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import onnx

from zkapex.circuits.operators import dampening, second_moment
from zkapex.circuits.operators import guarded_group_obs as group_obs
from zkapex.circuits.operators import mask_only as compliance
from zkapex.circuits.operators import targeted_group_obs as targeted
from zkapex.circuits.statement import StatementSpec

_BUILDERS: dict[str, Callable[[StatementSpec], onnx.ModelProto]] = {
    "guarded-group-obs": group_obs.build,
    "targeted-group-obs": targeted.build,
    "constraint-only": targeted.build_constraint,
    "mask-only": compliance.build,
    "dampening": dampening.build,
    "second-moment": second_moment.build,
}


def build_graph(spec: StatementSpec) -> onnx.ModelProto:
    """The statement as an ONNX model whose inputs are ``spec.inputs``."""
    return _BUILDERS[spec.kind](spec)


def statement_digest(spec: StatementSpec) -> str:
    """SHA-256 (hex) of the graph and of the run arguments: the identity of the circuit before keys exist."""
    h = hashlib.sha256(b"zkapex statement v5\0")
    h.update(build_graph(spec).SerializeToString(deterministic=True))
    h.update(spec.model_dump_json().encode())
    return h.hexdigest()
