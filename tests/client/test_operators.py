"""The operator by name: what it changes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import REQUEST, Federation, refused
from parties import DAMPENING, MASK, MASK_ONLY, Party, Provider, make_manifest

from zkapex.circuits.operators import operator_names
from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.vault import Vault
from zkapex.errors import InputError, ProtocolError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.witness import check_lookups
from zkapex.proofs.messages import ModelManifest, UnlearnRequest
from zkapex.proofs.records.packing import pack_masks
from zkapex.proofs.records.signing import Envelope
from zkapex.unlearning.operators import operator


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
    assert all(operator(name).name == name for name in operator_names())
    error = refused(lambda: operator("shred"), ProtocolError)
    assert "guarded-group-obs" in error.why


def test_operators_compute_where_they_are_told(asked: tuple[Holdings, Instance]) -> None:
    weights, mu = operator("guarded-group-obs", "cpu").apply(*asked)
    default, default_mu = operator("guarded-group-obs").apply(*asked)
    assert all(np.array_equal(weights[name], default[name]) for name in weights)
    assert all(np.array_equal(mu[name], default_mu[name]) for name in mu)
    for name in operator_names():
        assert "device='warp'" in refused(lambda name=name: operator(name, "warp"), InputError).what  # type: ignore[misc]
    assert operator("guarded-group-obs").device == "cpu"  # type: ignore[attr-defined]


def small(name: str) -> tuple[Holdings, Instance, dict[str, np.ndarray]]:
    """Weights of a device without curvature, a request about them, and its factors."""
    manifest = make_manifest(statement={"mask-only": MASK_ONLY, "dampening": DAMPENING}[name])
    rng = np.random.default_rng(0)
    weights = {layer.name: rng.integers(-2000, 2001, (layer.rows, layer.cols)) for layer in manifest.layers}
    factors = {name: rng.integers(0, FACTOR_UNIT, mask.shape) for name, mask in MASK.items()}
    packed = pack_masks(manifest, MASK, factors if name == "dampening" else None)
    party = Party("a")
    party.enrol()
    asked = Provider().ask(party, operator=name, mask=packed, guards=()).record
    return Holdings.create(manifest, weights, {}), Instance(manifest, asked), factors


def test_mask_only_zeroes_and_repairs_nothing() -> None:
    holdings, instance, _ = small("mask-only")
    weights, mu = operator("mask-only").apply(holdings, instance)
    assert mu == {}
    for name, before in holdings.weights.items():
        assert np.array_equal(weights[name], np.where(MASK[name], 0, before))
        assert weights[name].dtype == np.int64


def test_dampening_multiplies_masked_weights_and_rounds() -> None:
    holdings, instance, factors = small("dampening")
    weights, mu = operator("dampening").apply(holdings, instance)
    assert mu == {}
    for name, before in holdings.weights.items():
        exact = before * factors[name] / FACTOR_UNIT
        assert np.array_equal(weights[name][~MASK[name]], before[~MASK[name]])
        assert (np.abs(weights[name] - exact)[MASK[name]] <= 0.5).all()
        assert (weights[name][MASK[name]] != before[MASK[name]]).any()
        assert weights[name].dtype == np.int64


@pytest.mark.parametrize("name", ["mask-only", "dampening"])
def test_what_an_operator_makes_has_a_witness_in_every_touched_chunk(name: str) -> None:
    holdings, instance, _ = small(name)
    weights, mu = operator(name).apply(holdings, instance)
    spec = holdings.manifest.statement
    change = Change.create(weights, mu, instance.touched)
    for chunk in range(holdings.manifest.n_chunks):
        if chunk not in instance.touched:
            assert np.array_equal(change.apply(holdings).theta(chunk).values, holdings.theta(chunk).values)
            continue
        public = instance.public(chunk)
        private = change.witness(holdings, chunk).private(spec, public)
        check_lookups(spec, {**private, "public": public.vector(spec, 5)})
        kept = np.where(public.mask, 0, change.apply(holdings).theta(chunk).values)
        assert np.array_equal(kept, np.where(public.mask, 0, holdings.theta(chunk).values))
