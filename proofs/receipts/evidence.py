"""The evidence a receipt rests on, and what follows from it alone.

:func:`derive` verifies every signature and digest in the evidence and computes the :class:`Facts`. The issuer of a
receipt calls it to write the facts down; whoever checks the receipt calls it again and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from zkapex.errors import Error, FormatVersionError, ReceiptError, SignatureError
from zkapex.proofs.audit import check_audit, draw
from zkapex.proofs.chunk.certificate import request_distance
from zkapex.proofs.chunk.enrolled import curvature_distance
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    MAX_CHUNKS,
    Chunk,
    Enrolment,
    Fraction,
    ModelManifest,
    Tolerance,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.records.packing import guard_digest, mask_digest
from zkapex.proofs.records.record import (
    ClientId,
    Count,
    Digest,
    Name,
    Part,
    RequestId,
    UtcTime,
    is_none,
    is_zero,
    sha256_hex,
)
from zkapex.proofs.records.sealed import Sealed, unseal, unseal_enrolment
from zkapex.proofs.records.signing import public_key_from_hex

T = TypeVar("T")
A = TypeVar("A")


class Facts(Part):
    """What follows from the evidence alone."""

    request_id: RequestId
    client_id: ClientId
    federation: Name
    manifest_digest: Digest
    model: Name
    profile: Name
    circuit_digest: Digest
    settings_digest: Digest
    srs_digest: Digest
    srs_origin: Literal["local", "imported"]
    freivalds: bool
    operator: Name
    mask_digest: Digest
    guard_digest: Digest
    tau_s: Tolerance
    tau_g: Tolerance
    forget_digest: Digest
    requested_at: UtcTime
    pre_root: Digest
    post_root: Digest | None
    """Roots over the commitments of all chunks; no post root if the client never answered."""
    audit_mode: Literal["full", "sampled"]
    audit_cheating: Fraction | None
    """Fraction of the touched chunks a cheat is assumed to leave undone; none in a full audit."""
    audit_detection: Fraction | None
    """Probability with which such a cheat is found out; none in a full audit."""
    chunks_total: Count
    chunks_touched: Count
    chunks_drawn: Annotated[tuple[Chunk, ...], Field(max_length=MAX_CHUNKS)]
    """Chunks that had to be proved, ascending; empty if the client never answered."""
    curvature_within: Annotated[float, Field(ge=0, le=2)] | None
    """How far any enrolled curvature can be from the second moment of committed activations, as a fraction of the
    largest norm that curvature may have (Frobenius); none if the enrolment shows nothing about it."""
    curvature_activations: Count
    """How many activations of each column block that is, at most; 0 if none."""
    enrolment_revision: Annotated[Count | None, Field(exclude_if=is_none)] = None
    """Which enrolment of the client the weights before are of, 0 being its first; none if the request does not say."""
    attempts: Annotated[Count, Field(exclude_if=is_zero)] = 0
    """Earlier requests to this client that were given up after their audit had been drawn; if any, this one is full."""


@dataclass(frozen=True)
class Evidence:
    """The bytes of everything a receipt rests on.

    Parameters
    ----------
    manifest : bytes
        The :class:`ModelManifest` record.
    request, enrolment : bytes
        Signed envelopes of the request and of the client's last enrolment before it.
    earlier : tuple of bytes
        Signed responses of the client that were accepted between that enrolment and this request, oldest first. Applied
        to the enrolment's commitments they give the commitments this request started from.
    response : bytes or None
        Signed envelope of the response; none if the client never gave one.
    proofs : mapping of int to bytes
        Raw accepted proofs by chunk.
    settings, verification_key : bytes
        The circuit's files.
    srs : bytes or None
        The structured reference string, where the verifier should not have to fetch it.
    """

    manifest: bytes
    request: bytes
    enrolment: bytes
    earlier: tuple[bytes, ...]
    response: bytes | None
    proofs: Mapping[int, bytes]
    settings: bytes
    verification_key: bytes
    srs: bytes | None = None

    def files(self) -> dict[str, bytes]:
        """Lay the evidence out as files: relative path to content, in a fixed order."""
        files = {"manifest.json": self.manifest, "request.json": self.request, "enrolment.json": self.enrolment}
        files |= {f"earlier/{number:04d}.json": data for number, data in enumerate(self.earlier)}
        if self.response is not None:
            files["response.json"] = self.response
        files |= {"circuit/settings.json": self.settings, "circuit/vk.bin": self.verification_key}
        if self.srs is not None:
            files["circuit/srs.bin"] = self.srs
        files |= {f"proofs/{chunk}.bin": self.proofs[chunk] for chunk in sorted(self.proofs)}
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Evidence:
        """Invert :meth:`files`.

        Raises
        ------
        ReceiptError
            A file is missing, or does not belong there; names it.
        """
        try:
            evidence = cls(
                manifest=files["manifest.json"],
                request=files["request.json"],
                enrolment=files["enrolment.json"],
                earlier=tuple(files[path] for path in sorted(files) if path.startswith("earlier/")),
                response=files.get("response.json"),
                proofs={
                    int(path[7:-4]): data
                    for path, data in files.items()
                    if path.startswith("proofs/") and path[7:-4].isdecimal()
                },
                settings=files["circuit/settings.json"],
                verification_key=files["circuit/vk.bin"],
                srs=files.get("circuit/srs.bin"),
            )
        except KeyError as missing:
            raise ReceiptError(f"the receipt does not list {missing.args[0]}") from None
        strange = set(files) - set(evidence.files())
        if strange:
            raise ReceiptError(f"the receipt lists {sorted(strange)[0]}, which does not belong in a receipt")
        return evidence


@dataclass(frozen=True)
class Dossier:
    """The evidence, verified and parsed.

    `pre` and `post` are the theta commitments of all chunks (G1 points as hex) before and after, `drawn` the chunks
    that had to be proved. `post` equals `pre` if there is no response.
    """

    manifest: ModelManifest
    request: Sealed[UnlearnRequest]
    enrolment: Sealed[Enrolment]
    response: Sealed[UnlearnResponse] | None
    pre: tuple[str, ...]
    post: tuple[str, ...]
    instance: Instance
    drawn: tuple[int, ...]
    facts: Facts

    def certified_distance(self) -> float | None:
        """`request_distance` over the drawn chunks; raises ReceiptError if the request does not fit its circuit."""
        return _within("request.json", lambda chunks: request_distance(self.instance, chunks), self.drawn)


def derive(evidence: Evidence, audit_seed: str | None, server_keys: Collection[Ed25519PublicKey]) -> Dossier:
    """Verify every signature and digest in the evidence, check that its parts belong together, and state the facts.

    Raises
    ------
    ReceiptError
        A part is malformed or contradicts another; names it.
    SignatureError
        A part is not signed by whom it must be.
    FormatVersionError
        A part has a format this release does not know.
    """
    manifest = _within("manifest.json", ModelManifest.from_bytes, evidence.manifest)
    request = _within("request.json", lambda data: unseal(UnlearnRequest, data, server_keys), evidence.request)
    enrolment = _within("enrolment.json", unseal_enrolment, evidence.enrolment)
    asked, enrolled = request.record, enrolment.record
    client_keys = [public_key_from_hex(enrolled.public_key)]

    def response_in(name: str, data: bytes) -> Sealed[UnlearnResponse]:
        response = _within(name, lambda envelope: unseal(UnlearnResponse, envelope, client_keys), data)
        pairs = [(commitment.chunk, commitment.theta) for commitment in response.record.commitments]
        _demand(response.record.client_id == enrolled.client_id, name, "it is another client's")
        _demand(pairs[-1][0] < manifest.n_chunks, name, "it names a chunk the model does not have")
        _demand(response.record.root == commitment_root(pairs), name, "its Merkle root is not that of its commitments")
        return response

    _demand(sha256_hex(evidence.settings) == manifest.settings_digest, "circuit/settings.json", "not the manifest's")
    _demand(sha256_hex(evidence.verification_key) == manifest.circuit_digest, "circuit/vk.bin", "not the manifest's")
    if evidence.srs is not None:
        _demand(sha256_hex(evidence.srs) == manifest.srs_digest, "circuit/srs.bin", "not the manifest's")
    _demand(asked.manifest_digest == manifest.digest(), "request.json", "it is for another manifest")
    _demand(enrolled.manifest_digest == manifest.digest(), "enrolment.json", "it is for another manifest")
    _demand(enrolled.client_id == asked.client_id, "enrolment.json", "it is another client's")
    _demand(len(enrolled.theta) == manifest.n_chunks, "enrolment.json", "it has not one commitment per chunk")
    _demand(len(enrolled.curvature) == manifest.n_curvatures, "enrolment.json", "it has not every curvature factor")

    curvature_within = _within("enrolment.json", lambda record: curvature_distance(manifest, record), enrolled)

    pre = list(enrolled.theta)
    for number, data in enumerate(evidence.earlier):
        name = f"earlier/{number:04d}.json"
        earlier = response_in(name, data).record
        _demand(earlier.request_id != asked.request_id, name, "it answers this very request")
        for commitment in earlier.commitments:
            pre[commitment.chunk] = commitment.theta
    pre_root = commitment_root(list(enumerate(pre)))
    _demand(pre_root == asked.pre_root, "request.json", "it starts from other commitments than the client made")

    if asked.enrolment_digest is not None:
        _demand(asked.enrolment_digest == enrolment.digest, "enrolment.json", "the request names another enrolment")

    instance = _within("request.json", lambda record: Instance(manifest, record), asked)
    touched = instance.touched
    _within("request.json", lambda audit: check_audit(audit, len(touched)), asked.audit)
    post = list(pre)
    post_root: str | None = None
    drawn: tuple[int, ...] = ()
    response: Sealed[UnlearnResponse] | None = None
    if evidence.response is not None:
        response = response_in("response.json", evidence.response)
        answer = response.record
        _demand(answer.request_id == asked.request_id, "response.json", "it answers another request")
        _demand(answer.nonce == asked.nonce, "response.json", "it does not carry the request's nonce")
        numbers = tuple(commitment.chunk for commitment in answer.commitments)
        _demand(numbers == touched, "response.json", "its chunks are not those the mask touches")
        for commitment in answer.commitments:
            post[commitment.chunk] = commitment.theta
        post_root = commitment_root(list(enumerate(post)))
        drawn = draw(asked.audit, audit_seed, answer.root, touched)
    elif evidence.proofs:
        raise ReceiptError("the receipt has proofs but no response.json")
    strange = sorted(set(evidence.proofs) - set(drawn))
    if strange:
        raise ReceiptError(f"proofs/{strange[0]}.bin is wrong", why="this chunk was not to be proved")
    facts = Facts(
        request_id=asked.request_id,
        client_id=asked.client_id,
        federation=enrolled.federation,
        manifest_digest=asked.manifest_digest,
        model=manifest.model,
        profile=manifest.profile,
        circuit_digest=manifest.circuit_digest,
        settings_digest=manifest.settings_digest,
        srs_digest=manifest.srs_digest,
        srs_origin=manifest.srs_origin,
        freivalds=manifest.statement.freivalds,
        operator=asked.operator,
        mask_digest=mask_digest(asked.mask),
        guard_digest=guard_digest(asked.guards),
        tau_s=asked.tau_s,
        tau_g=asked.tau_g,
        forget_digest=asked.forget_digest,
        requested_at=asked.issued_at,
        pre_root=pre_root,
        post_root=post_root,
        audit_mode=asked.audit.mode,
        audit_cheating=asked.audit.cheating,
        audit_detection=asked.audit.detection,
        chunks_total=manifest.n_chunks,
        chunks_touched=len(touched),
        chunks_drawn=drawn,
        curvature_within=curvature_within,
        curvature_activations=manifest.curvature_check.statement.rows_per_chunk if manifest.curvature_check else 0,
        enrolment_revision=None if asked.enrolment_digest is None else enrolled.revision,
        attempts=asked.attempts,
    )
    return Dossier(manifest, request, enrolment, response, tuple(pre), tuple(post), instance, drawn, facts)


def _within(name: str, read: Callable[[A], T], data: A) -> T:
    """Run `read`, and let its errors name the file they come from."""
    try:
        return read(data)
    except (SignatureError, FormatVersionError) as error:
        raise type(error)(f"{name}: {error.what}", why=error.why, fix=error.fix) from error
    except Error as error:
        raise ReceiptError(f"{name} is wrong: {error.what}", why=error.why) from error


def _demand(condition: bool, name: str, why: str) -> None:
    if not condition:
        raise ReceiptError(f"{name} does not belong to this receipt", why=why)
