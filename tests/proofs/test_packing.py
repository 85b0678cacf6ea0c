"""Masks and guards survive the journey, and malformed ones do not start it or do not arrive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from parties import MASK, make_manifest, make_mask

from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.errors import InputError, ProtocolError
from zkapex.proofs.messages import GuardBlock, LayerMask
from zkapex.proofs.records.packing import (
    guard_digest,
    locate_chunk,
    mask_digest,
    pack_guards,
    pack_masks,
    touched_chunks,
    unpack_factors,
    unpack_guards,
    unpack_masks,
)

MANIFEST = make_manifest()
FC1, FC2 = MANIFEST.layers
GUARD = np.arange(-4, 4, dtype=np.int16).reshape(4, 2)

any_masks = st.fixed_dictionaries(
    {layer.name: arrays(np.bool_, (layer.rows, layer.cols)) for layer in MANIFEST.layers}
).filter(lambda masks: any(mask.any() for mask in masks.values()))


@given(any_masks)
def test_masks_round_trip(masks: dict[str, np.ndarray]) -> None:
    packed = pack_masks(MANIFEST, masks)
    again = unpack_masks(MANIFEST, packed)
    for name, mask in masks.items():
        assert (name in again) == mask.any()
        if name in again:
            np.testing.assert_array_equal(again[name], mask)
    assert mask_digest(pack_masks(MANIFEST, again)) == mask_digest(packed)


@given(any_masks)
def test_touched_chunks_are_those_with_a_masked_weight(masks: dict[str, np.ndarray]) -> None:
    expected = set()
    for chunk in range(MANIFEST.n_chunks):
        name, block, band = locate_chunk(MANIFEST, chunk)
        if masks[name][3 * band : 3 * band + 3, 4 * block : 4 * block + 4].any():
            expected.add(chunk)
    touched = touched_chunks(MANIFEST, masks)
    assert touched == tuple(sorted(expected))


def test_chunks_are_numbered_by_layer_block_band() -> None:
    places = [locate_chunk(MANIFEST, chunk) for chunk in range(MANIFEST.n_chunks)]
    assert places[:4] == [(FC1.name, 0, 0), (FC1.name, 0, 1), (FC1.name, 1, 0), (FC1.name, 1, 1)]
    assert places[4:] == [(FC2.name, block, band) for block in range(2) for band in range(3)]
    for outside in (-1, MANIFEST.n_chunks):
        with pytest.raises(ProtocolError, match="no chunk"):
            locate_chunk(MANIFEST, outside)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"other": np.ones((6, 8), dtype=np.bool_)}, "not a target layer"),
        ({FC1.name: np.ones((8, 6), dtype=np.bool_)}, "the layer wants|is bool"),
        ({FC1.name: np.ones((6, 8), dtype=np.uint8)}, "uint8"),
        (make_mask(), "empty"),
    ],
)
def test_bad_masks_are_not_packed(masks: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pack_masks(MANIFEST, masks)


def test_bad_masks_are_not_unpacked() -> None:
    good = pack_masks(MANIFEST, MASK)
    padded = good[1].bits[:-1] + bytes([good[1].bits[-1] | 1])  # 35 bits in 5 bytes: the last bit is padding
    cases = {
        "bytes": (LayerMask(layer=FC1.name, bits=b"\xff" * 5),),
        "beyond": (LayerMask(layer=FC2.name, bits=padded),),
        "empty": (LayerMask(layer=FC1.name, bits=b"\0" * 6),),
        "order": good[::-1],
        "unknown": (LayerMask(layer="other", bits=b"\1"),),
        "repeats": (good[0], good[0]),
    }
    for message, masks in cases.items():
        with pytest.raises(ProtocolError, match=message):
            unpack_masks(MANIFEST, masks)


@given(arrays(np.int16, (4, 2)), arrays(np.int16, (4, 1)))
def test_guards_round_trip(first: np.ndarray, second: np.ndarray) -> None:
    second[1:] = 0  # the layer has five columns, so its second block has one
    guards = {(FC2.name, 1): second, (FC1.name, 0): first}
    packed = pack_guards(MANIFEST, guards)
    assert [guard.layer for guard in packed] == [FC1.name, FC2.name]
    again = unpack_guards(MANIFEST, packed)
    for key, guard in guards.items():
        np.testing.assert_array_equal(again[key], guard)
        assert again[key].dtype == np.int16


@pytest.mark.parametrize("row", [1, 2, 3])
def test_a_guard_beyond_the_last_column_is_refused_on_both_sides(row: int) -> None:
    guard = np.zeros((4, 1), np.int16)
    (packed,) = pack_guards(MANIFEST, {(FC2.name, 1): guard})
    guard[row] = 1
    with pytest.raises(InputError, match="last column"):
        pack_guards(MANIFEST, {(FC2.name, 1): guard})
    beyond = packed.model_copy(update={"values": guard.astype("<i2").tobytes()})
    with pytest.raises(ProtocolError, match="last column"):
        unpack_guards(MANIFEST, (beyond,))


def test_guards_are_little_endian_whatever_the_memory_layout() -> None:
    (packed,) = pack_guards(MANIFEST, {(FC1.name, 0): np.asfortranarray(GUARD)})
    assert packed.values == GUARD.astype("<i2").tobytes()


@pytest.mark.parametrize(
    "guards",
    [
        {("other", 0): GUARD},
        {(FC1.name, 2): GUARD},
        {(FC1.name, 0): GUARD.astype(np.int64)},
        {(FC1.name, 0): GUARD.ravel()},
        {(FC1.name, 0): GUARD.T},
        {(FC1.name, 0): np.zeros((4, 3), dtype=np.int16)},
        {(FC1.name, 0): np.zeros((4, 0), dtype=np.int16)},
    ],
)
def test_bad_guards_are_not_packed(guards: dict[tuple[str, int], np.ndarray]) -> None:
    with pytest.raises(InputError, match="guard"):
        pack_guards(MANIFEST, guards)


def test_bad_guards_are_not_unpacked() -> None:
    good = pack_guards(MANIFEST, {(FC1.name, 0): GUARD, (FC1.name, 1): GUARD})
    wide = GuardBlock(layer=FC1.name, block=0, width=8, rank=1, values=bytes(16))
    deep = GuardBlock(layer=FC1.name, block=0, width=4, rank=3, values=bytes(24))
    nowhere = GuardBlock(layer=FC1.name, block=2, width=4, rank=1, values=bytes(8))
    for guards in (good[::-1], (good[0], good[0]), (wide,), (deep,), (nowhere,)):
        with pytest.raises(ProtocolError, match="guard"):
            unpack_guards(MANIFEST, guards)


def test_digests_tell_guards_and_masks_apart() -> None:
    first = pack_guards(MANIFEST, {(FC1.name, 0): GUARD})
    second = pack_guards(MANIFEST, {(FC1.name, 1): GUARD})
    other = pack_guards(MANIFEST, {(FC1.name, 0): -GUARD})
    assert len({guard_digest(g) for g in (first, second, other, ())}) == 4
    assert mask_digest(pack_masks(MANIFEST, MASK)) != mask_digest(pack_masks(MANIFEST, make_mask((FC1.name, 0, 0))))


@given(any_masks, st.integers(0, 2**32 - 1))
def test_dampening_factors_round_trip_and_are_one_where_nothing_is_masked(
    masks: dict[str, np.ndarray], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    factors = {name: rng.integers(0, FACTOR_UNIT, mask.shape) for name, mask in masks.items()}
    packed = pack_masks(MANIFEST, masks, factors)
    unpacked = unpack_masks(MANIFEST, packed)
    again = unpack_factors(packed, unpacked)
    assert set(again) == set(unpacked)
    for name, values in again.items():
        np.testing.assert_array_equal(values, np.where(masks[name], factors[name], FACTOR_UNIT))
        assert values.dtype == np.int64


@pytest.mark.parametrize("factor", [-1, FACTOR_UNIT])
def test_a_factor_that_is_not_below_one_is_not_packed(factor: int) -> None:
    factors = {name: np.full(mask.shape, factor) for name, mask in MASK.items()}
    with pytest.raises(InputError, match="not between"):
        pack_masks(MANIFEST, MASK, factors)
    unmasked = {name: np.where(mask, 3, factor) for name, mask in MASK.items()}
    assert pack_masks(MANIFEST, MASK, unmasked), "only masked weights have a factor"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_mask_without_one_factor_for_each_weight_is_not_unpacked(count: int) -> None:
    packed = pack_masks(MANIFEST, MASK, {name: np.zeros(mask.shape, np.int64) for name, mask in MASK.items()})
    assert len(packed[0].factors) == 2
    wrong = (packed[0].model_copy(update={"factors": bytes(count)}), *packed[1:])
    with pytest.raises(ProtocolError, match=f"has {count} factors"):
        unpack_factors(wrong, unpack_masks(MANIFEST, wrong))


def test_the_digest_of_a_mask_covers_its_factors() -> None:
    digests = set()
    for value in (0, 1, 255):
        factors = {name: np.full(mask.shape, value) for name, mask in MASK.items()}
        digests.add(mask_digest(pack_masks(MANIFEST, MASK, factors)))
    assert len(digests | {mask_digest(pack_masks(MANIFEST, MASK))}) == 4
