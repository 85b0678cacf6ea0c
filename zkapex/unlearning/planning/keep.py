"""A plan that keeps what earlier requests demand: their zeros, and their targets along the directions they had.

A repair may move any weight of a chunk it touches, along any direction that nothing is prescribed along. So in those
chunks the plan asks again for what was asked for before (`zkapex.proofs.chunk.demands`).

In a block that has directions already, new ones are taken for what of them is orthogonal to those, and their targets
accordingly: the results are the same, the columns of the guard stay of one length, which tolerances are made for, and
old ones stay as they are to the last bit, which is what is checked. A block's guard has so many columns, and when these
are used up no later request can prescribe anything new there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from zkapex.circuits.operators.tolerances import GUARD_BITS
from zkapex.errors import InputError
from zkapex.proofs.chunk.demands import Along, Demands, Key
from zkapex.proofs.chunk.public import BoolArray
from zkapex.proofs.messages import ModelManifest
from zkapex.unlearning.planning.trials import Plan

_ALONE = 0.05
"""Length, of 1, of what of a new direction is orthogonal to old ones, below which it is one of these."""


def keep(plan: Plan, earlier: Demands, manifest: ModelManifest) -> Plan:
    """The same plan, with all that is demanded already in the chunks it touches.

    Raises
    ------
    InputError
        A block has no room for the plan's directions beside those of earlier requests.
    """
    return _keep_zeros(_keep_targets(plan, earlier.along, manifest), earlier.zeros, manifest)


def room(earlier: Mapping[Key, Along], key: Key, guard_rank: int) -> int:
    """How many directions a block can still be given."""
    one = earlier.get(key)
    return guard_rank if one is None else guard_rank - one.directions.shape[1]


def _keep_targets(plan: Plan, earlier: Mapping[Key, Along], manifest: ModelManifest) -> Plan:
    masks, guards = dict(plan.masks), {name: list(blocks) for name, blocks in plan.guards.items()}
    targets, width, rank = dict(plan.targets), manifest.block_width, manifest.guard_rank
    layers = {layer.name: layer for layer in manifest.layers}
    for (name, block), old in earlier.items():
        mask = masks.get(name)
        part = slice(None) if manifest.by_layer else slice(block * width, (block + 1) * width)
        masked = mask is not None and bool(mask[:, part].any())
        if manifest.by_layer:  # all of a layer may move once any of it does
            masked = masked or any(layer == name for layer, _ in plan.targets)
        if not masked and (name, block) not in targets:
            continue
        layer = layers[name]
        masks.setdefault(name, np.zeros((layer.rows, layer.cols), np.bool_))
        guards.setdefault(name, [np.zeros((width, rank), np.int64) for _ in range(manifest.blocks(layer))])
        nothing = np.zeros((layer.rows, guards[name][block].shape[1]), np.int64)
        planned = Along.of(guards[name][block], targets.get((name, block), nothing))
        whole = stacked(old, planned, manifest.statement.guard_limit)
        if whole.directions.shape[1] > rank:
            raise InputError(
                f"block {block} of {name!r} has no room for {whole.directions.shape[1] - old.directions.shape[1]} more "
                f"directions",
                why=f"earlier requests have prescribed along {old.directions.shape[1]} of {rank}, and these stay",
                fix="plan fewer directions or other layers, or begin a federation with a larger guard-rank",
            )
        full = np.zeros((width, rank), np.int64)
        full[:, : whole.directions.shape[1]] = whole.directions
        guards[name][block] = full
        targets[name, block] = np.zeros((layer.rows, rank), np.int64)
        targets[name, block][:, : whole.targets.shape[1]] = whole.targets
    kept = {name: tuple(blocks) for name, blocks in guards.items()}
    return replace(plan, masks=masks, guards=kept, targets=targets)


def stacked(old: Along, new: Along, unit: int) -> Along:
    """Old directions and targets, and beside them those of new ones that are orthogonal to them.

    Parameters
    ----------
    old, new : Along
    unit : int
        What targets are multiples of.

    Raises
    ------
    InputError
        A new direction is, or nearly is, one that something else was prescribed along.
    """
    known = old.columns()
    if known <= new.columns():
        return new
    added = [k for k, one in enumerate(_columns(new)) if one not in known]
    if not added:
        return old
    scale = 2.0**GUARD_BITS
    before, fresh = old.directions / scale, new.directions[:, added] / scale
    share = np.linalg.lstsq(before, fresh, rcond=None)[0]
    basis, lengths = np.linalg.qr(fresh - before @ share)
    if np.abs(np.diag(lengths)).min() < _ALONE:
        raise InputError(
            "a request prescribes along a direction that an earlier one has prescribed along",
            why="what was deleted along it would come back with other targets",
            fix="plan along other directions",
        )
    wanted = np.linalg.solve(lengths.T, (new.targets[:, added] - old.targets @ share).T).T
    values = np.rint(wanted / unit).clip(-(2**15) + 1, 2**15 - 1).astype(np.int64) * unit
    directions = np.rint(basis * scale).astype(np.int64)
    return Along(np.concatenate([old.directions, directions], 1), np.concatenate([old.targets, values], 1))


def _columns(along: Along) -> list[tuple[bytes, bytes]]:
    return [
        (v.astype("<i8").tobytes(), t.astype("<i8").tobytes())
        for v, t in zip(along.directions.T, along.targets.T, strict=True)
    ]


def _keep_zeros(plan: Plan, earlier: Mapping[str, BoolArray], manifest: ModelManifest) -> Plan:
    masks, factors = dict(plan.masks), dict(plan.factors)
    for layer in manifest.layers:
        height, width = manifest.unit_shape(layer)
        mask, zeros = masks.get(layer.name), earlier.get(layer.name)
        if mask is None or zeros is None:
            continue
        touched = np.zeros_like(mask)
        for left in range(0, layer.cols, width):
            whole = any(
                name == layer.name and (manifest.by_layer or block == left // width) for name, block in plan.targets
            )
            for top in range(0, layer.rows, height):
                part = np.s_[top : top + height, left : left + width]
                touched[part] = whole or mask[part].any()
        masks[layer.name] = mask | (zeros & touched)
        if layer.name in factors:
            factors[layer.name] = np.where(zeros & touched, 0, factors[layer.name])
    return replace(plan, masks=masks, factors=factors)
