"""Committed values and the change a request makes to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import refused
from parties import BLOCK_FISHER, MASK_ONLY, make_manifest

from zkapex.circuits.field import MODULUS
from zkapex.circuits.statement import FACTOR_SALTS
from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.vault import Vault
from zkapex.errors import ProtocolError, StorageError
from zkapex.proofs.chunk.instance import place

MANIFEST = make_manifest()  # two layers in chunks of 3 x 4: 6 x 8 in chunks 0-3, 7 x 5 in chunks 4-9
RNG = np.random.default_rng(0)


def weights() -> dict[str, np.ndarray]:
    return {layer.name: RNG.integers(-50, 50, (layer.rows, layer.cols)) for layer in MANIFEST.layers}


def holdings() -> Holdings:
    curvature = {layer.name: RNG.integers(-9, 9, (MANIFEST.blocks(layer), 2, 4)) for layer in MANIFEST.layers}
    return Holdings.create(MANIFEST, weights(), curvature)


def row_holdings() -> Holdings:
    """With a factor for every row."""
    manifest = make_manifest(statement=BLOCK_FISHER)
    shapes = {layer.name: (manifest.blocks(layer), layer.rows, 2, 4) for layer in manifest.layers}
    return Holdings.create(manifest, weights(), {name: RNG.integers(1, 9, shape) for name, shape in shapes.items()})


def multipliers() -> dict[str, np.ndarray]:
    return {layer.name: RNG.integers(-9, 9, (MANIFEST.blocks(layer), layer.rows, 2)) for layer in MANIFEST.layers}


def test_salts_are_field_elements_and_all_different() -> None:
    one = holdings()
    drawn = [salt for values in one.salts.values() for salt in values]
    assert set(one.salts) == {f"theta/{n}" for n in range(10)} | {f"curvature/{n}" for n in range(4)}
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= salt < MODULUS for salt in drawn)
    change = Change.create(one.weights, multipliers(), (2, 7))
    assert set(change.salts) == {"theta/2", "theta/7"}
    assert not {salt for values in change.salts.values() for salt in values} & set(drawn)


def test_holdings_and_changes_come_back_from_disk(tmp_path: Path) -> None:
    one, vault = holdings(), Vault(tmp_path / "a")
    one.save(vault)
    back = Holdings.load(MANIFEST, vault)
    assert back.salts == dict(one.salts)
    change, other = Change.create(weights(), multipliers(), (0,)), Vault(tmp_path / "b")
    change.save(other)
    changed = Change.load(other)
    assert changed.salts == change.salts
    for layer in MANIFEST.layers:
        assert np.array_equal(back.weights[layer.name], one.weights[layer.name])
        assert np.array_equal(back.curvature[layer.name], one.curvature[layer.name])
        assert np.array_equal(changed.weights[layer.name], change.weights[layer.name])
        assert np.array_equal(changed.mu[layer.name], change.mu[layer.name])
    assert back.weights["blocks.0.fc1"].dtype == np.int64


def test_nothing_on_disk_is_a_storage_error(tmp_path: Path) -> None:
    refused(lambda: Holdings.load(MANIFEST, Vault(tmp_path)), StorageError)
    refused(lambda: Change.load(Vault(tmp_path)), StorageError)


def test_a_chunk_is_cut_and_padded_with_zeros() -> None:
    one = holdings()
    matrix = one.weights["blocks.0.fc2"]  # 7 x 5: two blocks, three bands
    assert np.array_equal(np.reshape(one.theta(4).values, (3, 4)), matrix[:3, :4])
    corner = np.reshape(one.theta(9).values, (3, 4))
    assert corner[0, 0] == matrix[6, 4]
    assert np.count_nonzero(corner) <= 1
    refused(lambda: one.theta(10), ProtocolError)


def test_a_change_keeps_what_it_does_not_touch() -> None:
    one = holdings()
    new = {name: values.copy() for name, values in one.weights.items()}
    new["blocks.0.fc1"][0, 0] += 7
    after = Change.create(new, multipliers(), (0,)).apply(one)
    assert after.salts["theta/0"] != one.salts["theta/0"]
    assert all(after.salts[name] == salts for name, salts in one.salts.items() if name != "theta/0")
    assert after.curvature is one.curvature


@pytest.mark.parametrize("chunk", range(10))
def test_a_witness_holds_what_its_chunk_needs(chunk: int) -> None:
    one = holdings()
    change = Change.create(weights(), multipliers(), tuple(range(10)))
    witness = change.witness(one, chunk)
    before, after = one.theta(chunk), change.apply(one).theta(chunk)
    assert np.array_equal(witness.theta_u.values, after.values)
    assert np.array_equal(witness.delta.values, after.values - before.values)
    assert witness.theta_u.salts == after.salts
    where = place(MANIFEST, chunk)
    assert witness.factor is not None
    assert np.array_equal(witness.factor.values, one.curvature[where.layer][where.block])
    assert witness.factor.salts == one.salts[f"curvature/{where.curvature}"]
    assert len(witness.factor.salts) == FACTOR_SALTS
    assert witness.mu is not None
    assert witness.mu.shape == (3, 2)
    if chunk == 9:
        assert not witness.mu[1:].any(), "rows beyond the layer"


@pytest.mark.parametrize("chunk", range(10))
def test_with_a_factor_for_every_row_a_chunk_has_those_of_its_rows(chunk: int) -> None:
    one = row_holdings()
    where = place(one.manifest, chunk)
    factor = one.factor(where)
    assert factor is not None
    assert factor.values.shape == (3, 2, 4)
    rows = one.curvature[where.layer][where.block, 3 * where.band : 3 * where.band + 3]
    assert np.array_equal(factor.values[: len(rows)], rows)
    assert not factor.values[len(rows) :].any(), "rows beyond the layer"
    assert factor.salts == one.salts[f"curvature/{chunk}"]
    assert len(factor.salts) == one.manifest.statement.parts("factor")["salts"]


def test_matrices_are_the_factors_squares_above_the_ridge() -> None:
    for one in (holdings(), row_holdings()):
        for layer in one.manifest.layers:
            for matrix, f in zip(one.matrices(layer), one.curvature[layer.name], strict=True):
                wanted = np.einsum("...ki,...kj->...ij", f, f) + one.manifest.statement.ridge * np.eye(
                    4, dtype=np.int64
                )
                assert np.array_equal(matrix, wanted)


def test_without_curvature_there_is_neither_a_factor_nor_a_salt_for_one(tmp_path: Path) -> None:
    manifest = make_manifest(statement=MASK_ONLY)
    one = Holdings.create(manifest, weights(), {})
    assert set(one.salts) == {f"theta/{n}" for n in range(10)}
    one.save(Vault(tmp_path))
    back = Holdings.load(manifest, Vault(tmp_path))
    assert not back.curvature
    witness = Change.create(weights(), {}, (3,)).witness(back, 3)
    assert witness.factor is None
    assert witness.mu is None
    assert set(witness.salted()) == {"theta_u", "delta"}
