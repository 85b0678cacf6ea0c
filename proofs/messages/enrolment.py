"""Before any deletion: personalisation, and the commitments to what it made."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zkapex.circuits.statement import MAX_SCALE
from zkapex.proofs.messages.bounds import MAX_CHUNKS, MAX_LAYERS, MAX_PROOF_BYTES, Chunk, Fraction
from zkapex.proofs.messages.manifest import ModelManifest
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
    PointHex,
    PublicKeyHex,
    Record,
    Seconds,
    is_empty,
    is_none,
)


class PersonaliseRequest(Record):
    """Server to client, signed: train the global model on your own data and keep the result."""

    kind: ClassVar[str] = "personalise-request"

    format: Literal["zkapex.personalise-request.v1"] = "zkapex.personalise-request.v1"
    federation: Name
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    seed: Count
    weights_digest: Digest
    """Of the global model that comes with it, see :func:`zkapex.proofs.records.record.arrays_digest`."""
    nonce: Nonce
    server_key: PublicKeyHex
    """Key the server signs with; the client pins the first it sees."""


class PersonaliseReply(Record):
    """Client to server: personalisation is done."""

    kind: ClassVar[str] = "personalise-reply"

    format: Literal["zkapex.personalise-reply.v1"] = "zkapex.personalise-reply.v1"
    client_id: ClientId
    examples: Count
    accuracy_before: Fraction | None
    accuracy_after: Fraction | None
    """On personal data; None if the device keeps none to judge by."""
    wall_s: Seconds


class Demand(Part):
    """What a client that enrols again has to show: that it continues what the provider holds it to."""

    previous: Digest
    """SHA-256 of the envelope of the enrolment that is to be replaced."""
    root: Digest
    """Merkle root over the theta commitments the provider holds the client to now."""
    mask: Annotated[tuple[LayerMask, ...], Field(max_length=MAX_LAYERS)]
    """What every request that was ever sent to the client has made zero, all in one; layers without any left out."""
    guards: Annotated[tuple[GuardBlock, ...], Field(max_length=MAX_CHUNKS, exclude_if=is_empty)] = ()
    """What they have prescribed along directions, all in one; `zkapex.proofs.chunk.demands` says in which order."""


class EnrolRequest(Record):
    """Server to client, signed: commit to your personalised weights and curvature under this manifest; sign that."""

    kind: ClassVar[str] = "enrol-request"

    format: Literal["zkapex.enrol-request.v1"] = "zkapex.enrol-request.v1"
    federation: Name
    manifest: ModelManifest
    nonce: Nonce
    """The provider's, on its disk before it is sent: no enrolment with another is taken."""
    server_key: PublicKeyHex
    """Key the server signs requests and receipts with; the client pins the first it sees."""
    demand: Annotated[Demand | None, Field(exclude_if=is_none)] = None
    """For a client that has enrolled before."""


class CurvatureProof(Part):
    """That one curvature factor is the second moment of committed activations: `zkapex.proofs.chunk.second_moment`."""

    activations: PointHex
    """com(X), the activations of one column block."""
    scale: Annotated[int, Field(ge=1, le=MAX_SCALE)]
    per_mille: Annotated[int, Field(ge=1, le=1000)]
    """The tolerance, in thousandths of ``2**curvature_bits``."""
    proof: Annotated[Blob, Field(min_length=1, max_length=MAX_PROOF_BYTES)]


class MomentClaim(Part):
    """For transparent: what is shown of one column block's curvature, by the proof of its layer's state.

    See `zkapex.proofs.layer.moment`.
    """

    scale: Annotated[int, Field(ge=1, le=MAX_SCALE)]
    per_mille: Annotated[int, Field(ge=1, le=1000)]
    """The tolerance, in thousandths of ``2**curvature_bits``."""


class Equality(Part):
    """That commitments differ from earlier ones by their salts alone: see `zkapex.proofs.chunk.continuation`."""

    commitment: PointHex
    responses: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=256)]
    """Field elements as 64 hex digits, one per salt."""


class SameStates(Part):
    """For transparent: that states hold what those before held, layer by layer; see `zkapex.proofs.layer.continuation`.

    What is said to be the same of the curvature is shown by the proofs about the weights, which come with it.
    """

    proofs: Annotated[
        tuple[Annotated[Blob, Field(min_length=1, max_length=MAX_PROOF_BYTES)], ...], Field(max_length=MAX_LAYERS)
    ]


class HeldProof(Part):
    """A proof that one enrolled chunk holds what earlier requests demand of it."""

    chunk: Chunk
    proof: Annotated[Blob, Field(min_length=1, max_length=MAX_PROOF_BYTES)]


class Held(Part):
    """That the enrolled weights are what earlier requests demand: zero, and along directions what was prescribed."""

    mask: Annotated[tuple[LayerMask, ...], Field(max_length=MAX_LAYERS)]
    guards: Annotated[tuple[GuardBlock, ...], Field(max_length=MAX_CHUNKS, exclude_if=is_empty)] = ()
    """Both the demand's."""
    proofs: Annotated[tuple[HeldProof, ...], Field(max_length=MAX_CHUNKS)]
    """Of every chunk they are about, ascending."""


class Continuation(Part):
    """How an enrolment continues the one it replaces: with the same weights, or with others that keep what was asked.

    `theta` and `held` exclude each other.
    """

    previous: Digest
    root: Digest
    """Both the demand's."""
    theta: Annotated[Equality | SameStates | None, Field(exclude_if=is_none)] = None
    """That the weights are those of `root`."""
    held: Annotated[Held | None, Field(exclude_if=is_none)] = None
    """Else, that they hold every earlier request."""
    curvature: Annotated[Equality | SameStates | None, Field(exclude_if=is_none)] = None
    """That the curvature is that of the enrolment before; without it, it counts as chosen now."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.theta is None) == (self.held is None):
            raise ValueError("weights are either the same as before or hold every earlier request")
        return self


class Enrolment(Record):
    """Client to server, signed: commitments made before any mask exists, or that continue such."""

    kind: ClassVar[str] = "enrolment"

    format: Literal["zkapex.enrolment.v1"] = "zkapex.enrolment.v1"
    federation: Name
    client_id: ClientId
    public_key: PublicKeyHex
    manifest_digest: Digest
    nonce: Nonce
    revision: Count
    """0 for the first enrolment of a client, larger for each later one."""
    damping: Annotated[float, Field(ge=0, le=1e9)]
    """The largest relative damping of a curvature matrix, as the client declares it; 0 if there is none."""
    theta: Annotated[tuple[CommitmentHex, ...], Field(min_length=1, max_length=MAX_CHUNKS)]
    """com(theta_p), one per chunk; for transparent, one per layer, to its curvature as well."""
    curvature: Annotated[tuple[PointHex, ...], Field(max_length=MAX_CHUNKS)]
    """Commitments to the curvature factors, `ModelManifest.n_curvatures` of them."""
    curvature_proofs: Annotated[tuple[CurvatureProof, ...], Field(max_length=MAX_CHUNKS)] = ()
    """One per curvature factor, in the same order, if the manifest has a `CurvatureCheck`; else none."""
    continuation: Annotated[Continuation | None, Field(exclude_if=is_none)] = None
    """For every enrolment of a client but its first."""
    state_proofs: Annotated[
        tuple[Annotated[Blob, Field(min_length=1, max_length=MAX_PROOF_BYTES)], ...],
        Field(max_length=MAX_LAYERS, exclude_if=is_empty),
    ] = ()
    """For transparent: of each layer, that its integers are small and its curvature is one."""
    moments: Annotated[tuple[MomentClaim, ...], Field(max_length=MAX_CHUNKS, exclude_if=is_empty)] = ()
    """For transparent, if the manifest has a `CurvatureCheck`: one per column block, layer by layer."""
