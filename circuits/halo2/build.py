"""From a statement to its graph, and the identity of both."""

from __future__ import annotations

import hashlib

import onnx

from zkapex.circuits.statement import StatementSpec


def build_graph(spec: StatementSpec) -> onnx.ModelProto:
    """The statement as an ONNX model whose inputs are ``spec.inputs``."""
    return spec.statement.build(spec)


def statement_digest(spec: StatementSpec) -> str:
    """SHA-256 (hex) of the graph and of the run arguments: the identity of the circuit before keys exist."""
    h = hashlib.sha256(b"zkapex statement v5\0")
    h.update(build_graph(spec).SerializeToString(deterministic=True))
    h.update(spec.model_dump_json().encode())
    return h.hexdigest()
