"""The provider's side of the protocol: asks, verifies, records, and issues receipts. Talks to nodes through `Peers`.

The rules live in `zkapex.server.protocol`, the memory in `zkapex.server.registry`; this module only decides what to ask
whom next. Each method may be called again after a crash and goes on from what the registry holds.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict

from zkapex.circuits.store import Circuit
from zkapex.errors import Error, FormatVersionError, ProtocolError, SaltsSpentError, VerificationError
from zkapex.proofs.audit import sampled_audit
from zkapex.proofs.bundle import write_bundle
from zkapex.proofs.certificate import request_distance
from zkapex.proofs.commitment import Point
from zkapex.proofs.enrolled import curvature_distance, verify_enrolment
from zkapex.proofs.instance import Instance
from zkapex.proofs.messages import (
    Audit,
    Delivery,
    Enrolment,
    EnrolRequest,
    EvaluateReply,
    EvaluateRequest,
    ModelManifest,
    PersonaliseReply,
    PersonaliseRequest,
    Proposal,
    ProposeRequest,
    ProveRequest,
    ProveResponse,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.packing import pack_guards, pack_masks, touched_chunks
from zkapex.proofs.receipt import Outcome, issue
from zkapex.proofs.record import arrays_digest
from zkapex.proofs.sealed import Sealed, seal, unseal, unseal_enrolment
from zkapex.proofs.signing import (
    CHALLENGE_BYTES,
    CHALLENGE_TYPE,
    Envelope,
    public_key_from_hex,
    public_key_hex,
    verify,
)
from zkapex.proofs.verifier import ChunkVerifier
from zkapex.server.costs import CostBook
from zkapex.server.peers import Answer, Peers, Trouble
from zkapex.server.registry import Registry, utc_now
from zkapex.server.states import (
    UNDER_WAY,
    Client,
    ClientStatus,
    Distributed,
    Drawn,
    Enrolled,
    Failed,
    Lost,
    Opened,
    ProofsAccepted,
    ReceiptIssued,
    Rejected,
    Request,
    RequestStatus,
    Responded,
    Verified,
)
from zkapex.wire import pack, pack_arrays, unpack

MAX_REPLY_BYTES = 256 * 2**20
BLAMED = (ProtocolError, VerificationError, FormatVersionError)
"""What a client's answer can be wrong with. Other errors, a full disk say, are the server's own and stop the run."""
Emit = Callable[..., None]


@dataclass(frozen=True)
class Deletion:
    """What is asked of every client.

    Attributes
    ----------
    request_id : str
    masks : mapping of str to bool [rows, cols]
    guards : mapping of (layer, block) to int16 [B, r]
    steering : mapping of (layer, block) to int16 [n, r]
        Along the guards, in units of the statement's ``guard_limit``, of the n rows with a masked weight in the block.
    operator : str
    tau_s, tau_g : int
        Tolerances.
    forget_digest : str
    lifetime : timedelta
        How long clients may take to answer.
    cheating : float or None
        Fraction of its touched chunks, one at least, that a cheat is assumed to leave undone; each client must then
        prove a random sample of its chunks, just large enough to find such a cheat out. None has all chunks proved.
    detect : float
        Probability with which the sample is to find it out.
    factors : mapping of str to int64 [rows, cols], optional
        For dampening, in units of ``1 / FACTOR_UNIT``.
    """

    request_id: str
    masks: Mapping[str, npt.NDArray[np.bool_]]
    guards: Mapping[tuple[str, int], npt.NDArray[np.int16]]
    operator: str
    tau_s: int
    tau_g: int
    forget_digest: str
    lifetime: timedelta = timedelta(days=7)
    cheating: float | None = None
    detect: float = 0.99
    factors: Mapping[str, npt.NDArray[np.int64]] | None = None
    steering: Mapping[tuple[str, int], npt.NDArray[np.int16]] | None = None


@dataclass
class Coordinator:
    """Drives one federation.

    Attributes
    ----------
    peers : Peers
    registry : Registry
    key : Ed25519PrivateKey
        Signs requests and receipts.
    circuit : Circuit
    manifest : ModelManifest
    emit : callable
        Progress events, ``emit(name, **fields)``.
    clock : callable
        Time in UTC.
    batch : int
        Chunks asked for in one message.
    check_circuit : Circuit, optional
        Of the manifest's curvature check, if it has one.
    """

    peers: Peers
    registry: Registry
    key: Ed25519PrivateKey
    circuit: Circuit
    manifest: ModelManifest
    emit: Emit
    clock: Callable[[], datetime] = utc_now
    batch: int = 8
    check_circuit: Circuit | None = None
    clients: dict[int, str] = field(default_factory=dict)
    """Client id by node, once enrolled in this run."""
    turned_away: dict[int, str] = field(default_factory=dict)
    """Why a node did not become a client, by node: the first thing that went wrong in this run."""
    away: set[int] = field(default_factory=set)
    """Nodes that were not heard from when the run started. They may be clients, so they are not enrolled anew."""

    def recognise(self) -> None:
        """Learn which nodes are clients that enrolled before, in this or an earlier run.

        An enrolment that the registry does not hold, because the server was killed before it could store it, is taken
        now: the device's signature under a fresh challenge stands for the nonce that is lost.
        """
        self.registry.add_manifest(self.manifest)
        challenges = {node: secrets.token_bytes(CHALLENGE_BYTES) for node in self.peers.nodes()}
        contents = {node: pack(Delivery(), {"challenge": challenge}) for node, challenge in challenges.items()}
        for node, answer in self.peers.ask("identify", contents).items():
            if isinstance(answer, Trouble):
                if not answer.reachable:
                    self.away.add(node)
                    self.turned_away[node] = f"identify: {answer.reason}"
                    self.emit("client.away", node=str(node), reason=answer.reason)
                continue
            try:
                _, blobs = unpack(answer, Delivery, MAX_REPLY_BYTES)
                if blobs:  # else it has not enrolled yet
                    self._admit(node, self._identified(blobs, challenges[node]))
            except BLAMED as e:
                self._turn_away("identify", node, e)

    def _identified(self, blobs: Mapping[str, bytes], challenge: bytes) -> Sealed[Enrolment]:
        sealed = unseal_enrolment(blobs.get("envelope", b""))
        key = public_key_from_hex(sealed.record.public_key)
        if verify(Envelope.from_bytes(blobs.get("challenge", b"")), CHALLENGE_TYPE, [key]) != challenge:
            raise ProtocolError("the client signed another challenge")
        return sealed

    def _admit(self, node: int, sealed: Sealed[Enrolment]) -> None:
        """Take the node for the client whose enrolment it has shown to be its own."""
        enrolment = sealed.record
        if any(known == enrolment.client_id and other != node for other, known in self.clients.items()):
            raise ProtocolError("another node is this client already", why="two devices run with one key")
        if enrolment.manifest_digest != self.manifest.digest():
            raise ProtocolError("the enrolment is under another manifest")
        known = self.registry.client(enrolment.client_id)
        if known is None or known.enrolment_digest != sealed.digest:
            for point in (*enrolment.theta, *enrolment.curvature):
                Point.from_hex(point)
            curvature_distance(self.manifest, enrolment)
            if self.check_circuit is not None:
                verify_enrolment(self.check_circuit, self.manifest, enrolment)
            self.registry.apply(Enrolled(sealed))
        self.clients[node] = enrolment.client_id

    def personalise(
        self, weights: Mapping[str, npt.NDArray[np.float32]], epochs: int, learning_rate: float, seed: int
    ) -> None:
        """Have every node that has not enrolled fine-tune the global model on its own data."""
        contents = {}
        digest = arrays_digest(weights)
        for node in self._strangers():
            request = PersonaliseRequest(
                federation=self.registry.federation,
                epochs=epochs,
                learning_rate=learning_rate,
                seed=seed,
                weights_digest=digest,
                nonce=secrets.token_hex(32),
                server_key=public_key_hex(self.key.public_key()),
            )
            contents[node] = pack_arrays(weights, pack(Delivery(), {"envelope": seal(request, self.key).envelope}))
        done = 0

        def on_answer(node: int, answer: Answer) -> None:
            nonlocal done
            done += 1
            try:
                if isinstance(answer, Trouble):
                    raise ProtocolError("the client could not personalise", why=answer.reason)
                reply, _ = unpack(answer, PersonaliseReply, MAX_REPLY_BYTES)
            except BLAMED as e:
                self._turn_away("personalise", node, e)
                return
            self.emit(
                "personalise.done",
                client=reply.client_id,
                accuracy=reply.accuracy_after,
                done=done,
                total=len(contents),
            )

        self.peers.ask("personalise", contents, on_answer=on_answer)

    def enrol(self) -> None:
        """Have every node that has not enrolled, or whose salts are used up, commit to its weights and curvature.

        Raises
        ------
        ProtocolError
            No node enrolled.
        """
        srs = self.circuit.srs.path.read_bytes()
        contents = {}
        for node in (*self._strangers(), *self._spent()):
            request = EnrolRequest(
                federation=self.registry.federation,
                manifest=self.manifest,
                nonce=secrets.token_hex(32),
                server_key=public_key_hex(self.key.public_key()),
            )
            envelope = seal(request, self.key).envelope
            contents[node] = (request.nonce, pack(Delivery(), {"envelope": envelope, "srs": srs}))

        def on_answer(node: int, answer: Answer) -> None:
            try:
                if isinstance(answer, Trouble):
                    raise ProtocolError("the client could not enrol", why=answer.reason)
                _, blobs = unpack(answer, Delivery, MAX_REPLY_BYTES)
                sealed = unseal_enrolment(blobs.get("envelope", b""))
                if sealed.record.nonce != contents[node][0]:
                    raise ProtocolError("the enrolment does not carry the nonce it was asked for with")
                self._admit(node, sealed)
            except BLAMED as e:
                self._turn_away("enrol", node, e)
                return
            self.emit(
                "enrol.done", client=sealed.record.client_id, done=len(self.clients), total=len(self.peers.nodes())
            )

        self.peers.ask("enrol", {node: content for node, (_, content) in contents.items()}, on_answer=on_answer)
        if not self.clients:
            raise ProtocolError("no client enrolled", fix="see the enrol.failed events for each client's reason")

    def propose(
        self, request: Sealed[ProposeRequest], weights: Mapping[str, npt.NDArray[np.float32]]
    ) -> Sealed[Proposal]:
        """Have the client that a signed request names choose mask and guard; the answer is signed, and to this request.

        Raises
        ------
        ProtocolError
            No node is that client, it did not answer, or with something else.
        SignatureError
            The proposal is not signed by the client.
        """
        asked = request.record
        nodes = [node for node, client_id in self.clients.items() if client_id == asked.client_id]
        if not nodes:
            raise ProtocolError(
                f"client {asked.client_id[:16]}... is to propose a mask, and no node of this run is this client",
                fix="start its device, and resume",
            )
        content = pack_arrays(weights, pack(Delivery(), {"envelope": request.envelope}))
        answer = self.peers.ask("propose", {nodes[0]: content})[nodes[0]]
        if isinstance(answer, Trouble):
            raise ProtocolError(f"client {asked.client_id[:16]}... did not propose a mask", why=answer.reason)
        _, blobs = unpack(answer, Delivery, MAX_REPLY_BYTES)
        key = public_key_from_hex(self._client(asked.client_id).public_key)
        sealed = unseal(Proposal, blobs.get("envelope", b""), [key])
        for name in ("request_id", "client_id", "manifest_digest", "nonce"):
            if getattr(sealed.record, name) != getattr(asked, name):
                raise ProtocolError(f"client {asked.client_id[:16]}... answered with the proposal to another request")
        return sealed

    def open(self, deletion: Deletion) -> None:
        """Sign a request to every enrolled client that has none of this id yet and may be asked."""
        mask = pack_masks(self.manifest, deletion.masks, deletion.factors)
        guards = pack_guards(self.manifest, deletion.guards, deletion.steering)
        for client_id in self.clients.values():
            client = self.registry.client(client_id)
            if client is None or self.registry.request(client_id, deletion.request_id) is not None:
                continue
            if client.status is ClientStatus.QUARANTINED or client.active is not None:
                why = "it is quarantined" if client.active is None else f"request {client.active} is under way"
                self.emit("client.skipped", client=client_id, reason=why)
                continue
            audit, seed = self._audit(deletion)
            now = self.clock()
            request = UnlearnRequest(
                request_id=deletion.request_id,
                client_id=client_id,
                manifest_digest=self.manifest.digest(),
                nonce=secrets.token_hex(32),
                operator=deletion.operator,
                pre_root=client.theta_root,
                mask=mask,
                guards=guards,
                tau_s=deletion.tau_s,
                tau_g=deletion.tau_g,
                audit=audit,
                forget_digest=deletion.forget_digest,
                issued_at=now,
                expires_at=now + deletion.lifetime,
            )
            self.registry.apply(Opened(seal(request, self.key), seed))

    def distribute(self, request_id: str) -> None:
        """Send the request to every client that has not answered it, and take the signed responses."""
        contents, requests = {}, {}
        for node, request in self._under_way(request_id, RequestStatus.OPEN, RequestStatus.DISTRIBUTED).items():
            self.registry.apply(Distributed(request.client_id, request_id))
            contents[node] = pack(Delivery(), {"envelope": request.sealed.envelope})
            requests[node] = request

        def on_answer(node: int, answer: Answer) -> None:
            request = requests[node]
            client = self._client(request.client_id)
            try:
                if isinstance(answer, Trouble):
                    self._trouble(request, answer)
                    return
                _, blobs = unpack(answer, Delivery, MAX_REPLY_BYTES)
                key = public_key_from_hex(client.public_key)
                response = unseal(UnlearnResponse, blobs.get("envelope", b""), [key])
                if response.record.client_id != client.client_id or response.record.request_id != request_id:
                    raise ProtocolError("the response is not this client's to this request")
                for commitment in response.record.commitments:
                    Point.from_hex(commitment.theta)
                self.registry.apply(Responded(response))
                self.registry.apply(Drawn(client.client_id, request_id))
            except BLAMED as e:
                self._reject(request, e)
                return
            self.emit("unlearn.responded", client=client.client_id, chunks=len(request.touched))

        self.peers.ask("unlearn", contents, on_answer=on_answer)

    def prove(self, request_id: str, costs: CostBook) -> None:
        """Ask for the drawn chunks batch by batch, verify each proof, and settle every client's request."""
        verifiers: dict[str, ChunkVerifier] = {}
        while True:
            contents, asked = {}, {}
            for node, request in self._under_way(request_id, RequestStatus.PROVING).items():
                chunks = request.missing[: self.batch]
                if not chunks:
                    self.registry.apply(Verified(request.client_id, request_id))
                    self.emit("client.proved", client=request.client_id)
                    continue
                ask = ProveRequest(request_id=request_id, client_id=request.client_id, chunks=chunks)
                contents[node], asked[node] = pack(ask), (request, chunks)
            if not contents:
                return

            def on_answer(
                node: int, answer: Answer, asked: Mapping[int, tuple[Request, Sequence[int]]] = asked
            ) -> None:
                request, chunks = asked[node]
                if isinstance(answer, Trouble):
                    self._trouble(request, answer)
                    return
                try:
                    self._take_proofs(request, chunks, answer, verifiers, costs)
                except BLAMED as e:
                    self._reject(request, e)

            self.peers.ask("prove", contents, on_answer=on_answer)

    def evaluate(self, request_id: str) -> dict[str, EvaluateReply]:
        """Every client's own tallies of its model before, with the mask alone, and after, by client id."""
        ask = EvaluateRequest(request_id=request_id, models=("before", "masked", "after"))
        contents = {node: pack(ask) for node in self.clients}
        replies = {}
        for node, answer in self.peers.ask("evaluate", contents).items():
            try:
                if isinstance(answer, Trouble):
                    raise ProtocolError("the client could not evaluate", why=answer.reason)
                reply, _ = unpack(answer, EvaluateReply, MAX_REPLY_BYTES)
                if reply.client_id != self.clients[node] or reply.request_id != request_id:
                    raise ProtocolError("the scores are another client's, or of another request")
            except BLAMED as e:
                self.emit("evaluate.failed", client=self.clients[node], reason=_sentence(e))
                continue
            replies[reply.client_id] = reply
        return replies

    def conclude(self, request_id: str, folder: Path) -> dict[str, Path]:
        """Issue, write and deliver the receipts of all finished requests; returns their folders by client id."""
        files = {
            "settings": self.circuit.settings.read_bytes(),
            "verification_key": self.circuit.vk.read_bytes(),
            "srs": self.circuit.srs.path.read_bytes(),
        }
        written, contents = {}, {}
        nodes = {client_id: node for node, client_id in self.clients.items()}
        for request in self.registry.requests(request_id):
            client_id = request.client_id
            if request.verdict is None:
                continue
            evidence = self.registry.evidence(client_id, request_id, **files)
            receipt = self.registry.receipt(client_id, request_id)
            if receipt is None:
                receipt = issue(evidence, self._outcome(request), self.key).envelope
                self.registry.apply(ReceiptIssued(client_id, request_id, receipt))
            path = folder / client_id[:16]
            write_bundle(path, receipt, evidence)
            written[client_id] = path
            if client_id in nodes:
                contents[nodes[client_id]] = pack(Delivery(), {"envelope": receipt})
            self.emit("receipt.issued", client=client_id, verdict=request.verdict, path=str(path))
        self.peers.ask("receipt", contents)
        return written

    def give_up_absent(self, request_id: str) -> None:
        """Close what is under way with clients that none of the nodes is."""
        present = set(self.clients.values())
        for request in self.registry.requests(request_id):
            if request.status in UNDER_WAY and request.client_id not in present:
                self._trouble(request, Trouble(False, "no node of this run is this client"))

    def not_enrolled(self) -> dict[int, str]:
        """Nodes of this run that are no clients, and why."""
        nodes = (node for node in self.peers.nodes() if node not in self.clients)
        return {node: self.turned_away.get(node, "it was not asked") for node in nodes}

    # -- inside -------------------------------------------------------------------------------------------------------

    def _turn_away(self, step: str, node: int, error: Error) -> None:
        self.turned_away.setdefault(node, f"{step}: {_sentence(error)}")
        self.emit(f"{step}.failed", node=str(node), reason=_sentence(error))

    def _strangers(self) -> list[int]:
        return [node for node in self.peers.nodes() if node not in self.clients and node not in self.away]

    def _spent(self) -> list[int]:
        """Nodes whose last request failed because their commitments cannot be opened again."""
        found = []
        for node, client_id in self.clients.items():
            client = self._client(client_id)
            if client.status is ClientStatus.FAILED and SaltsSpentError.SENTENCE in client.reason:
                found.append(node)
        return found

    def _audit(self, deletion: Deletion) -> tuple[Audit, str | None]:
        """How one client will be audited, and the seed of its draw, which nobody else knows before the receipt."""
        if deletion.cheating is None:
            return Audit(), None
        seed = secrets.token_hex(32)
        touched = len(touched_chunks(self.manifest, deletion.masks))
        return sampled_audit(touched, deletion.cheating, deletion.detect, seed), seed

    def _under_way(self, request_id: str, *states: RequestStatus) -> dict[int, Request]:
        found = {}
        for node, client_id in self.clients.items():
            request = self.registry.request(client_id, request_id)
            if request is not None and request.status in states:
                found[node] = request
        return found

    def _take_proofs(
        self,
        request: Request,
        chunks: Sequence[int],
        answer: RecordDict,
        verifiers: dict[str, ChunkVerifier],
        costs: CostBook,
    ) -> None:
        response, _ = unpack(answer, ProveResponse, MAX_REPLY_BYTES)
        found = {proof.chunk: proof for proof in response.proofs}
        if set(found) != set(chunks) or response.request_id != request.request_id:
            raise ProtocolError("the reply does not hold the proofs that were asked for")
        if request.client_id not in verifiers:
            verifiers[request.client_id] = self._verifier(request)
        verifier = verifiers[request.client_id]
        for chunk, proof in found.items():
            verify_s = verifier.verify(chunk, proof.proof)
            costs.add(request.client_id, proof.prove_cpu_s, proof.peak_rss_mb, len(proof.proof), verify_s)
            self.registry.apply(ProofsAccepted(request.client_id, request.request_id, {chunk: proof.proof}))
            self.emit("prove.accepted", client=request.client_id, chunk=chunk)

    def _verifier(self, request: Request) -> ChunkVerifier:
        client = self._client(request.client_id)
        response = request.response
        if response is None:
            raise ProtocolError("a request without a response cannot be proved")
        post = list(client.theta)
        for commitment in response.record.commitments:
            post[commitment.chunk] = commitment.theta
        instance = Instance(self.manifest, request.sealed.record)
        return ChunkVerifier(self.circuit, instance, client.curvature, client.theta, post)

    def _trouble(self, request: Request, trouble: Trouble) -> None:
        if trouble.reachable:
            reason = f"the client reported: {trouble.reason}"
            self.registry.apply(Failed(request.client_id, request.request_id, reason))
        else:
            self.registry.apply(Lost(request.client_id, request.request_id))
            self.registry.apply(Failed(request.client_id, request.request_id, trouble.reason))
        self.emit("client.failed", client=request.client_id, reason=trouble.reason)

    def _reject(self, request: Request, error: Error) -> None:
        reason = _sentence(error)
        self.registry.apply(Rejected(request.client_id, request.request_id, reason))
        cheated = isinstance(error, VerificationError)
        self.emit("client.quarantined", client=request.client_id, reason=reason, verification=cheated)

    def _outcome(self, request: Request) -> Outcome:
        proved = request.verdict == "proved"
        distance = None
        if proved:
            instance = Instance(self.manifest, request.sealed.record)
            distance = request_distance(instance, request.drawn)
        verdict = request.verdict
        if verdict not in ("proved", "failed", "unreachable"):
            raise ProtocolError(f"request {request.request_id} is not finished")
        return Outcome(
            verdict=verdict,  # type: ignore[arg-type]
            reasons=() if proved else (request.reason,),
            chunks_proved=len(request.proofs),
            certified_distance=distance,
            audit_seed=request.audit_seed,
            issued_at=self.clock(),
        )

    def _client(self, client_id: str) -> Client:
        client = self.registry.client(client_id)
        if client is None:
            raise ProtocolError(f"client {client_id[:16]}... is not in the registry")
        return client


def _sentence(error: Error) -> str:
    text = f"{error.what} ({error.why})" if error.why else error.what
    return " ".join(text.split())[:1000]
