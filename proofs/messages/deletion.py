"""A deletion: what is asked of a client, what it commits to, and its proofs."""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zkapex.proofs.messages.bounds import MAX_BATCH, MAX_CHUNKS, MAX_LAYERS, MAX_PROOF_BYTES, Chunk, Tolerance
from zkapex.proofs.messages.terms import GuardBlock, LayerMask
from zkapex.proofs.records.record import (
    Blob,
    ClientId,
    CommitmentHex,
    Count,
    Digest,
    Name,
    Nonce,
    Part,
    Record,
    RequestId,
    Seconds,
    UtcTime,
    is_none,
    is_zero,
)


class Audit(Part):
    """Which touched chunks will have to be proved.

    ``full``: all. ``sampled``: `count` of them, drawn from a seed of which the server publishes the hash here, before
    it sees any commitment. A client that leaves a fraction `cheating` of the touched chunks undone, one at least, is
    found out with probability `detection` (see :mod:`zkapex.proofs.audit`).
    """

    mode: Literal["full", "sampled"] = "full"
    count: Annotated[int, Field(ge=1, le=MAX_CHUNKS)] | None = None
    seed_commitment: Digest | None = None
    cheating: Annotated[float, Field(gt=0, le=1)] | None = None
    detection: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        sampled = self.mode == "sampled"
        numbers = (self.count, self.seed_commitment, self.cheating, self.detection)
        if any((number is not None) != sampled for number in numbers):
            raise ValueError(
                "count, seed_commitment, cheating and detection belong to a sampled audit, and only to that"
            )
        return self


class UnlearnRequest(Record):
    """Server to client, signed: apply this operator with this mask and guard to the weights you committed to."""

    kind: ClassVar[str] = "unlearn-request"

    format: Literal["zkapex.unlearn-request.v1"] = "zkapex.unlearn-request.v1"
    request_id: RequestId
    client_id: ClientId
    manifest_digest: Digest
    nonce: Nonce
    operator: Name
    pre_root: Digest
    """Merkle root over the theta commitments the server holds for the client; the client must recognise them."""
    mask: Annotated[tuple[LayerMask, ...], Field(max_length=MAX_LAYERS)]
    """Layers in the manifest's order; layers without a masked weight are left out."""
    guards: Annotated[tuple[GuardBlock, ...], Field(max_length=MAX_CHUNKS)]
    """In the manifest's order; empty for rank 0, the paper's operator."""
    tau_s: Tolerance
    tau_g: Tolerance
    audit: Audit
    forget_digest: Digest
    """Digest of the description of what is to be forgotten; never of the data in a form that could be guessed."""
    issued_at: UtcTime
    expires_at: UtcTime
    """No response is accepted after this time."""
    enrolment_digest: Annotated[Digest | None, Field(exclude_if=is_none)] = None
    """SHA-256 of the envelope of the enrolment that weights and curvature are those of; none in the oldest requests."""
    attempts: Annotated[Count, Field(exclude_if=is_zero)] = 0
    """How many requests were given up after their audit had been drawn since the client last proved one in full.

    If there are any, the audit is full: whoever knows that draws can be escaped has none to escape."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.expires_at <= self.issued_at:
            raise ValueError("expires_at must be after issued_at")
        if self.attempts and self.audit.mode != "full":
            raise ValueError("after an audit that was drawn and not proved, everything has to be proved")
        if not self.mask and not self.guards:
            raise ValueError("a request must have a mask or guards")
        if len({mask.layer for mask in self.mask}) != len(self.mask):
            raise ValueError("a layer has two masks")
        if len({(guard.layer, guard.block) for guard in self.guards}) != len(self.guards):
            raise ValueError("a block has two guards")
        return self


class ChunkCommitment(Part):
    """com(theta_u) of one chunk."""

    chunk: Chunk
    theta: CommitmentHex


class UnlearnResponse(Record):
    """Client to server, signed: the weights after unlearning, committed before the client knows what it must prove."""

    kind: ClassVar[str] = "unlearn-response"

    format: Literal["zkapex.unlearn-response.v1"] = "zkapex.unlearn-response.v1"
    request_id: RequestId
    client_id: ClientId
    nonce: Nonce
    """The request's."""
    commitments: Annotated[tuple[ChunkCommitment, ...], Field(min_length=1, max_length=MAX_CHUNKS)]
    """Exactly the touched chunks, ascending."""
    root: Digest
    """Merkle root over `commitments`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        numbers = [commitment.chunk for commitment in self.commitments]
        if any(left >= right for left, right in itertools.pairwise(numbers)):
            raise ValueError("chunks must be in ascending order without repetition")
        return self


class ProveRequest(Record):
    """Server to client: send the proofs of these chunks."""

    kind: ClassVar[str] = "prove-request"

    format: Literal["zkapex.prove-request.v1"] = "zkapex.prove-request.v1"
    request_id: RequestId
    client_id: ClientId
    chunks: Annotated[tuple[Chunk, ...], Field(min_length=1, max_length=MAX_BATCH)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.chunks)) != len(self.chunks):
            raise ValueError("a chunk is asked for twice")
        return self


class ChunkProof(Part):
    """The raw proof of one chunk and what it cost."""

    chunk: Chunk
    proof: Annotated[Blob, Field(min_length=1, max_length=MAX_PROOF_BYTES)]
    prove_cpu_s: Seconds
    peak_rss_mb: Annotated[float, Field(ge=0, le=1e7)]


class ProveResponse(Record):
    """Client to server: proofs, unsigned, since each one is bound to its request by its context element."""

    kind: ClassVar[str] = "prove-response"

    format: Literal["zkapex.prove-response.v1"] = "zkapex.prove-response.v1"
    request_id: RequestId
    client_id: ClientId
    proofs: Annotated[tuple[ChunkProof, ...], Field(min_length=1, max_length=MAX_BATCH)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({proof.chunk for proof in self.proofs}) != len(self.proofs):
            raise ValueError("a chunk is proved twice")
        return self


class Delivery(Record):
    """Either way: the signed envelope in the message's blob ``envelope``, or, without one, a question for it."""

    kind: ClassVar[str] = "delivery"

    format: Literal["zkapex.delivery.v1"] = "zkapex.delivery.v1"
