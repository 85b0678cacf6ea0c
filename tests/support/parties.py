"""A server and clients with real keys that speak the protocol correctly, for tests of what checks them.

Commitments are stand-ins: distinct strings of the right form, since what is tested here treats them as opaque.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zkapex.circuits.halo2.slack import slack_for
from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.audit import detection_probability, draw, seed_commitment
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    Audit,
    ChunkCommitment,
    Continuation,
    Enrolment,
    Held,
    LayerSpec,
    ModelManifest,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.receipts.evidence import Evidence
from zkapex.proofs.receipts.receipt import Outcome
from zkapex.proofs.records.packing import locate_chunk, pack_guards, pack_masks, touched_chunks, unpack_masks
from zkapex.proofs.records.sealed import Sealed, seal
from zkapex.proofs.records.signing import key_id, public_key_hex

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
FEDERATION = "test-federation"
SETTINGS = b'{"run_args":{}}'
VERIFICATION_KEY = bytes(range(64))
SRS = b"a reference string"
SEED = "5e" * 32
TAU_S = 1000
STATEMENT = StatementSpec(
    rows_per_chunk=3, block_width=4, curvature_rank=2, ridge=9, guard_rank=2, weight_limit=8000, log2_rows=14
)
BLOCK_FISHER = STATEMENT.model_copy(update={"curvature": "block-fisher"})
MASK_ONLY, DAMPENING = (
    StatementSpec(kind=kind, rows_per_chunk=3, block_width=4, curvature="none", weight_limit=8000, log2_rows=14)
    for kind in ("mask-only", "dampening")
)


def fingerprint(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def point(*parts: object) -> str:
    return hashlib.sha512(repr(parts).encode()).hexdigest()


def proof(*parts: object) -> bytes:
    return hashlib.sha512(repr(("proof", *parts)).encode()).digest()


def make_manifest(**changes: object) -> ModelManifest:
    """Two layers, one no multiple of the chunk shape: 4 + 6 = 10 chunks of 3 x 4 weights, in 4 column blocks."""
    fields: dict[str, object] = {
        "model": "vit-test",
        "profile": "tiny",
        "statement": STATEMENT,
        "curvature_bits": 10,
        "layers": (
            LayerSpec(name="blocks.0.fc1", rows=6, cols=8, exponent=11),
            LayerSpec(name="blocks.0.fc2", rows=7, cols=5, exponent=12),
        ),
        "circuit_digest": hashlib.sha256(VERIFICATION_KEY).hexdigest(),
        "settings_digest": hashlib.sha256(SETTINGS).hexdigest(),
        "srs_digest": hashlib.sha256(SRS).hexdigest(),
        "srs_origin": "local",
    }
    return ModelManifest(**(fields | changes))  # type: ignore[arg-type]


def make_mask(*touched: tuple[str, int, int]) -> dict[str, np.ndarray]:
    """Masks with these (layer, row, column) set."""
    masks = {layer.name: np.zeros((layer.rows, layer.cols), dtype=np.bool_) for layer in make_manifest().layers}
    for layer, row, column in touched:
        masks[layer][row, column] = True
    return masks


MASK = make_mask(("blocks.0.fc1", 0, 1), ("blocks.0.fc1", 5, 7), ("blocks.0.fc2", 6, 4))


@dataclass
class Party:
    """A client that keeps track of its own commitments."""

    name: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    theta: list[str] = field(default_factory=list)
    enrolled: str | None = None
    """SHA-256 of its last enrolment."""

    @property
    def client_id(self) -> str:
        return key_id(self.key.public_key())

    def enrol(self, revision: int = 0, manifest: ModelManifest | None = None, **changes: object) -> Sealed[Enrolment]:
        manifest = manifest or make_manifest()
        continuation = None
        if revision and self.enrolled is not None:
            root = commitment_root(list(enumerate(self.theta)))
            continuation = Continuation(previous=self.enrolled, root=root, held=Held(mask=(), proofs=()))
        self.theta = [point(self.name, revision, chunk) for chunk in range(manifest.n_chunks)]
        fields: dict[str, object] = {
            "federation": FEDERATION,
            "client_id": self.client_id,
            "public_key": public_key_hex(self.key.public_key()),
            "manifest_digest": manifest.digest(),
            "nonce": fingerprint("enrol", self.client_id, revision),
            "revision": revision,
            "damping": 0.01,
            "theta": tuple(self.theta),
            "curvature": tuple(point(self.name, revision, "F", n) for n in range(manifest.n_curvatures)),
            "continuation": continuation,
        }
        sealed = seal(Enrolment(**(fields | changes)), self.key)  # type: ignore[arg-type]
        self.enrolled = sealed.digest
        return sealed

    def respond(self, request: UnlearnRequest, **changes: object) -> Sealed[UnlearnResponse]:
        touched = touched_chunks(make_manifest(), unpack_masks(make_manifest(), request.mask))
        pairs = [(chunk, point(self.name, request.request_id, chunk)) for chunk in touched]
        fields: dict[str, object] = {
            "request_id": request.request_id,
            "client_id": request.client_id,
            "nonce": request.nonce,
            "commitments": tuple(ChunkCommitment(chunk=chunk, theta=theta) for chunk, theta in pairs),
            "root": commitment_root(pairs),
        }
        return seal(UnlearnResponse(**(fields | changes)), self.key)  # type: ignore[arg-type]

    def adopt(self, response: UnlearnResponse) -> None:
        for commitment in response.commitments:
            self.theta[commitment.chunk] = commitment.theta

    def proofs(self, request: UnlearnRequest, chunks: tuple[int, ...], attempt: int = 0) -> dict[int, bytes]:
        return {chunk: proof(self.client_id, request.request_id, chunk, attempt) for chunk in chunks}


@dataclass
class Provider:
    """The server's signing side."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def ask(
        self, party: Party, request_id: str = "r1", sample: int | None = None, **changes: object
    ) -> Sealed[UnlearnRequest]:
        manifest = make_manifest()
        guard = np.arange(8, dtype=np.int16).reshape(4, 2) - 3
        edge = np.where(np.arange(4)[:, None] < 1, guard, 0).astype(np.int16)  # this block has one column
        audit = Audit()
        if sample is not None:
            audit = Audit(
                mode="sampled",
                count=sample,
                seed_commitment=seed_commitment(SEED),
                cheating=0.5,
                detection=detection_probability(3, min(sample, 3), 2),
            )
        fields: dict[str, object] = {
            "request_id": request_id,
            "client_id": party.client_id,
            "manifest_digest": manifest.digest(),
            "nonce": fingerprint("request", party.client_id, request_id),
            "operator": "guarded-group-obs",
            "pre_root": commitment_root(list(enumerate(party.theta))),
            "mask": pack_masks(manifest, MASK),
            "guards": pack_guards(manifest, {("blocks.0.fc1", 0): guard, ("blocks.0.fc2", 1): edge}),
            "tau_s": TAU_S,
            "tau_g": 100,
            "audit": audit,
            "forget_digest": fingerprint("forget"),
            "issued_at": NOW,
            "expires_at": NOW + timedelta(hours=1),
            "enrolment_digest": party.enrolled,
        }
        return seal(UnlearnRequest(**(fields | changes)), self.key)  # type: ignore[arg-type]


def certified(chunks: Iterable[int]) -> float:
    """The certified distance of these chunks of a request of `Provider.ask`."""
    manifest = make_manifest()
    exponents = {layer.name: layer.exponent for layer in manifest.layers}
    one = math.sqrt(slack_for(TAU_S, STATEMENT.weight_limit).largest) / STATEMENT.ridge
    return math.hypot(*(one * 2.0 ** -exponents[locate_chunk(manifest, chunk)[0]] for chunk in chunks))


def make_outcome(proved: Iterable[int] | None = None, **changes: object) -> Outcome:
    """What is said of a request whose chunks `proved`, by default all touched ones, were proved."""
    fields: dict[str, object] = {
        "verdict": "proved",
        "chunks_proved": 3,
        "certified_distance": certified(touched_chunks(make_manifest(), MASK) if proved is None else proved),
        "issued_at": NOW + timedelta(minutes=5),
    }
    return Outcome(**(fields | changes))  # type: ignore[arg-type]


def make_evidence(
    provider: Provider, party: Party, *, earlier: int = 0, sample: int | None = None, srs: bytes | None = None
) -> Evidence:
    """What a complete, honest request leaves behind, after `earlier` other ones."""
    enrolment = party.enrol()
    before = []
    for number in range(earlier):
        response = party.respond(provider.ask(party, f"earlier-{number}").record)
        party.adopt(response.record)
        before.append(response.envelope)
    request = provider.ask(party, sample=sample)
    response = party.respond(request.record)
    touched = tuple(commitment.chunk for commitment in response.record.commitments)
    drawn = draw(request.record.audit, SEED if sample else None, response.record.root, touched)
    return Evidence(
        manifest=make_manifest().to_bytes(),
        request=request.envelope,
        enrolment=enrolment.envelope,
        earlier=tuple(before),
        response=response.envelope,
        proofs=party.proofs(request.record, drawn),
        settings=SETTINGS,
        verification_key=VERIFICATION_KEY,
        srs=srs,
    )
