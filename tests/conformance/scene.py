"""A receipt that can be changed anywhere and signed again, by whoever should or should not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from conformance import ROOT
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tiny import SRS_FILE
from world import NOW, WORLDS, Work, World, private_key, respond

from zkapex.proofs.chunk.certificate import request_distance
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.prove import leading_points, prove_chunk
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import Enrolment, ModelManifest, UnlearnRequest, UnlearnResponse
from zkapex.proofs.receipts.bundle import write_bundle
from zkapex.proofs.receipts.evidence import Evidence, derive
from zkapex.proofs.receipts.receipt import check_outcome
from zkapex.proofs.receipts.v1 import FileEntry, StatementV1, state
from zkapex.proofs.receipts.v1 import OutcomeV1 as Outcome
from zkapex.proofs.records.record import Record, sha256_hex
from zkapex.proofs.records.sealed import seal
from zkapex.proofs.records.signing import Envelope, public_key_hex, sign


@dataclass(frozen=True)
class Scene:
    """The records of a receipt before they are signed, and its raw files.

    `signers` says whose key signs which record, where it is not the one that should.
    """

    manifest: ModelManifest
    enrolment: Enrolment
    request: UnlearnRequest
    response: UnlearnResponse | None
    proofs: Mapping[int, bytes]
    outcome: Outcome
    settings: bytes
    verification_key: bytes
    srs: bytes | None
    earlier: tuple[UnlearnResponse, ...] = ()
    signers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def prove(cls, world: World) -> Scene:
        """An honest client's receipt, with new proofs."""
        work = world.work("a")
        return cls.of(world, work, {c: _prove(work, c) for c in work.touched})

    @classmethod
    def of(cls, world: World, work: Work, proofs: Mapping[int, bytes]) -> Scene:
        """The receipt of a client that did this work and proved these chunks."""
        outcome = Outcome(
            verdict="proved",
            chunks_proved=len(proofs),
            certified_distance=request_distance(work.instance, work.touched),
            issued_at=NOW + timedelta(minutes=5),
        )
        files = (world.circuit.settings.read_bytes(), world.circuit.vk.read_bytes(), SRS_FILE.read_bytes())
        return cls(
            world.manifest, world.enrolment("a"), work.instance.request, work.response(), proofs, outcome, *files
        )

    @classmethod
    def base(cls, name: str = "guarded_group_obs") -> Scene:
        """The honest receipt of a world, with the proofs that are in its committed case."""
        world = WORLDS[name]
        proofs = {int(p.stem): p.read_bytes() for p in (ROOT / name / "proofs").iterdir()}
        return cls.of(world, world.work("a"), proofs)

    @property
    def answer(self) -> UnlearnResponse:
        """The response, of a client that gave one."""
        assert self.response is not None
        return self.response

    def change(self, **fields: Any) -> Scene:
        """Other values for whole parts of the scene."""
        return replace(self, **fields)

    def amend(self, part: str, **fields: Any) -> Scene:
        """Other values for fields of one record, unchecked."""
        return self.change(**{part: getattr(self, part).model_copy(update=fields)})

    def with_proof(self, chunk: int, proof: bytes) -> Scene:
        return self.change(proofs={**self.proofs, chunk: proof})

    def announced(self, chunk: int, proof: bytes) -> Scene:
        """With this proof, and whatever weights it is about announced by the client."""
        points = {c.chunk: c.theta for c in self.answer.commitments}
        points[chunk] = leading_points(self.manifest.statement, proof)["theta_u"].hex()
        return self.with_proof(chunk, proof).change(response=respond(self.request, points))

    def enrolled(self, theta: Mapping[int, str], curvature: Mapping[int, str]) -> Scene:
        """With other commitments enrolled, and the request starting from them."""
        before = [theta.get(i, point) for i, point in enumerate(self.enrolment.theta)]
        factors = [curvature.get(i, point) for i, point in enumerate(self.enrolment.curvature)]
        scene = self.amend("enrolment", theta=tuple(before), curvature=tuple(factors))
        return scene.amend("request", pre_root=commitment_root(list(enumerate(before))))

    def rooted(self, **fields: Any) -> Scene:
        """With another manifest, and everything that names it following suit."""
        scene = self.amend("manifest", **fields)
        name = scene.manifest.digest()
        return scene.amend("request", manifest_digest=name).amend("enrolment", manifest_digest=name)

    def distance(self) -> float | None:
        """The certified distance the request has, over the chunks that are proved."""
        return request_distance(Instance(self.manifest, self.request), sorted(self.proofs))

    def evidence(self) -> Evidence:
        def sealed(part: str, record: Record, owner: str) -> bytes:
            return seal(record, private_key(self.signers.get(part, owner))).envelope

        return Evidence(
            manifest=self.manifest.to_bytes(),
            request=sealed("request", self.request, "provider"),
            enrolment=sealed("enrolment", self.enrolment, "a"),
            earlier=tuple(sealed("earlier", r, "a") for r in self.earlier),
            response=None if self.response is None else sealed("response", self.response, "a"),
            proofs=self.proofs,
            settings=self.settings,
            verification_key=self.verification_key,
            srs=self.srs,
        )

    def write(self, folder: Path) -> None:
        """Issue the receipt as the provider would: refuses what contradicts itself."""
        evidence = self.evidence()
        key = private_key(self.signers.get("receipt", "provider"))
        write_bundle(folder, _signed(_issue(evidence, self.outcome, key), key), evidence)

    def write_unchecked(self, folder: Path, honest: Scene, **predicate: Any) -> None:
        """Sign what `honest` says, with this scene's files and outcome and whatever else is given, unchecked."""
        evidence = self.evidence()
        key = private_key(self.signers.get("receipt", "provider"))
        said = _issue(honest.evidence(), honest.outcome, private_key("provider"))
        files = tuple(FileEntry(path=p, size=len(d), sha256=sha256_hex(d)) for p, d in evidence.files().items())
        changes = {"files": files, "outcome": self.outcome, **predicate}
        statement = said.model_copy(update={"predicate": said.predicate.model_copy(update=changes)})
        write_bundle(folder, _signed(statement, key), evidence)


def _issue(evidence: Evidence, outcome: Outcome, key: Ed25519PrivateKey) -> StatementV1:
    """What a provider of the release that wrote version 1 would have signed: nothing that contradicts itself."""
    dossier = derive(evidence, outcome.audit_seed, [key.public_key()])
    check_outcome(dossier, evidence, outcome)
    return state(dossier, outcome, evidence, public_key_hex(key.public_key()))


def _signed(statement: StatementV1, key: Ed25519PrivateKey) -> bytes:
    return sign(statement.to_bytes(), StatementV1.payload_type(), key).to_bytes()


def payload(folder: Path, name: str) -> bytes:
    """What is signed in one of a receipt's files."""
    return Envelope.from_bytes((folder / name).read_bytes()).payload


def _prove(work: Work, chunk: int) -> bytes:
    return prove_chunk(work.circuit, work.instance.public(chunk), work.change.witness(work.held, chunk))
