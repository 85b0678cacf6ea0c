"""From a request to chunks: every weight of a layer is in one chunk, and every chunk knows where it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import BLOCK_FISHER, DAMPENING, MASK, MASK_ONLY, Party, Provider, make_manifest

from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.instance import Instance, cut, place
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.messages import LayerSpec, ModelManifest, UnlearnRequest
from zkapex.proofs.records.packing import pack_guards, pack_masks

LAYERS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4).map(
    lambda sizes: tuple(LayerSpec(name=f"l{i}", rows=r, cols=c, exponent=3) for i, (r, c) in enumerate(sizes))
)


def request(**changes: Any) -> UnlearnRequest:
    party = Party("a")
    party.enrol()
    return Provider().ask(party, **changes).record


@given(LAYERS, st.booleans())
def test_chunks_partition_every_layer(layers: tuple[LayerSpec, ...], shared: bool) -> None:
    manifest = make_manifest(layers=layers, **({} if shared else {"statement": BLOCK_FISHER}))
    seen = {layer.name: np.zeros((layer.rows, layer.cols), np.int64) for layer in layers}
    curvatures: dict[int, tuple[str, int, int | None]] = {}
    for chunk in range(manifest.n_chunks):
        where = place(manifest, chunk)
        numbers = np.arange(seen[where.layer].size).reshape(seen[where.layer].shape) + 1
        part: IntArray = cut(manifest, where, numbers).astype(np.int64)
        assert part.shape == (manifest.rows_per_chunk, manifest.block_width)
        seen[where.layer].ravel()[part[part > 0] - 1] += 1
        owner = (where.layer, where.block, None if shared else where.band)
        assert curvatures.setdefault(where.curvature, owner) == owner
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


FACTORS = {name: np.arange(mask.size).reshape(mask.shape) for name, mask in MASK.items()}


def dampening_request() -> tuple[ModelManifest, UnlearnRequest]:
    manifest = make_manifest(statement=DAMPENING)
    mask = pack_masks(manifest, MASK, FACTORS)
    return manifest, request(operator="dampening", mask=mask, guards=())


def test_dampening_factors_reach_their_chunks_and_are_one_elsewhere() -> None:
    manifest, asked = dampening_request()
    instance = Instance(manifest, asked)
    assert instance.touched
    for chunk in instance.touched:
        public, where = instance.public(chunk), place(manifest, chunk)
        public.check(manifest.statement)
        assert public.dampening is not None
        assert (public.dampening[~public.mask] == FACTOR_UNIT).all(), "beyond the layer's edge as well"
        given_here = cut(manifest, where, FACTORS[where.layer])
        assert np.array_equal(public.dampening[public.mask], given_here[public.mask])
        assert public.guard.shape == (4, 0)


def test_other_operators_have_no_dampening_factors() -> None:
    manifest, asked = dampening_request()
    plain = make_manifest(statement=MASK_ONLY)
    chunk = Instance(plain, request(operator="mask-only", guards=())).touched[0]
    assert Instance(plain, request(operator="mask-only", guards=())).public(chunk).dampening is None
    for other, operator in ((plain, "mask-only"), (make_manifest(), "guarded-group-obs")):
        with pytest.raises(ProtocolError, match="carries dampening factors"):
            Instance(other, asked.model_copy(update={"operator": operator}))
    with pytest.raises(ProtocolError, match="has 0 factors"):
        Instance(manifest, asked.model_copy(update={"mask": pack_masks(manifest, MASK)}))


STATEMENTS = [make_manifest().statement, MASK_ONLY, DAMPENING]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: s.kind)
@pytest.mark.parametrize("operator", [*(s.kind for s in STATEMENTS), "shred"])
def test_a_request_for_another_operator_than_the_circuits_is_refused(statement: StatementSpec, operator: str) -> None:
    manifest = make_manifest(statement=statement)
    factors = FACTORS if operator == "dampening" else None
    asked = request(operator=operator, guards=(), mask=pack_masks(manifest, MASK, factors))
    if operator == statement.kind:
        assert Instance(manifest, asked).touched
    else:
        with pytest.raises(ProtocolError, match="a request asks for"):
            Instance(manifest, asked)


@pytest.mark.parametrize("statement", [MASK_ONLY, DAMPENING], ids=lambda s: s.kind)
def test_a_guard_where_there_is_no_place_for_one_is_refused(statement: StatementSpec) -> None:
    manifest = make_manifest(statement=statement)
    factors = FACTORS if statement.kind == "dampening" else None
    with pytest.raises(ProtocolError, match="guard"):
        Instance(manifest, request(operator=statement.kind, mask=pack_masks(manifest, MASK, factors)))
