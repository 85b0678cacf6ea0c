"""The provider's side of the protocol: asks, verifies, records, and issues receipts. Talks to nodes through `Peers`.

The rules live in `zkapex.server.protocol.decide`, the memory in `zkapex.server.store.registry`; this module only
decides what to ask whom next. Each method may be called again after a crash and goes on from what the registry holds.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import RecordDict

from zkapex.errors import Error, ProtocolError, VerificationError
from zkapex.proofs.audit import sampled_audit
from zkapex.proofs.chunk.certificate import request_distance
from zkapex.proofs.chunk.commitment import Point
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.verifier import ChunkVerifier
from zkapex.proofs.messages import (
    Audit,
    Delivery,
    EvaluateReply,
    EvaluateRequest,
    Proposal,
    ProposeRequest,
    ProveRequest,
    ProveResponse,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.receipts.bundle import write_bundle
from zkapex.proofs.receipts.receipt import Outcome, issue
from zkapex.proofs.records.packing import pack_guards, pack_masks, touched_chunks
from zkapex.proofs.records.sealed import Sealed, seal, unseal
from zkapex.proofs.records.signing import public_key_from_hex
from zkapex.server.federation.roster import BLAMED, Roster, sentence
from zkapex.server.protocol.states import (
    UNDER_WAY,
    ClientStatus,
    Distributed,
    Drawn,
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
from zkapex.server.requests.costs import CostBook
from zkapex.server.requests.deletion import Deletion
from zkapex.server.store.registry import utc_now
from zkapex.transport.peers import Answer, Trouble, opened
from zkapex.transport.wire import pack, pack_arrays


@dataclass
class Coordinator:
    """Drives deletions in one federation.

    Attributes
    ----------
    roster : Roster
        Of clients that have been recognised and enrolled.
    clock : callable
        Time in UTC.
    batch : int
        Chunks asked for in one message.
    """

    roster: Roster
    clock: Callable[[], datetime] = utc_now
    batch: int = 8

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
        nodes = [node for node, client_id in self.roster.clients.items() if client_id == asked.client_id]
        if not nodes:
            raise ProtocolError(
                f"client {asked.client_id[:16]}... is to propose a mask, and no node of this run is this client",
                fix="start its device, and resume",
            )
        content = pack_arrays(weights, pack(Delivery(), {"envelope": request.envelope}))
        answer = self.roster.peers.ask("propose", {nodes[0]: content})[nodes[0]]
        if isinstance(answer, Trouble):
            raise ProtocolError(f"client {asked.client_id[:16]}... did not propose a mask", why=answer.reason)
        _, blobs = opened(answer, Delivery)
        key = public_key_from_hex(self.roster.client(asked.client_id).public_key)
        sealed = unseal(Proposal, blobs.get("envelope", b""), [key])
        for name in ("request_id", "client_id", "manifest_digest", "nonce"):
            if getattr(sealed.record, name) != getattr(asked, name):
                raise ProtocolError(f"client {asked.client_id[:16]}... answered with the proposal to another request")
        return sealed

    def open(self, deletion: Deletion) -> None:
        """Sign a request to every enrolled client that has none of this id yet and may be asked."""
        mask = pack_masks(self.roster.manifest, deletion.masks, deletion.factors)
        guards = pack_guards(self.roster.manifest, deletion.guards, deletion.steering)
        for client_id in self.roster.clients.values():
            client = self.roster.registry.client(client_id)
            if client is None or self.roster.registry.request(client_id, deletion.request_id) is not None:
                continue
            if client.status is ClientStatus.QUARANTINED or client.active is not None:
                why = "it is quarantined" if client.active is None else f"request {client.active} is under way"
                self.roster.emit("client.skipped", client=client_id, reason=why)
                continue
            audit, seed = self._audit(deletion)
            now = self.clock()
            request = UnlearnRequest(
                request_id=deletion.request_id,
                client_id=client_id,
                manifest_digest=self.roster.manifest.digest(),
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
            self.roster.registry.apply(Opened(seal(request, self.roster.key), seed))

    def distribute(self, request_id: str) -> None:
        """Send the request to every client that has not answered it, and take the signed responses."""
        contents, requests = {}, {}
        for node, request in self._under_way(request_id, RequestStatus.OPEN, RequestStatus.DISTRIBUTED).items():
            self.roster.registry.apply(Distributed(request.client_id, request_id))
            contents[node] = pack(Delivery(), {"envelope": request.sealed.envelope})
            requests[node] = request

        def on_answer(node: int, answer: Answer) -> None:
            request = requests[node]
            client = self.roster.client(request.client_id)
            try:
                if isinstance(answer, Trouble):
                    self._trouble(request, answer)
                    return
                _, blobs = opened(answer, Delivery)
                key = public_key_from_hex(client.public_key)
                response = unseal(UnlearnResponse, blobs.get("envelope", b""), [key])
                if response.record.client_id != client.client_id or response.record.request_id != request_id:
                    raise ProtocolError("the response is not this client's to this request")
                for commitment in response.record.commitments:
                    Point.from_hex(commitment.theta)
                self.roster.registry.apply(Responded(response))
                self.roster.registry.apply(Drawn(client.client_id, request_id))
            except BLAMED as e:
                self._reject(request, e)
                return
            self.roster.emit("unlearn.responded", client=client.client_id, chunks=len(request.touched))

        self.roster.peers.ask("unlearn", contents, on_answer=on_answer)

    def prove(self, request_id: str, costs: CostBook) -> None:
        """Ask for the drawn chunks batch by batch, verify each proof, and settle every client's request."""
        verifiers: dict[str, ChunkVerifier] = {}
        while True:
            contents, asked = {}, {}
            for node, request in self._under_way(request_id, RequestStatus.PROVING).items():
                chunks = request.missing[: self.batch]
                if not chunks:
                    self.roster.registry.apply(Verified(request.client_id, request_id))
                    self.roster.emit("client.proved", client=request.client_id)
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

            self.roster.peers.ask("prove", contents, on_answer=on_answer)

    def evaluate(self, request_id: str) -> dict[str, EvaluateReply]:
        """Every client's own tallies of its model before, with the mask alone, and after, by client id."""
        ask = EvaluateRequest(request_id=request_id, models=("before", "masked", "after"))
        contents = {node: pack(ask) for node in self.roster.clients}
        replies = {}
        for node, answer in self.roster.peers.ask("evaluate", contents).items():
            try:
                if isinstance(answer, Trouble):
                    raise ProtocolError("the client could not evaluate", why=answer.reason)
                reply, _ = opened(answer, EvaluateReply)
                if reply.client_id != self.roster.clients[node] or reply.request_id != request_id:
                    raise ProtocolError("the scores are another client's, or of another request")
            except BLAMED as e:
                self.roster.emit("evaluate.failed", client=self.roster.clients[node], reason=sentence(e))
                continue
            replies[reply.client_id] = reply
        return replies

    def conclude(self, request_id: str, folder: Path) -> dict[str, Path]:
        """Issue, write and deliver the receipts of all finished requests; returns their folders by client id."""
        files = {
            "settings": self.roster.circuit.settings.read_bytes(),
            "verification_key": self.roster.circuit.vk.read_bytes(),
            "srs": self.roster.circuit.srs.path.read_bytes(),
        }
        written, contents = {}, {}
        nodes = {client_id: node for node, client_id in self.roster.clients.items()}
        for request in self.roster.registry.requests(request_id):
            client_id = request.client_id
            if request.verdict is None:
                continue
            evidence = self.roster.registry.evidence(client_id, request_id, **files)
            receipt = self.roster.registry.receipt(client_id, request_id)
            if receipt is None:
                receipt = issue(evidence, self._outcome(request), self.roster.key).envelope
                self.roster.registry.apply(ReceiptIssued(client_id, request_id, receipt))
            path = folder / client_id[:16]
            write_bundle(path, receipt, evidence)
            written[client_id] = path
            if client_id in nodes:
                contents[nodes[client_id]] = pack(Delivery(), {"envelope": receipt})
            self.roster.emit("receipt.issued", client=client_id, verdict=request.verdict, path=str(path))
        self.roster.peers.ask("receipt", contents)
        return written

    def give_up_absent(self, request_id: str) -> None:
        """Close what is under way with clients that none of the nodes is."""
        present = set(self.roster.clients.values())
        for request in self.roster.registry.requests(request_id):
            if request.status in UNDER_WAY and request.client_id not in present:
                self._trouble(request, Trouble(False, "no node of this run is this client"))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _audit(self, deletion: Deletion) -> tuple[Audit, str | None]:
        """How one client will be audited, and the seed of its draw, which nobody else knows before the receipt."""
        if deletion.cheating is None:
            return Audit(), None
        seed = secrets.token_hex(32)
        touched = len(touched_chunks(self.roster.manifest, deletion.masks, deletion.steering or ()))
        return sampled_audit(touched, deletion.cheating, deletion.detect, seed), seed

    def _under_way(self, request_id: str, *states: RequestStatus) -> dict[int, Request]:
        found = {}
        for node, client_id in self.roster.clients.items():
            request = self.roster.registry.request(client_id, request_id)
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
        response, _ = opened(answer, ProveResponse)
        found = {proof.chunk: proof for proof in response.proofs}
        if set(found) != set(chunks) or response.request_id != request.request_id:
            raise ProtocolError("the reply does not hold the proofs that were asked for")
        if request.client_id not in verifiers:
            verifiers[request.client_id] = self._verifier(request)
        verifier = verifiers[request.client_id]
        for chunk, proof in found.items():
            verify_s = verifier.verify(chunk, proof.proof)
            costs.add(request.client_id, proof.prove_cpu_s, proof.peak_rss_mb, len(proof.proof), verify_s)
            self.roster.registry.apply(ProofsAccepted(request.client_id, request.request_id, {chunk: proof.proof}))
            self.roster.emit("prove.accepted", client=request.client_id, chunk=chunk)

    def _verifier(self, request: Request) -> ChunkVerifier:
        client = self.roster.client(request.client_id)
        response = request.response
        if response is None:
            raise ProtocolError("a request without a response cannot be proved")
        post = list(client.theta)
        for commitment in response.record.commitments:
            post[commitment.chunk] = commitment.theta
        instance = Instance(self.roster.manifest, request.sealed.record)
        return ChunkVerifier(self.roster.circuit, instance, client.curvature, client.theta, post)

    def _trouble(self, request: Request, trouble: Trouble) -> None:
        if trouble.reachable:
            reason = f"the client reported: {trouble.reason}"
            self.roster.registry.apply(Failed(request.client_id, request.request_id, reason))
        else:
            self.roster.registry.apply(Lost(request.client_id, request.request_id))
            self.roster.registry.apply(Failed(request.client_id, request.request_id, trouble.reason))
        self.roster.emit("client.failed", client=request.client_id, reason=trouble.reason)

    def _reject(self, request: Request, error: Error) -> None:
        reason = sentence(error)
        self.roster.registry.apply(Rejected(request.client_id, request.request_id, reason))
        cheated = isinstance(error, VerificationError)
        self.roster.emit("client.quarantined", client=request.client_id, reason=reason, verification=cheated)

    def _outcome(self, request: Request) -> Outcome:
        proved = request.verdict == "proved"
        distance = None
        if proved:
            instance = Instance(self.roster.manifest, request.sealed.record)
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
