from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zkapex.client.curvature import (
    CurvatureError,
    damp,
    encode_curvature,
    encode_damped,
    kfac,
    second_moments,
)
from zkapex.errors import InputError


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))


def inputs(n: int = 50) -> torch.Tensor:
    return torch.randn(n, 4, 5, generator=torch.Generator().manual_seed(1))


def test_second_moments_are_those_of_the_layers_inputs() -> None:
    model, x = network(), inputs()
    moments = second_moments(model, ["0", "2"], x, block_width=4, batch_size=7)
    first = x.reshape(-1, 5).double().numpy()
    hidden = torch.nn.functional.gelu(model[0](x)).detach().reshape(-1, 7).double().numpy()
    for name, values, columns in (("0", first, 5), ("2", hidden, 7)):
        full = values.T @ values / len(values)
        assert moments[name].shape == (2, 4, 4)
        np.testing.assert_allclose(moments[name][0], full[:4, :4], rtol=1e-6)
        np.testing.assert_allclose(moments[name][1][: columns - 4, : columns - 4], full[4:, 4:], rtol=1e-6)
        assert not moments[name][1][columns - 4 :].any()


def test_hooks_are_gone_afterwards_even_after_an_error() -> None:
    model = network()
    with pytest.raises(InputError, match="not a linear layer"):
        second_moments(model, ["0", "1"], inputs(), 4)
    with pytest.raises(RuntimeError):
        second_moments(model, ["0"], torch.zeros(3, 9), 4)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="at least one example"):
        second_moments(network(), ["0"], inputs()[:0], 4)
    model = network()
    model.add_module("spare", nn.Linear(2, 2))
    model.forward = lambda x: model[0](x)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="took no part"):
        second_moments(model, ["0", "spare"], inputs(), 4)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([2, 8, 32]),
    missing=st.integers(0, 1),
    spread=st.floats(0, 4),
    kappa=st.integers(8, 12),
)
def test_encoded_curvature_is_symmetric_positive_and_scaled(
    seed: int, width: int, missing: int, spread: float, kappa: int
) -> None:
    rng = np.random.default_rng(seed)
    columns = width - missing
    x = np.zeros((30, width))
    x[:, :columns] = rng.normal(size=(30, columns)) * np.exp(spread * rng.normal(size=columns))
    encoded = encode_damped(x.T @ x / 30, columns, kappa, 0.01)
    matrix = encoded.matrix.astype(np.float64)
    np.testing.assert_array_equal(encoded.matrix, encoded.matrix.T)
    assert 1 <= encoded.lambda_min <= np.linalg.eigvalsh(matrix)[0]
    assert np.linalg.norm(matrix, axis=0).max() == pytest.approx(2**kappa, abs=np.sqrt(width) / 2)
    assert encoded.damping >= 0.01
    if missing:
        assert not encoded.matrix[columns, :columns].any()
        assert encoded.matrix[columns, columns] > 0


def test_damping_is_raised_until_rounding_leaves_it_positive_definite() -> None:
    x = np.zeros((20, 8))
    x[:, 0], x[:, 1:] = 100.0, np.random.default_rng(0).normal(size=(20, 7)) * 1e-3
    moments = x.T @ x / 20
    with pytest.raises(CurvatureError, match="smallest eigenvalue") as caught:
        encode_curvature(damp(moments, 8, 1e-6), 8)
    assert "raise damping" in caught.value.fix
    encoded = encode_damped(moments, 8, 8, 1e-6)
    assert encoded.damping > 1e-6


def test_what_no_damping_repairs_is_refused() -> None:
    with pytest.raises(CurvatureError, match="finite"):
        encode_damped(np.full((2, 2), np.nan), 2, 10, 0.01)
    with pytest.raises(CurvatureError, match="positive"):
        encode_damped(np.eye(2), 2, 10, 0.0)


def test_a_dead_block_becomes_the_identity() -> None:
    np.testing.assert_array_equal(damp(np.zeros((3, 3)), 3, 0.5), 1.5 * np.eye(3))


def test_unusable_matrices_are_refused() -> None:
    good = np.eye(3)
    for bad in (np.full((3, 3), np.nan), np.ones((2, 3))):
        with pytest.raises(CurvatureError):
            damp(bad, 2, 0.1)
    with pytest.raises(CurvatureError, match="positive"):
        damp(good, 3, 0.0)
    for bad in (np.triu(np.ones((3, 3))), np.zeros((3, 3))):
        with pytest.raises(CurvatureError, match="symmetric"):
            encode_curvature(bad, 10)
    with pytest.raises(CurvatureError, match="kappa"):
        encode_curvature(good, 40)


def test_kfac_covers_every_block_of_every_layer() -> None:
    blocks = kfac(network(), ["0", "2"], inputs(), block_width=4, kappa=10)
    assert {name: len(b) for name, b in blocks.items()} == {"0": 2, "2": 2}
    assert all(block.matrix.shape == (4, 4) and block.matrix.dtype == np.int64 for b in blocks.values() for block in b)
