"""The operator by name: what it changes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import REQUEST, Federation, refused

from zkapex.client.holdings import Holdings
from zkapex.client.operators import OPERATORS, operator
from zkapex.client.state import Vault
from zkapex.errors import ProtocolError
from zkapex.proofs.instance import Instance
from zkapex.proofs.messages import ModelManifest, UnlearnRequest
from zkapex.proofs.signing import Envelope


@pytest.fixture(scope="module")
def asked(market: Federation) -> tuple[Holdings, Instance]:
    """Weights and curvature of a device, and a request about them."""
    folder: Path = market.state(2)  # its request failed, so the weights are still those before
    manifest = ModelManifest.from_bytes((folder / "enrolment" / "manifest.json").read_bytes())
    envelope = Envelope.from_bytes((folder / "requests" / REQUEST / "request.json").read_bytes())
    request = UnlearnRequest.from_bytes(envelope.payload)
    return Holdings.load(manifest, Vault(folder / "enrolment")), Instance(manifest, request)


def test_masked_weights_become_zero_and_only_their_rows_change(asked: tuple[Holdings, Instance]) -> None:
    holdings, instance = asked
    weights, mu = operator("guarded-group-obs").apply(holdings, instance)
    for layer in holdings.manifest.layers:
        mask, before, after = instance.masks[layer.name], holdings.weights[layer.name], weights[layer.name]
        assert not after[mask].any()
        for block in range(holdings.manifest.blocks(layer)):
            columns = slice(32 * block, 32 * (block + 1))
            untouched = ~mask[:, columns].any(1)
            assert np.array_equal(after[untouched, columns], before[untouched, columns])
        assert np.abs(after).max() <= holdings.manifest.weight_limit
        assert mu[layer.name].shape == (holdings.manifest.blocks(layer), layer.rows, 4)


def test_the_operator_is_a_function_and_changes_nothing_itself(asked: tuple[Holdings, Instance]) -> None:
    holdings, instance = asked
    before = {name: values.copy() for name, values in holdings.weights.items()}
    first, second = (operator("guarded-group-obs").apply(holdings, instance) for _ in range(2))
    for name, values in before.items():
        assert np.array_equal(holdings.weights[name], values)
        assert np.array_equal(first[0][name], second[0][name])
        assert np.array_equal(first[1][name], second[1][name])


def test_operators_are_known_by_their_names() -> None:
    assert all(one.name == name for name, one in OPERATORS.items())
    error = refused(lambda: operator("shred"), ProtocolError)
    assert "guarded-group-obs" in error.why
