"""Masks and guards between numpy arrays and the bytes of a request, and which chunks a mask touches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from zkapex.circuits.operators import declared
from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.errors import InputError, ProtocolError
from zkapex.proofs.chunk.public import BoolArray, IntArray
from zkapex.proofs.messages import GuardBlock, LayerMask, ModelManifest, UnlearnRequest
from zkapex.proofs.records.record import encode_parts, sha256_hex

Int16Array = npt.NDArray[np.int16]


def pack_masks(
    manifest: ModelManifest, masks: Mapping[str, BoolArray], factors: Mapping[str, IntArray] | None = None
) -> tuple[LayerMask, ...]:
    """Pack one boolean ``[rows, cols]`` mask per layer; layers without a masked weight are dropped.

    Parameters
    ----------
    factors : mapping of str to int64 [rows, cols], optional
        For dampening: the factor of every weight in units of ``1 / FACTOR_UNIT``; only masked ones are looked at.

    Raises
    ------
    InputError
        A mask is for no layer of the manifest, has the wrong shape or dtype, or nothing at all is masked; or a factor
        is not below one.
    """
    unknown = set(masks) - {layer.name for layer in manifest.layers}
    if unknown:
        raise InputError(f"a mask is given for {sorted(unknown)[0]!r}, which is not a target layer")
    packed = []
    for layer in manifest.layers:
        mask = masks.get(layer.name)
        if mask is None:
            continue
        if mask.shape != (layer.rows, layer.cols) or mask.dtype != np.bool_:
            raise InputError(
                f"the mask of {layer.name!r} is {mask.dtype}{list(mask.shape)}",
                why=f"the layer wants bool[{layer.rows}, {layer.cols}]",
            )
        if mask.any():
            given = np.empty(0, np.int64) if factors is None else factors[layer.name][mask]
            if given.size and (given.min() < 0 or given.max() >= FACTOR_UNIT):
                raise InputError(f"a dampening factor of {layer.name!r} is not between 0 and {FACTOR_UNIT - 1}")
            bits = np.packbits(mask, axis=None).tobytes()
            packed.append(LayerMask(layer=layer.name, bits=bits, factors=given.astype(np.uint8).tobytes()))
    if not packed and not manifest.statement.constrains_result:
        raise InputError("the mask is empty", fix="choose a larger mask: a request must change something")
    return tuple(packed)


def unpack_masks(manifest: ModelManifest, masks: Sequence[LayerMask], *, required: bool = True) -> dict[str, BoolArray]:
    """Return the boolean ``[rows, cols]`` mask of every layer that has masked weights, in the manifest's order.

    There must be one, unless it is not `required`.

    Raises
    ------
    ProtocolError
        A mask is for no layer, out of order, empty, of the wrong length, or has a padding bit set.
    """
    found = {mask.layer: mask.bits for mask in masks}
    arrays: dict[str, BoolArray] = {}
    for layer in manifest.layers:
        bits = found.get(layer.name)
        if bits is None:
            continue
        size = layer.rows * layer.cols
        if len(bits) != -(-size // 8):
            raise ProtocolError(f"the mask of {layer.name!r} has {len(bits)} bytes", why=f"{-(-size // 8)} are needed")
        flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8))
        if flat[size:].any():
            raise ProtocolError(f"the mask of {layer.name!r} sets bits beyond the last weight")
        if not flat.any():
            raise ProtocolError(f"the mask of {layer.name!r} is empty", why="such layers are left out")
        arrays[layer.name] = flat[:size].astype(np.bool_).reshape(layer.rows, layer.cols)
    if list(arrays) != [mask.layer for mask in masks] or (required and not arrays):
        raise ProtocolError("the mask names unknown layers, repeats them, or is not in the manifest's order")
    return arrays


def unpack_factors(masks: Sequence[LayerMask], arrays: Mapping[str, BoolArray]) -> dict[str, IntArray]:
    """Return the dampening factors int64 ``[rows, cols]`` of every masked layer, one (`FACTOR_UNIT`) where unmasked.

    Parameters
    ----------
    arrays : mapping
        What `unpack_masks` made of `masks`.

    Raises
    ------
    ProtocolError
        A layer has not one factor per masked weight.
    """
    factors = {}
    for mask in masks:
        where = arrays[mask.layer]
        if len(mask.factors) != int(where.sum()):
            raise ProtocolError(f"the mask of {mask.layer!r} has {len(mask.factors)} factors", why=f"for {where.sum()}")
        full = np.full(where.shape, FACTOR_UNIT, np.int64)
        full[where] = np.frombuffer(mask.factors, np.uint8)
        factors[mask.layer] = full
    return factors


def pack_guards(
    manifest: ModelManifest,
    guards: Mapping[tuple[str, int], Int16Array],
    steering: Mapping[tuple[str, int], Int16Array] | None = None,
) -> tuple[GuardBlock, ...]:
    """Pack guards V_b, int16 ``[block_width, rank]`` by (layer name, column block), in the manifest's order.

    Parameters
    ----------
    steering : mapping of (str, int) to int16 ``[n, rank]``, optional
        Along the guards, in units of the statement's ``guard_limit``, of the n rows with a masked weight in the block,
        or where the result is constrained, of all rows of the layer.

    Raises
    ------
    InputError
        A guard is for no block of the manifest, has the wrong shape or dtype, or is not zero where the layer has no
        columns; or steering has the wrong shape or dtype, or no guard to go along.
    """
    order = _block_order(manifest)
    columns = {layer.name: layer.cols for layer in manifest.layers}
    steering = steering or {}
    if set(steering) - set(guards):
        raise InputError(f"{sorted(set(steering) - set(guards))[0]} is steered, and has no guard to be steered along")
    packed = []
    for key in sorted(guards, key=lambda key: order.get(key, -1)):
        guard = guards[key]
        if key not in order:
            raise InputError(f"a guard is given for {key}, which is not a block of a target layer")
        if guard.ndim != 2 or guard.dtype != np.int16 or not _fits(manifest, *guard.shape):
            raise InputError(
                f"the guard of {key} is {guard.dtype}{list(guard.shape)}",
                why=f"it must be int16[{manifest.block_width}, 1..{manifest.guard_rank}]",
            )
        if guard[columns[key[0]] - key[1] * manifest.block_width :].any():
            raise InputError(f"the guard of {key} reaches beyond the layer's last column", fix="set it to zero there")
        given = steering.get(key, np.empty((0, guard.shape[1]), np.int16))
        if given.ndim != 2 or given.dtype != np.int16 or given.shape[1] != guard.shape[1]:
            raise InputError(
                f"the steering of {key} is {given.dtype}{list(given.shape)}",
                why=f"it must be int16[n, {guard.shape[1]}]",
            )
        values, along = (np.ascontiguousarray(array, dtype="<i2").tobytes() for array in (guard, given))
        width, rank = guard.shape
        packed.append(GuardBlock(layer=key[0], block=key[1], width=width, rank=rank, values=values, steering=along))
    return tuple(packed)


def unpack_guards(manifest: ModelManifest, guards: Sequence[GuardBlock]) -> dict[tuple[str, int], Int16Array]:
    """Return the guards as int16 ``[block_width, rank]`` by (layer name, column block).

    Raises
    ------
    ProtocolError
        A guard is for no block, out of order, of another width or a larger rank than the manifest allows, or not zero
        where the layer has no columns.
    """
    order = _block_order(manifest)
    positions = [order.get((guard.layer, guard.block), -1) for guard in guards]
    if -1 in positions or positions != sorted(set(positions)):
        raise ProtocolError("the guards name unknown blocks, repeat them, or are not in the manifest's order")
    columns = {layer.name: layer.cols for layer in manifest.layers}
    arrays: dict[tuple[str, int], Int16Array] = {}
    for guard in guards:
        if not _fits(manifest, guard.width, guard.rank):
            raise ProtocolError(
                f"the guard of block {guard.block} of {guard.layer!r} is [{guard.width}, {guard.rank}]",
                why=f"the circuit wants [{manifest.block_width}, 1..{manifest.guard_rank}]",
            )
        flat = np.frombuffer(guard.values, dtype="<i2").astype(np.int16)
        values = flat.reshape(guard.width, guard.rank)
        if values[columns[guard.layer] - guard.block * guard.width :].any():
            raise ProtocolError(
                f"the guard of block {guard.block} of {guard.layer!r} reaches beyond the layer's last column",
                why="padding is not committed to after a change, so such a change could not be proved",
            )
        arrays[guard.layer, guard.block] = values
    return arrays


def unpack_steering(
    manifest: ModelManifest, guards: Sequence[GuardBlock], masks: Mapping[str, BoolArray]
) -> dict[tuple[str, int], IntArray]:
    """Return the steering C of the blocks that have one, int64 ``[rows of the layer, rank of the circuit]``.

    Parameters
    ----------
    guards : sequence of GuardBlock
        As `unpack_guards` has accepted them.
    masks : mapping
        What `unpack_masks` made of the request's mask.

    Raises
    ------
    ProtocolError
        A block is steered by a circuit that cannot show it, or has not one row of steering per row it masks or, where
        the result is constrained, per row of the layer; or it has a guard then, and nothing is prescribed along it.
    """
    arrays = {}
    whole, heights = manifest.statement.constrains_result, {layer.name: layer.rows for layer in manifest.layers}
    for guard in guards:
        if not guard.steering and whole:
            raise ProtocolError(f"block {guard.block} of {guard.layer!r} has a guard, and no targets along it")
        if not guard.steering:
            continue
        if not manifest.statement.freivalds:
            raise ProtocolError(f"block {guard.block} of {guard.layer!r} is steered, which this circuit does not prove")
        start = guard.block * guard.width
        mask = masks.get(guard.layer)
        rows = np.empty(0, np.int64) if mask is None else np.flatnonzero(mask[:, start : start + guard.width].any(1))
        if whole:
            rows = np.arange(heights[guard.layer])
        given = np.frombuffer(guard.steering, dtype="<i2").astype(np.int64).reshape(-1, guard.rank)
        if (mask is None and not whole) or len(given) != len(rows):
            raise ProtocolError(
                f"block {guard.block} of {guard.layer!r} has {len(given)} rows of steering",
                why=f"{len(rows)} rows {'are there' if whole else 'have a masked weight there'}",
            )
        full = np.zeros((heights[guard.layer], manifest.guard_rank), np.int64)
        full[rows, : guard.rank] = given * manifest.statement.guard_limit
        arrays[guard.layer, guard.block] = full
    return arrays


def touched_chunks(
    manifest: ModelManifest, masks: Mapping[str, BoolArray], along: Collection[tuple[str, int]] = ()
) -> tuple[int, ...]:
    """Return the chunks with at least one masked weight, ascending. All others keep their weights and commitment.

    Parameters
    ----------
    masks : mapping
        What `unpack_masks` returns.
    along : collection of (layer, block)
        Blocks that something is prescribed for along their guard. Where that constrains the result, every chunk of
        them is touched; else they have masked weights anyway.
    """
    touched: list[int] = []
    start = 0
    width, height = manifest.block_width, manifest.rows_per_chunk
    for layer in manifest.layers:
        blocks, bands = manifest.blocks(layer), manifest.bands(layer)
        mask = masks.get(layer.name)
        if manifest.by_layer:
            prescribed = manifest.statement.constrains_result and any(name == layer.name for name, _ in along)
            touched.extend([start] if prescribed or (mask is not None and mask.any()) else [])
            start += 1
            continue
        here: set[int] = set()
        if manifest.statement.constrains_result:
            own = [block for name, block in along if name == layer.name]
            here = {block * bands + band for block in own for band in range(bands)}
        if mask is not None:
            rows, cols = np.nonzero(mask)
            here |= {int(number) for number in np.unique((cols // width) * bands + rows // height)}
        touched.extend(start + number for number in sorted(here))
        start += blocks * bands
    return tuple(touched)


def locate_chunk(manifest: ModelManifest, chunk: int) -> tuple[str, int, int]:
    """Return layer name, column block and band of rows of a chunk number.

    Raises
    ------
    ProtocolError
        The model has no such chunk.
    """
    rest = chunk
    if manifest.by_layer and 0 <= chunk < manifest.n_chunks:
        return manifest.layers[chunk].name, 0, 0
    for layer in manifest.layers if not manifest.by_layer else ():
        bands = manifest.bands(layer)
        size = manifest.blocks(layer) * bands
        if 0 <= rest < size:
            return layer.name, rest // bands, rest % bands
        rest -= size
    raise ProtocolError(f"the model has no chunk {chunk}", why=f"it has {manifest.n_chunks}")


def mask_digest(masks: Sequence[LayerMask]) -> str:
    """Return SHA-256, as hex, over the mask of a request."""
    parts = [part for mask in masks for part in (mask.layer, mask.bits, mask.factors)]
    return sha256_hex(encode_parts("zkapex:mask:v1", *parts))


def guard_digest(guards: Sequence[GuardBlock]) -> str:
    """Return SHA-256, as hex, over the guards of a request."""
    parts = [part for g in guards for part in (g.layer, g.block, g.width, g.rank, g.values, g.steering)]
    return sha256_hex(encode_parts("zkapex:guard:v2", *parts))


def terms_digest(request: UnlearnRequest) -> str:
    """Return SHA-256, as hex, over what whoever chooses curvature must not know: the mask, and targets if any.

    The mask alone, where nothing is prescribed of the result: with another guard it is the same mask.
    """
    if not declared(request.operator).statement.constrains_result:
        return mask_digest(request.mask)
    return sha256_hex(encode_parts("zkapex:terms:v1", mask_digest(request.mask), guard_digest(request.guards)))


def _block_order(manifest: ModelManifest) -> dict[tuple[str, int], int]:
    keys = [(layer.name, block) for layer in manifest.layers for block in range(manifest.blocks(layer))]
    return {key: position for position, key in enumerate(keys)}


def _fits(manifest: ModelManifest, width: int, rank: int) -> bool:
    return width == manifest.block_width and 1 <= rank <= manifest.guard_rank
