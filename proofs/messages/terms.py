"""The terms of a deletion: mask and guard, and a client's proposal of them."""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zkapex.proofs.messages.bounds import (
    MAX_CHUNKS,
    MAX_GUARD_BYTES,
    MAX_LAYERS,
    MAX_MASK_BYTES,
    MAX_STEERING_BYTES,
    Dimension,
    Fraction,
)
from zkapex.proofs.records.record import Blob, ClientId, Count, Digest, Name, Nonce, Part, Record, RequestId


class LayerMask(Part):
    """The masked weights of one layer: ``np.packbits`` of the row-major boolean ``[rows, cols]``, unused bits zero."""

    layer: Name
    bits: Annotated[Blob, Field(min_length=1, max_length=MAX_MASK_BYTES)]
    factors: Annotated[Blob, Field(max_length=MAX_MASK_BYTES)] = b""
    """For dampening, one byte per masked weight, row by row: its factor in 256ths. Empty for other operators."""


class GuardBlock(Part):
    """The guard V_b of one column block: row-major little-endian int16 of shape ``[width, rank]``.

    `steering` is what the unmasked change must be along it, in units of the statement's ``guard_limit``: int16 of shape
    ``[rows, rank]``, rows being those with a masked weight in this block, ascending; or empty, for none. For
    targeted-group-obs and constraint-only it is what the weights that result must be along it, of all rows.
    """

    layer: Name
    block: Count
    width: Dimension
    rank: Annotated[int, Field(ge=1, le=64)]
    values: Annotated[Blob, Field(min_length=2, max_length=MAX_GUARD_BYTES)]
    steering: Annotated[Blob, Field(max_length=MAX_STEERING_BYTES)] = b""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.values) != 2 * self.width * self.rank:
            raise ValueError(f"{len(self.values)} bytes are not a [{self.width}, {self.rank}] array of int16")
        if len(self.steering) % (2 * self.rank):
            raise ValueError(f"{len(self.steering)} bytes are no [rows, {self.rank}] array of int16")
        return self


class ProposeRequest(Record):
    """Server to client, signed: choose mask and guard for what you hold and is to be forgotten, and send only these.

    The global model comes with it.
    """

    kind: ClassVar[str] = "propose-request"

    format: Literal["zkapex.propose-request.v1"] = "zkapex.propose-request.v1"
    request_id: RequestId
    client_id: ClientId
    manifest_digest: Digest
    """The statement, target layers and fixed point, as the client enrolled under them."""
    weights_digest: Digest
    """Of the global model that comes with it, see :func:`zkapex.proofs.records.record.arrays_digest`."""
    scorers: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]
    fractions: Annotated[tuple[Fraction, ...], Field(min_length=1, max_length=256)]
    """Sizes of the growing mask, as shares of all target weights, increasing; the last one is the budget."""
    concentration: Fraction
    forget_target: Fraction
    """Forget accuracy to come down to, with the forget logits raised by `margin`."""
    margin: Annotated[float, Field(ge=0, le=100)]
    retain_cost: Fraction
    """Accuracy on anything else that may be lost."""
    nonce: Nonce

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(low >= high for low, high in itertools.pairwise((0.0, *self.fractions))):
            raise ValueError("fractions must increase, from above 0")
        return self


class Claims(Part):
    """What a proposal did to the models it was tried on, as its holder says; nobody else can check it."""

    scorer: Name
    fraction: Fraction
    forget: Fraction
    """Worst accuracy on what is to be forgotten."""
    forget_raised: Fraction
    """The same with the forget logits raised by the request's margin."""
    retain: Fraction
    personal: Fraction
    retain_loss: Annotated[float, Field(ge=-1, le=1)]
    personal_loss: Annotated[float, Field(ge=-1, le=1)]
    reaches_target: bool
    within_cost: bool


class Proposal(Record):
    """Client to server, signed: mask and guard, chosen on data that stay on the device."""

    kind: ClassVar[str] = "proposal"

    format: Literal["zkapex.proposal.v1"] = "zkapex.proposal.v1"
    request_id: RequestId
    client_id: ClientId
    manifest_digest: Digest
    nonce: Nonce
    """The request's."""
    mask: Annotated[tuple[LayerMask, ...], Field(min_length=1, max_length=MAX_LAYERS)]
    guards: Annotated[tuple[GuardBlock, ...], Field(max_length=MAX_CHUNKS)]
    claims: Claims

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({mask.layer for mask in self.mask}) != len(self.mask):
            raise ValueError("a layer has two masks")
        if len({(guard.layer, guard.block) for guard in self.guards}) != len(self.guards):
            raise ValueError("a block has two guards")
        return self
