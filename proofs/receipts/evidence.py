"""The evidence a receipt rests on, and what follows from it alone.

:func:`derive` verifies every signature and digest in the evidence and computes the :class:`Facts`. The issuer of a
receipt calls it to write the facts down; whoever checks the receipt calls it again and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from zkapex.errors import Error, FormatVersionError, ReceiptError, SignatureError
from zkapex.proofs.audit import check_audit, draw
from zkapex.proofs.backends import about
from zkapex.proofs.chunk.certificate import request_distance
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
from zkapex.proofs.messages.bounds import MAX_CHUNK_PROOF_BYTES, MAX_PROOF_BYTES
from zkapex.proofs.operators import rules
from zkapex.proofs.records.packing import guard_digest, mask_digest
from zkapex.proofs.records.record import (
    ClientId,
    Count,
    Digest,
    Name,
    Part,
    RequestId,
    Sentence,
    UtcTime,
    encode_parts,
    is_none,
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
    settings_digest: Annotated[Digest | None, Field(exclude_if=is_none)] = None
    srs_digest: Annotated[Digest | None, Field(exclude_if=is_none)] = None
    srs_origin: Annotated[Literal["local", "imported"] | None, Field(exclude_if=is_none)] = None
    freivalds: bool
    operator: Name
    mask_digest: Digest
    guard_digest: Digest
    tau_s: Tolerance
    tau_g: Tolerance
    forget_commitment: Digest
    """Commitment to what is to be forgotten, which only whoever has its random bytes can open."""
    enrolment_digest: Digest
    """SHA-256 of the signed enrolment the request starts from."""
    enrolment_revision: Count
    backend: Name
    """The proof system."""
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
    attempts: Count
    """Earlier requests to this client that were given up after their audit had been drawn; if any, this one is full."""
    review: Annotated[Sentence | None, Field(exclude_if=is_none)] = None
    """What has to be said beside the verdict, if people outside have not reviewed the proof system."""


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
    rejected : mapping of int to bytes
        Raw proofs by chunk that were refused, so that anybody can see whether rightly.
    asked : tuple of bytes
        Signed requests that `earlier` answers, one each, for backends whose proofs rest on the ones before.
    before : mapping of (int, int) to bytes
        Likewise their proofs, by number of the earlier request and chunk.
    """

    manifest: bytes
    request: bytes
    enrolment: bytes
    earlier: tuple[bytes, ...]
    response: bytes | None
    proofs: Mapping[int, bytes]
    settings: bytes | None = None
    verification_key: bytes | None = None
    srs: bytes | None = None
    rejected: Mapping[int, bytes] = field(default_factory=dict)
    asked: tuple[bytes, ...] = ()
    before: Mapping[tuple[int, int], bytes] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """Lay the evidence out as files: relative path to content, in a fixed order."""
        files = {"manifest.json": self.manifest, "request.json": self.request, "enrolment.json": self.enrolment}
        files |= {f"earlier/{number:04d}.json": data for number, data in enumerate(self.earlier)}
        if self.response is not None:
            files["response.json"] = self.response
        circuit = {"settings.json": self.settings, "vk.bin": self.verification_key, "srs.bin": self.srs}
        files |= {f"circuit/{name}": data for name, data in circuit.items() if data is not None}
        files |= {f"proofs/{chunk}.bin": self.proofs[chunk] for chunk in sorted(self.proofs)}
        files |= {f"rejected/{chunk}.bin": self.rejected[chunk] for chunk in sorted(self.rejected)}
        files |= {f"asked/{number:04d}.json": data for number, data in enumerate(self.asked)}
        files |= {
            f"before/{number:04d}x{chunk}.bin": self.before[number, chunk] for number, chunk in sorted(self.before)
        }
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
                proofs=_numbered(files, "proofs/"),
                rejected=_numbered(files, "rejected/"),
                settings=files.get("circuit/settings.json"),
                verification_key=files.get("circuit/vk.bin"),
                srs=files.get("circuit/srs.bin"),
                asked=tuple(files[path] for path in sorted(files) if path.startswith("asked/")),
                before=_before(files),
            )
        except KeyError as missing:
            raise ReceiptError(f"the receipt does not list {missing.args[0]}") from None
        strange = set(files) - set(evidence.files())
        if strange:
            raise ReceiptError(f"the receipt lists {sorted(strange)[0]}, which does not belong in a receipt")
        return evidence


def _before(files: Mapping[str, bytes]) -> dict[tuple[int, int], bytes]:
    """The files ``before/<request>x<chunk>.bin`` by both numbers."""
    found: dict[tuple[int, int], bytes] = {}
    for path, data in files.items():
        number, _, chunk = path.removeprefix("before/").removesuffix(".bin").partition("x")
        if path.startswith("before/") and number.isdecimal() and chunk.isdecimal() and len(number + chunk) < 14:
            if len(data) > MAX_PROOF_BYTES:
                raise ReceiptError(f"{path} is too large", why=f"no proof has more than {MAX_PROOF_BYTES} bytes")
            found[int(number), int(chunk)] = data
    return found


def _numbered(files: Mapping[str, bytes], folder: str) -> dict[int, bytes]:
    """The files ``<folder><chunk>.bin`` by chunk; none longer than a proof may be."""
    found: dict[int, bytes] = {}
    for path, data in files.items():
        number = path.removeprefix(folder).removesuffix(".bin")
        if path.startswith(folder) and number.isdecimal() and len(number) < 10:
            if len(data) > MAX_PROOF_BYTES:
                raise ReceiptError(f"{path} is too long for a proof", why=f"{len(data)} bytes")
            found[int(number)] = data
    return found


def advance(theta: Sequence[str], response: UnlearnResponse) -> tuple[str, ...]:
    """The commitments of all chunks after a response, from those before it."""
    after = list(theta)
    for commitment in response.commitments:
        after[commitment.chunk] = commitment.theta
    return tuple(after)


@dataclass(frozen=True)
class Link:
    """An earlier request that was proved, with the commitments (hex) of all chunks before and after it."""

    instance: Instance
    pre: tuple[str, ...]
    post: tuple[str, ...]


@dataclass(frozen=True)
class Dossier:
    """The evidence, verified and parsed.

    `pre` and `post` are the theta commitments of all chunks (G1 points as hex) before and after, `drawn` the chunks
    that had to be proved. `post` equals `pre` if there is no response. `links` are the earlier requests that `pre` has
    come from, where proofs rest on theirs.
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
    links: tuple[Link, ...] = ()

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
        of_backend = all(len(theta) == (64 if manifest.by_layer else 128) for _, theta in pairs)
        _demand(of_backend, name, "a commitment is of another backend")
        _demand(response.record.root == commitment_root(pairs), name, "its Merkle root is not that of its commitments")
        return response

    _check_circuit(evidence, manifest)
    _demand(asked.manifest_digest == manifest.digest(), "request.json", "it is for another manifest")
    _demand(enrolled.manifest_digest == manifest.digest(), "enrolment.json", "it is for another manifest")
    _demand(enrolled.client_id == asked.client_id, "enrolment.json", "it is another client's")
    _demand(len(enrolled.theta) == manifest.n_chunks, "enrolment.json", "it has not one commitment per chunk")
    _demand(len(enrolled.curvature) == manifest.n_curvatures, "enrolment.json", "it has not every curvature factor")
    digits = 64 if manifest.by_layer else 128
    for commitment in (*enrolled.theta, *enrolled.curvature):
        _demand(len(commitment) == digits, "enrolment.json", "a commitment is of another backend")

    curvature_within = _curvature_within(manifest, enrolled)

    pre = tuple(enrolled.theta)
    links: list[Link] = []
    _demand(len(evidence.asked) == (len(evidence.earlier) if manifest.by_layer else 0), "asked", "not one per answer")
    for number, data in enumerate(evidence.earlier):
        name = f"earlier/{number:04d}.json"
        earlier = response_in(name, data).record
        _demand(earlier.request_id != asked.request_id, name, "it answers this very request")
        after = advance(pre, earlier)
        if manifest.by_layer:
            links.append(_link(evidence, number, manifest, earlier, pre, after, server_keys))
        pre = after
    _demand(set(evidence.before) == _touched_by(links), "before", "they are not the proofs of the earlier requests")
    pre_root = commitment_root(list(enumerate(pre)))
    _demand(pre_root == asked.pre_root, "request.json", "it starts from other commitments than the client made")

    if asked.enrolment_digest is not None:
        _demand(asked.enrolment_digest == enrolment.digest, "enrolment.json", "the request names another enrolment")

    instance = _within("request.json", lambda record: Instance(manifest, record), asked)
    allowed = rules(manifest.statement.kind).largest_tolerances(manifest.statement, manifest.curvature_bits)
    for name, stated, largest in (("tau_s", asked.tau_s, allowed[0]), ("tau_g", asked.tau_g, allowed[1])):
        if stated > largest:
            raise ReceiptError(
                "request.json asks for less than its operator does",
                why=f"its tolerance {name} is {stated}; honest rounding needs no more than {largest}",
            )
    touched = instance.touched
    _demand(asked.audit.mode == "full" or about(manifest.backend).samples, "request.json", "it samples layers")
    _within("request.json", lambda audit: check_audit(audit, len(touched)), asked.audit)
    post = pre
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
        post = advance(pre, answer)
        post_root = commitment_root(list(enumerate(post)))
        drawn = draw(asked.audit, audit_seed, answer.root, touched)
    elif evidence.proofs or evidence.rejected:
        raise ReceiptError("the receipt has proofs but no response.json")
    strange = sorted((set(evidence.proofs) | set(evidence.rejected)) - set(drawn))
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
        forget_commitment=asked.forget_digest,
        enrolment_digest=enrolment.digest,
        enrolment_revision=enrolled.revision,
        backend=about(manifest.backend).system,
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
        attempts=asked.attempts,
        review=about(manifest.backend).review or None,
    )
    return Dossier(manifest, request, enrolment, response, pre, post, instance, drawn, facts, tuple(links))


def _check_circuit(evidence: Evidence, manifest: ModelManifest) -> None:
    """That the circuit's files are those of the manifest: all of a chunked one, none of another."""
    for name, data, digest in (
        ("circuit/settings.json", evidence.settings, manifest.settings_digest),
        ("circuit/vk.bin", evidence.verification_key, None if manifest.by_layer else manifest.circuit_digest),
    ):
        if data is None and digest is not None:
            raise ReceiptError(f"the receipt does not list {name}")
        _demand((None if data is None else sha256_hex(data)) == digest, name, "not the manifest's")
    if evidence.srs is not None:
        _demand(sha256_hex(evidence.srs) == manifest.srs_digest, "circuit/srs.bin", "not the manifest's")
    largest = MAX_PROOF_BYTES if manifest.by_layer else MAX_CHUNK_PROOF_BYTES
    for chunk, proof in (*evidence.proofs.items(), *evidence.rejected.items()):
        if len(proof) > largest:
            raise ReceiptError(f"the proof of chunk {chunk} is too large", why=f"at most {largest} bytes")


def _curvature_within(manifest: ModelManifest, enrolled: Enrolment) -> float | None:
    """`Facts.curvature_within`; and that the enrolment comes with the proofs that the manifest asks for."""
    _demand(
        len(enrolled.state_proofs) == (manifest.n_chunks if manifest.by_layer else 0),
        "enrolment.json",
        "it has not every proof about its states, or such as do not belong there",
    )
    if manifest.by_layer:
        from zkapex.proofs.layer.moment import moment_distance

        _demand(not enrolled.curvature_proofs, "enrolment.json", "it has proofs of another backend")
        return _within("enrolment.json", lambda record: moment_distance(manifest, record), enrolled)
    from zkapex.proofs.chunk.enrolled import curvature_distance

    _demand(not enrolled.moments, "enrolment.json", "it says of its curvature what another backend proves")

    return _within("enrolment.json", lambda record: curvature_distance(manifest, record), enrolled)


def _link(
    evidence: Evidence,
    number: int,
    manifest: ModelManifest,
    answer: UnlearnResponse,
    pre: tuple[str, ...],
    post: tuple[str, ...],
    server_keys: Collection[Ed25519PublicKey],
) -> Link:
    """An earlier request, checked to be what its answer is to, and that it starts where it has to."""
    name = f"asked/{number:04d}.json"
    asked = _within(name, lambda data: unseal(UnlearnRequest, data, server_keys), evidence.asked[number]).record
    same = (asked.request_id, asked.client_id, asked.nonce) == (answer.request_id, answer.client_id, answer.nonce)
    _demand(same, name, "it is not what was answered")
    _demand(asked.manifest_digest == manifest.digest(), name, "it is for another manifest")
    _demand(asked.pre_root == commitment_root(list(enumerate(pre))), name, "it starts from other commitments")
    instance = _within(name, lambda record: Instance(manifest, record), asked)
    numbers = tuple(commitment.chunk for commitment in answer.commitments)
    _demand(numbers == tuple(instance.touched), name, "it touches other chunks than were answered")
    _demand(asked.audit.mode == "full", name, "not all of it was to be proved")
    return Link(instance, pre, post)


def _touched_by(links: Sequence[Link]) -> set[tuple[int, int]]:
    return {(number, chunk) for number, link in enumerate(links) for chunk in link.instance.touched}


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


def forget_commitment(random: bytes, description: str) -> str:
    """The commitment that a request carries to what is to be forgotten, SHA-256 as hex.

    Parameters
    ----------
    random : bytes
        32 random bytes: without them nobody can try descriptions.
    description : str
    """
    return sha256_hex(encode_parts("zkapex:forget:v1", random, description))
