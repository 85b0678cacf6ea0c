"""What requests demand of a client's weights for good: zeros, and targets along directions.

A demand is about the weights that result, whatever they were. So it can be asked for again: of whoever enrols again
(`zkapex.proofs.chunk.continuation`), of a later request, which must not allow what earlier ones removed to come back
(`Demands.lost`), and by whoever checks receipts as a chain.

**Why a later request has to repeat targets.** A repair moves every unmasked weight of the chunks it touches, along any
direction that its request does not prescribe. So in every column block it touches, a request keeps all that earlier
ones have prescribed there: each direction as one of its own, with the same targets. Nothing less will do. With another
target along an old direction it could put back what was removed there, and nobody but the provider knows whether it
does; that a request forgets as well as the one it replaces is no property of weights that could be proved. A block has
as many directions as the guard's rank, in all its life.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from zkapex.circuits.operators import declared
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.instance import Instance, cut, place
from zkapex.proofs.chunk.public import BoolArray, IntArray
from zkapex.proofs.messages import GuardBlock, LayerMask, ModelManifest, UnlearnRequest
from zkapex.proofs.records.packing import (
    pack_guards,
    pack_masks,
    touched_chunks,
    unpack_factors,
    unpack_guards,
    unpack_masks,
    unpack_steering,
)

Key = tuple[str, int]
"""Layer and column block."""


@dataclass(frozen=True)
class Along:
    """What is prescribed along directions of one column block.

    Attributes
    ----------
    directions : int64 [B, n]
        None of them zero.
    targets : int64 [rows, n]
        What every row must be along them, in units of weights times directions.
    """

    directions: IntArray
    targets: IntArray

    @classmethod
    def of(cls, guard: IntArray, targets: IntArray) -> Along:
        """The columns of a guard that are directions: a column of zeros fills it up to the circuit's rank."""
        some = guard.any(0)
        return cls(guard[:, some], targets[:, some])

    def columns(self) -> frozenset[tuple[bytes, bytes]]:
        """The demands one by one, as bytes that can be compared."""
        pairs = zip(self.directions.T, self.targets.T, strict=True)
        return frozenset((v.astype("<i8").tobytes(), t.astype("<i8").tobytes()) for v, t in pairs)

    def joined(self, other: Along) -> Along:
        """Both demands in one, in an order that does not depend on theirs."""
        both = np.concatenate(
            [np.concatenate([one.directions, one.targets]).astype(np.int64) for one in (self, other)], axis=1
        )
        whole = np.unique(both, axis=1)
        height = len(self.directions)
        return Along(whole[:height], whole[height:])


@dataclass(frozen=True)
class Demands:
    """Everything that some requests demand for good.

    Attributes
    ----------
    zeros : mapping of str to bool [rows, cols]
        By layer, of those that have any.
    along : mapping of (str, int) to Along
        By layer and column block.
    """

    zeros: Mapping[str, BoolArray] = field(default_factory=dict)
    along: Mapping[Key, Along] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.zeros or self.along)

    @classmethod
    def of(cls, manifest: ModelManifest, requests: Iterable[UnlearnRequest]) -> Demands:
        """What all these requests demand together.

        Parameters
        ----------
        manifest : ModelManifest
            That the client enrolled under.
        requests : iterable of UnlearnRequest
            All that were ever sent to the client, proved or not.
        """
        found = cls()
        for request in requests:
            found = found.joined(cls(zeroed(manifest, request), _prescribed(manifest, request.guards)))
        return found

    def joined(self, other: Demands) -> Demands:
        """Both in one."""
        zeros = dict(self.zeros)
        for name, mask in other.zeros.items():
            if mask.any():
                zeros[name] = zeros[name] | mask if name in zeros else mask
        along = dict(self.along)
        for key, one in other.along.items():
            along[key] = along[key].joined(one) if key in along else one.joined(one)
        return Demands(zeros, along)

    def packed(self, manifest: ModelManifest) -> tuple[tuple[LayerMask, ...], tuple[GuardBlock, ...]]:
        """Mask and guards as messages carry them; equal demands have equal bytes.

        Raises
        ------
        InputError
            There are more directions in a block than the circuit's guard has columns.
        """
        unit = manifest.statement.guard_limit
        guards = {key: one.directions.astype(np.int16) for key, one in self.along.items()}
        targets = {key: (one.targets // unit).astype(np.int16) for key, one in self.along.items()}
        return pack_masks(manifest, self.zeros) if self.zeros else (), pack_guards(manifest, guards, targets)

    @classmethod
    def unpacked(cls, manifest: ModelManifest, mask: Sequence[LayerMask], guards: Sequence[GuardBlock]) -> Demands:
        """Demands from a message.

        Raises
        ------
        ProtocolError
            They are not of this manifest.
        """
        return cls(unpack_masks(manifest, mask) if mask else {}, _prescribed(manifest, guards))

    def touched(self, manifest: ModelManifest) -> tuple[int, ...]:
        """The chunks of which something is demanded, ascending."""
        return touched_chunks(manifest, self.zeros, self.along)

    def lost(self, instance: Instance) -> str:
        """What a request would allow to come back, as the end of a sentence; nothing if it keeps all.

        Chunks that it does not touch stay as they are.
        """
        manifest = instance.manifest
        asked = Demands(zeroed(manifest, instance.request), _prescribed(manifest, instance.request.guards))
        given_up = {key for key, one in self.along.items() if not _within(one, asked.along.get(key))}
        for chunk in instance.touched:
            where = place(manifest, chunk)
            zeros = self.zeros.get(where.layer)
            if zeros is not None:
                mask = asked.zeros.get(where.layer, np.zeros_like(zeros))
                if cut(manifest, where, zeros & ~mask).any():
                    return f"it changes chunk {chunk} and does not mask all that was deleted there"
            blocks = range(where.block, where.block + 1)
            if manifest.by_layer:
                blocks = range(manifest.blocks(manifest.layers[chunk]))
            lost = next((block for block in blocks if (where.layer, block) in given_up), None)
            if lost is not None:
                return (
                    f"it changes chunk {chunk} and does not prescribe along the directions of block {lost} of "
                    f"{where.layer!r} what was prescribed there"
                )
        return ""

    def within(self, other: Demands) -> bool:
        """Whether other demands include all of these."""
        return all(
            not (mask & ~other.zeros.get(name, np.zeros_like(mask))).any() for name, mask in self.zeros.items()
        ) and all(_within(one, other.along.get(key)) for key, one in self.along.items())


def zeroed(manifest: ModelManifest, request: UnlearnRequest) -> dict[str, BoolArray]:
    """The weights, bool [rows, cols] per masked layer, that a request makes zero whatever they were."""
    if not declared(request.operator).zeroes or not request.mask:
        return {}
    masks = unpack_masks(manifest, request.mask)
    if not any(mask.factors for mask in request.mask):
        return masks
    factors = unpack_factors(request.mask, masks)
    return {name: mask & (factors[name] == 0) for name, mask in masks.items()}


def _prescribed(manifest: ModelManifest, guards: Collection[GuardBlock]) -> dict[Key, Along]:
    """What guards prescribe of the weights that result; nothing where a request prescribes a change."""
    if not manifest.statement.constrains_result or not guards:
        return {}
    directions = unpack_guards(manifest, tuple(guards))
    targets = unpack_steering(manifest, tuple(guards), {})
    found = {}
    for key, values in directions.items():
        rank = values.shape[1]
        one = Along.of(values.astype(np.int64), targets[key][:, :rank])
        if one.directions.size:
            found[key] = one
    return found


def _within(one: Along, other: Along | None) -> bool:
    return other is not None and one.columns() <= other.columns()


def require_kept(demands: Demands, instance: Instance) -> None:
    """Return only if a request keeps, wherever it may change weights, what is demanded.

    Raises
    ------
    ProtocolError
        It does not.
    """
    if why := demands.lost(instance):
        raise ProtocolError(
            f"request {instance.request.request_id} would bring back what an earlier one removed",
            why=why,
            fix="mask and prescribe in every block that the request touches what earlier requests did",
        )
