"""Before any deletion: personalisation, and the commitments to what it made."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from zkapex.circuits.statement import MAX_SCALE
from zkapex.proofs.messages.bounds import MAX_CHUNKS, MAX_PROOF_BYTES, Fraction
from zkapex.proofs.messages.manifest import ModelManifest
from zkapex.proofs.records.record import (
    Blob,
    ClientId,
    Count,
    Digest,
    Name,
    Nonce,
    Part,
    PointHex,
    PublicKeyHex,
    Record,
    Seconds,
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


class EnrolRequest(Record):
    """Server to client, signed: commit to your personalised weights and curvature under this manifest; sign that."""

    kind: ClassVar[str] = "enrol-request"

    format: Literal["zkapex.enrol-request.v1"] = "zkapex.enrol-request.v1"
    federation: Name
    manifest: ModelManifest
    nonce: Nonce
    server_key: PublicKeyHex
    """Key the server signs requests and receipts with; the client pins the first it sees."""


class CurvatureProof(Part):
    """That one curvature factor is the second moment of committed activations: `zkapex.proofs.chunk.second_moment`."""

    activations: PointHex
    """com(X), the activations of one column block."""
    scale: Annotated[int, Field(ge=1, le=MAX_SCALE)]
    per_mille: Annotated[int, Field(ge=1, le=1000)]
    """The tolerance, in thousandths of ``2**curvature_bits``."""
    proof: Annotated[Blob, Field(min_length=1, max_length=MAX_PROOF_BYTES)]


class Enrolment(Record):
    """Client to server, signed: commitments made before any mask exists."""

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
    theta: Annotated[tuple[PointHex, ...], Field(min_length=1, max_length=MAX_CHUNKS)]
    """com(theta_p), one per chunk."""
    curvature: Annotated[tuple[PointHex, ...], Field(max_length=MAX_CHUNKS)]
    """Commitments to the curvature factors, `ModelManifest.n_curvatures` of them."""
    curvature_proofs: Annotated[tuple[CurvatureProof, ...], Field(max_length=MAX_CHUNKS)] = ()
    """One per curvature factor, in the same order, if the manifest has a `CurvatureCheck`; else none."""
