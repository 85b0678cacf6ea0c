"""The records clients and server exchange, and their bounds.

Chunks are numbered by the manifest: layers in its order, within a layer the column blocks from left to right, within a
block the bands of rows from top to bottom. Curvature commitments are numbered likewise without the bands.
"""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zkapex.circuits.statement import MAX_SCALE, StatementSpec
from zkapex.proofs.record import (
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
    RequestId,
    Seconds,
    UtcTime,
)

MAX_LAYERS = 4096
MAX_CHUNKS = 2**18
MAX_BATCH = 64
MAX_PROOF_BYTES = 2**18
MAX_GUARD_BYTES = 2**20
MAX_STEERING_BYTES = 2**25
MAX_MASK_BYTES = 2**25

Dimension = Annotated[int, Field(ge=1, le=2**20)]
Chunk = Annotated[int, Field(ge=0, lt=MAX_CHUNKS)]
Tolerance = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Bound on a sum of squared integers of the circuit."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class LayerSpec(Part):
    """One target layer: a weight of shape ``[rows, cols]`` held as integers ``theta * 2**exponent``."""

    name: Name
    rows: Dimension
    cols: Dimension
    exponent: Annotated[int, Field(ge=-64, le=64)]


class CurvatureCheck(Part):
    """What a device must prove about its curvature when it enrols: see :mod:`zkapex.proofs.second_moment`."""

    statement: StatementSpec
    circuit_digest: Digest
    settings_digest: Digest
    largest_per_mille: Annotated[int, Field(ge=1, le=1000)]
    """How far from the second moment of its activations a curvature may be, in thousandths of ``2**curvature_bits``."""


class ModelManifest(Record):
    """What is proved about which model: target layers, fixed point, geometry, and the circuit by digest."""

    kind: ClassVar[str] = "manifest"
    max_bytes: ClassVar[int] = 2**21

    format: Literal["zkapex.manifest.v1"] = "zkapex.manifest.v1"
    model: Name
    profile: Name
    statement: StatementSpec
    """The circuit: chunk shape, guard rank, range of weights, and how it is laid out."""
    curvature_bits: Annotated[int, Field(ge=1, le=24)]
    """log2 of the largest Frobenius norm of every encoded curvature matrix."""
    layers: Annotated[tuple[LayerSpec, ...], Field(min_length=1, max_length=MAX_LAYERS)]
    circuit_digest: Digest
    """SHA-256 of the verification key file."""
    settings_digest: Digest
    """SHA-256 of the circuit's settings file."""
    srs_digest: Digest
    srs_origin: Literal["local", "imported"]
    """``local``: made by the verifier, which convinces nobody else. ``imported``: from elsewhere, pinned by digest."""
    curvature_check: CurvatureCheck | None = None
    """If there is one, every enrolment must come with the proofs it asks for."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise ValueError("layer names repeat")
        if self.statement.kind == "second-moment":
            raise ValueError("second-moment says nothing about weights; no operator is proved by it")
        if self.curvature_check is not None:
            theirs = self.curvature_check.statement
            if theirs.kind != "second-moment" or self.statement.curvature != "kfac":
                raise ValueError("a curvature check is a second-moment statement about kfac curvature")
            shared = ("block_width", "curvature_rank", "weight_limit", "log2_rows")
            if any(getattr(theirs, name) != getattr(self.statement, name) for name in shared):
                raise ValueError("the curvature check commits to other factors than the manifest's statement")
        if self.n_chunks > MAX_CHUNKS:
            raise ValueError(f"the model has {self.n_chunks} chunks, at most {MAX_CHUNKS} are supported")
        return self

    @property
    def block_width(self) -> int:
        """Columns B of a chunk."""
        return self.statement.block_width

    @property
    def rows_per_chunk(self) -> int:
        """Rows R of a chunk."""
        return self.statement.rows_per_chunk

    @property
    def guard_rank(self) -> int:
        """Columns r of a guard."""
        return self.statement.guard_rank

    @property
    def weight_limit(self) -> int:
        """Largest integer weight."""
        return self.statement.weight_limit

    def blocks(self, layer: LayerSpec) -> int:
        """Count the column blocks of a layer."""
        return -(-layer.cols // self.block_width)

    def bands(self, layer: LayerSpec) -> int:
        """Count the bands of rows of a layer."""
        return -(-layer.rows // self.rows_per_chunk)

    @property
    def n_chunks(self) -> int:
        """Number of chunks of the model, and of theta commitments in an enrolment."""
        return sum(self.blocks(layer) * self.bands(layer) for layer in self.layers)

    @property
    def n_curvatures(self) -> int:
        """Number of curvature factors, and of commitments to them in an enrolment.

        One per (layer, column block) for kfac, one per chunk for block-fisher, none if the statement needs none.
        """
        blocks = sum(self.blocks(layer) for layer in self.layers)
        return {"kfac": blocks, "block-fisher": self.n_chunks, "none": 0}[self.statement.curvature]


class PersonaliseRequest(Record):
    """Server to client, signed: train the global model on your own data and keep the result."""

    kind: ClassVar[str] = "personalise-request"

    format: Literal["zkapex.personalise-request.v1"] = "zkapex.personalise-request.v1"
    federation: Name
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    seed: Count
    weights_digest: Digest
    """Of the global model that comes with it, see :func:`zkapex.proofs.record.arrays_digest`."""
    nonce: Nonce
    server_key: PublicKeyHex
    """Key the server signs with; the client pins the first it sees."""


class PersonaliseReply(Record):
    """Client to server: personalisation is done."""

    kind: ClassVar[str] = "personalise-reply"

    format: Literal["zkapex.personalise-reply.v1"] = "zkapex.personalise-reply.v1"
    client_id: ClientId
    examples: Count
    accuracy_before: Fraction
    accuracy_after: Fraction
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
    """That one curvature factor is the second moment of committed activations: `zkapex.proofs.second_moment`."""

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


class LayerMask(Part):
    """The masked weights of one layer: ``np.packbits`` of the row-major boolean ``[rows, cols]``, unused bits zero."""

    layer: Name
    bits: Annotated[Blob, Field(min_length=1, max_length=MAX_MASK_BYTES)]
    factors: Annotated[Blob, Field(max_length=MAX_MASK_BYTES)] = b""
    """For dampening, one byte per masked weight, row by row: its factor in 256ths. Empty for other operators."""


class GuardBlock(Part):
    """The guard V_b of one column block: row-major little-endian int16 of shape ``[width, rank]``.

    `steering` is what the unmasked change must be along it, in units of the statement's ``guard_limit``: int16 of shape
    ``[rows, rank]``, rows being those with a masked weight in this block, ascending; or empty, for none.
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
    """Of the global model that comes with it, see :func:`zkapex.proofs.record.arrays_digest`."""
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
    mask: Annotated[tuple[LayerMask, ...], Field(min_length=1, max_length=MAX_LAYERS)]
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.expires_at <= self.issued_at:
            raise ValueError("expires_at must be after issued_at")
        if len({mask.layer for mask in self.mask}) != len(self.mask):
            raise ValueError("a layer has two masks")
        if len({(guard.layer, guard.block) for guard in self.guards}) != len(self.guards):
            raise ValueError("a block has two guards")
        return self


class ChunkCommitment(Part):
    """com(theta_u) of one chunk."""

    chunk: Chunk
    theta: PointHex


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


ModelState = Literal["before", "masked", "after"]
"""The personalised model before the request, with the mask alone, and after compensation."""


class Score(Part):
    """How many of `total` examples of a data set a model got right."""

    model: ModelState
    data: Literal["forget", "retain", "personal"]
    correct: Count
    total: Annotated[int, Field(ge=1, le=2**31 - 1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.correct > self.total:
            raise ValueError("more examples are correct than there are")
        return self


class EvaluateRequest(Record):
    """Server to client: evaluate these states of your model."""

    kind: ClassVar[str] = "evaluate-request"

    format: Literal["zkapex.evaluate-request.v1"] = "zkapex.evaluate-request.v1"
    request_id: RequestId
    models: Annotated[tuple[ModelState, ...], Field(min_length=1, max_length=3)]


class EvaluateReply(Record):
    """Client to server: the scores."""

    kind: ClassVar[str] = "evaluate-reply"

    format: Literal["zkapex.evaluate-reply.v1"] = "zkapex.evaluate-reply.v1"
    client_id: ClientId
    request_id: RequestId
    scores: Annotated[tuple[Score, ...], Field(min_length=1, max_length=9)]
