"""From a request to chunks: every weight of a layer is in one chunk, and every chunk knows where it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import Party, Provider, make_manifest

from zkapex.errors import ProtocolError
from zkapex.proofs.chunk import IntArray
from zkapex.proofs.instance import Instance, cut, place
from zkapex.proofs.messages import LayerSpec, UnlearnRequest
from zkapex.proofs.packing import pack_guards, pack_masks

LAYERS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4).map(
    lambda sizes: tuple(LayerSpec(name=f"l{i}", rows=r, cols=c, exponent=3) for i, (r, c) in enumerate(sizes))
)


def request(**changes: Any) -> UnlearnRequest:
    party = Party("a")
    party.enrol()
    return Provider().ask(party, **changes).record


@given(LAYERS)
def test_chunks_partition_every_layer(layers: tuple[LayerSpec, ...]) -> None:
    manifest = make_manifest(layers=layers)
    seen = {layer.name: np.zeros((layer.rows, layer.cols), np.int64) for layer in layers}
    curvatures: dict[int, tuple[str, int]] = {}
    for chunk in range(manifest.n_chunks):
        where = place(manifest, chunk)
        numbers = np.arange(seen[where.layer].size).reshape(seen[where.layer].shape) + 1
        part: IntArray = cut(manifest, where, numbers).astype(np.int64)
        assert part.shape == (manifest.rows_per_chunk, manifest.block_width)
        seen[where.layer].ravel()[part[part > 0] - 1] += 1
        assert curvatures.setdefault(where.curvature, (where.layer, where.block)) == (where.layer, where.block)
    assert all((counts == 1).all() for counts in seen.values())
    assert sorted(curvatures) == list(range(manifest.n_curvatures))


def test_a_chunk_that_does_not_exist_is_a_protocol_error() -> None:
    for chunk in (-1, make_manifest().n_chunks):
        with pytest.raises(ProtocolError, match="no chunk"):
            place(make_manifest(), chunk)


def test_every_touched_chunk_has_public_inputs_of_its_own() -> None:
    manifest = make_manifest()
    asked = request()
    instance = Instance(manifest, asked)
    contexts = set()
    for chunk in instance.touched:
        public = instance.public(chunk)
        assert public.mask.shape == (manifest.rows_per_chunk, manifest.block_width)
        assert public.mask.dtype == np.bool_
        assert public.mask.any()
        assert public.guard.shape == (manifest.block_width, manifest.guard_rank)
        assert (public.tau_stationarity, public.tau_guard) == (asked.tau_s, asked.tau_g)
        contexts.add(public.context)
    assert len(contexts) == len(instance.touched)


@pytest.mark.parametrize(
    "change",
    [{"request_id": "other"}, {"nonce": "ab" * 32}, {"client_id": "cd" * 32}, {"manifest_digest": "ef" * 32}],
)
def test_the_context_binds_request_client_and_nonce(change: dict[str, str]) -> None:
    asked = request()
    other = asked.model_copy(update=change)
    chunk = Instance(make_manifest(), asked).touched[0]
    same_manifest = "manifest_digest" in change  # taken from the manifest itself, not from what the request says
    pair = {Instance(make_manifest(), r).public(chunk).context for r in (asked, other)}
    assert len(pair) == (1 if same_manifest else 2)


def test_the_context_binds_manifest_and_circuit() -> None:
    asked = request()
    chunk = Instance(make_manifest(), asked).touched[0]
    manifests = [make_manifest(), make_manifest(model="other"), make_manifest(circuit_digest="12" * 32)]
    assert len({Instance(m, asked).public(chunk).context for m in manifests}) == 3


def test_guards_are_widened_with_zero_columns_and_absent_ones_are_zero() -> None:
    manifest = make_manifest()
    v = np.arange(4, dtype=np.int16).reshape(4, 1) - 2
    name = manifest.layers[0].name
    instance = Instance(manifest, request(guards=pack_guards(manifest, {(name, 0): v})))
    assert (instance.guard(name, 0)[:, :1] == v).all()
    assert not instance.guard(name, 0)[:, 1:].any()
    assert not instance.guard(name, 1).any()


def test_a_mask_that_does_not_fit_the_manifest_is_refused() -> None:
    manifest = make_manifest()
    wide = make_manifest(layers=(LayerSpec(name="blocks.0.fc1", rows=9, cols=9, exponent=3),))
    mask = pack_masks(wide, {"blocks.0.fc1": np.ones((9, 9), np.bool_)})
    with pytest.raises(ProtocolError, match="mask"):
        Instance(manifest, request(mask=mask))
