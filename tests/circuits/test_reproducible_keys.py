"""Whoever builds a circuit gets the same one: verifiers build it themselves and compare digests."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from tiny import srs

from zkapex.circuits.halo2.build import build_graph
from zkapex.circuits.halo2.store import canonical_settings, circuit
from zkapex.circuits.operators import operator_names
from zkapex.circuits.profiles import profile


@pytest.mark.parametrize("kind", operator_names())
def test_settings_do_not_vary(kind: str, tmp_path: Path) -> None:
    """Dampening has two lookup tables, which ezkl lists in an order that it draws anew every time."""
    spec = profile("tiny").statement(kind)
    onnx.save(build_graph(spec), tmp_path / "network.onnx")
    first, *others = (canonical_settings(spec, tmp_path / "network.onnx", tmp_path) for _ in range(6))
    assert all(other == first for other in others)


def test_keys_with_two_lookup_tables_do_not_vary(tmp_path: Path) -> None:
    spec = profile("tiny").statement("dampening")
    first, second = (circuit(spec, srs(), tmp_path / str(i)).vk_digest for i in range(2))
    assert first == second
