"""The provider's side of the protocol: asks, verifies, records, and issues receipts. Talks to nodes through `Peers`.

The rules live in `zkapex.server.protocol.decide`, the memory in `zkapex.server.store.registry`; this module only
decides what to ask whom next. Each method may be called again after a crash and goes on from what the registry holds.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import RecordDict

from zkapex.errors import CommitmentError, Error, FormatVersionError, ProtocolError, SaltsSpentError, VerificationError
from zkapex.foreign import one_line
from zkapex.proofs.audit import sampled_audit
from zkapex.proofs.backends import about
from zkapex.proofs.chunk.certificate import request_distance
from zkapex.proofs.chunk.demands import Demands, require_kept
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.jobs.claim import Claim
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
from zkapex.proofs.receipts.archive import pack_archive
from zkapex.proofs.receipts.bundle import RECEIPT_FILE, read_files, write_bundle
from zkapex.proofs.receipts.receipt import Outcome, Software, issue
from zkapex.proofs.records.packing import pack_guards, pack_masks, touched_chunks
from zkapex.proofs.records.sealed import Sealed, seal, unseal
from zkapex.proofs.records.signing import public_key_from_hex
from zkapex.server.federation.identity import sentence
from zkapex.server.federation.roster import BLAMED, Roster
from zkapex.server.protocol.states import (
    UNDER_WAY,
    Client,
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
from zkapex.server.requests.keeping import Keeper
from zkapex.server.requests.verification import Checked, ProofQueue
from zkapex.transport.peers import Answer, Trouble, opened
from zkapex.transport.wire import pack, pack_arrays

_TICK = timedelta(microseconds=1)
MAX_ARCHIVE_BYTES = 64 * 2**20
"""A device is sent the whole of its receipt up to this size, and the signed envelope alone beyond."""


def _delivered(receipt: Path) -> dict[str, bytes]:
    """What a device is sent of its receipt."""
    archive = pack_archive(read_files(receipt))
    whole = {"archive": archive} if len(archive) <= MAX_ARCHIVE_BYTES else {}
    return {"envelope": (receipt / RECEIPT_FILE).read_bytes()} | whole


@dataclass
class Coordinator:
    """Drives deletions in one federation.

    Attributes
    ----------
    roster : Roster
        Of clients that have been recognised and enrolled.
    batch : int
        Chunks asked for in one message.
    verify_workers : int
        Processes that verify proofs; 0: a thread of this process.
    keeper : Keeper, optional
        Keeps what those who check later need; without one, nothing is logged, and rejected proofs are lost.
    """

    roster: Roster
    batch: int = 8
    verify_workers: int = 0
    keeper: Keeper | None = None

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

    def open(self, deletion: Deletion, addressed: Collection[str] | None = None) -> None:
        """Sign a request to every client that has none of this id yet and may be asked.

        Parameters
        ----------
        deletion : Deletion
        addressed : collection of str, optional
            Ids of the clients the request is for; without them, those that are here.
        """
        mask = pack_masks(self.roster.manifest, deletion.masks, deletion.factors)
        guards = pack_guards(self.roster.manifest, deletion.guards, deletion.steering)
        registry = self.roster.registry
        for client_id in self.roster.clients.values() if addressed is None else sorted(addressed):
            client = registry.client(client_id)
            if client is None or registry.request(client_id, deletion.request_id) is not None:
                continue
            why = _not_now(client, present=client_id in self.roster.clients.values())
            if why:
                self.roster.emit("client.skipped", client=client_id, request=deletion.request_id, reason=why)
                continue
            audit, seed = self._audit(deletion, client)
            now = self._after_the_last(client_id)
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
                enrolment_digest=client.enrolment_digest,
                attempts=client.aborted,
            )
            demands = Demands.of(self.roster.manifest, registry.sent(client_id))
            if demands:  # the device would refuse it, and whoever checks its receipt
                require_kept(demands, Instance(self.roster.manifest, request))
            try:
                sealed = seal(request, self.roster.key)
                if self.keeper is not None:  # before anybody starts on it: what is under way cannot vanish
                    self.keeper.opened(deletion.request_id, client_id, sealed.envelope)
                registry.apply(Opened(sealed, seed))
            except CommitmentError as e:  # its curvature is younger than the mask
                self.roster.emit("client.skipped", client=client_id, request=deletion.request_id, reason=sentence(e))

    def expire(self) -> None:
        """Give up what is under way and whose time is over; nobody is blamed for that."""
        registry = self.roster.registry
        for request in registry.unfinished():
            if request.status in UNDER_WAY and registry.now() >= request.sealed.record.expires_at:
                client = self.roster.client(request.client_id)
                reason = "its time was over" + (f"; last: {client.reason}" if client.reason else "")
                self._fail(request, reason)

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
            if isinstance(answer, Trouble):
                self._trouble(request, answer)
                return
            envelope = self._envelope(request, answer)
            if envelope is None:
                return
            if self.roster.registry.now() >= request.sealed.record.expires_at:
                self._fail(request, "its answer came when its time was over")
                return
            try:
                key = public_key_from_hex(client.public_key)
                response = unseal(UnlearnResponse, envelope, [key])
                if response.record.client_id != client.client_id or response.record.request_id != request_id:
                    raise ProtocolError("the response is not this client's to this request")
                for commitment in response.record.commitments:
                    self.roster.engine.check_commitment(commitment.theta)
                self.roster.registry.apply(Responded(response))
                self.roster.registry.apply(Drawn(client.client_id, request_id))
            except FormatVersionError as e:
                self._unusable(request, e)
                return
            except BLAMED as e:
                self._reject(request, e)
                return
            self.roster.emit(
                "unlearn.responded", client=client.client_id, request=request_id, chunks=len(request.touched)
            )

        self.roster.peers.ask("unlearn", contents, on_answer=on_answer)

    def prove(self, request_id: str, costs: CostBook) -> None:
        """Ask for the drawn chunks batch by batch, and settle the requests of all clients whose proofs hold.

        Proofs are verified beside this: while some are, other clients are asked and answered.
        """
        waiting: set[str] = set()
        claims: dict[str, Claim] = {}
        with ProofQueue(self.roster.engine, self.verify_workers) as queue:
            for request in self._under_way(request_id, RequestStatus.RESPONDED).values():
                self.roster.registry.apply(Drawn(request.client_id, request_id))
            while True:
                contents, asked = {}, {}
                for node, request in self._under_way(request_id, RequestStatus.PROVING).items():
                    if request.client_id in waiting:
                        continue
                    # Of so many, at most those whose verdict is awaited are held, which leaves a batch.
                    some = self.roster.registry.missing(request.client_id, request_id, self.batch + queue.pending)
                    chunks = [chunk for chunk in some if not queue.holds(request.client_id, chunk)]
                    if not chunks:
                        continue
                    ask = ProveRequest(
                        request_id=request_id, client_id=request.client_id, chunks=tuple(chunks[: self.batch])
                    )
                    contents[node], asked[node] = pack(ask), (request, ask.chunks)
                if not contents:
                    if not queue.pending:
                        break
                    self._settle(queue.collect(wait=True), request_id, costs)
                    continue

                def on_answer(
                    node: int, answer: Answer, asked: Mapping[int, tuple[Request, Sequence[int]]] = asked
                ) -> None:
                    request, chunks = asked[node]
                    if isinstance(answer, Trouble):
                        self._trouble(request, answer)
                        waiting.add(request.client_id)
                    elif not self._take_proofs(request, chunks, answer, queue, claims):
                        waiting.add(request.client_id)
                    self._settle(queue.collect(), request_id, costs)

                self.roster.peers.ask("prove", contents, on_answer=on_answer)
            for request in self._under_way(request_id, RequestStatus.PROVING).values():
                self._verified(request)  # whose last proof was accepted just before the server was killed

    def evaluate(self, request_id: str, known: Collection[str] = ()) -> dict[str, EvaluateReply]:
        """Clients' own tallies of their models before, with the mask alone, and after, by client id.

        Parameters
        ----------
        known : collection of str
            Ids of clients that have told already.
        """
        ask = EvaluateRequest(request_id=request_id, models=("before", "masked", "after"))
        contents = {
            node: pack(ask)
            for node, client_id in self.roster.clients.items()
            if client_id not in known
            and (request := self.roster.registry.request(client_id, request_id)) is not None
            and request.response is not None
        }
        replies = {}
        for node, answer in self.roster.peers.ask("evaluate", contents).items():
            try:
                if isinstance(answer, Trouble):
                    raise ProtocolError("the client could not evaluate", why=answer.reason)
                reply, _ = opened(answer, EvaluateReply)
                if reply.client_id != self.roster.clients[node] or reply.request_id != request_id:
                    raise ProtocolError("the scores are another client's, or of another request")
            except BLAMED as e:
                self.roster.emit(
                    "evaluate.failed", client=self.roster.clients[node], request=request_id, reason=sentence(e)
                )
                continue
            replies[reply.client_id] = reply
        return replies

    def conclude(self, request_id: str, folder: Path) -> dict[str, Path]:
        """Issue and write the receipts of all clients whose part in a request is over; their folders by client id."""
        files, linked = self.roster.engine.files(), self.roster.manifest.by_layer
        written = {}
        for request in self.roster.registry.requests(request_id):
            client_id = request.client_id
            if request.verdict is None:
                continue
            path = written[client_id] = folder / client_id[:16]
            if request.status is RequestStatus.RECEIPTED and (path / RECEIPT_FILE).exists():
                continue
            evidence = self.roster.registry.evidence(client_id, request_id, linked=linked, **files)
            if self.keeper is not None and request.verdict == "failed":
                kept = self.keeper.rejected(request_id, client_id)
                evidence = replace(evidence, rejected={c: kept[c] for c in request.drawn if c in kept})
            receipt = self.roster.registry.receipt(client_id, request_id)
            if receipt is None:
                receipt = issue(evidence, self._outcome(request), self.roster.key).envelope
                self.roster.registry.apply(ReceiptIssued(client_id, request_id, receipt))
            write_bundle(path, receipt, evidence)
            if self.keeper is not None:
                self.keeper.accompany(path, request_id, client_id, receipt)
            self.roster.emit(
                "receipt.issued", client=client_id, request=request_id, verdict=request.verdict, path=str(path)
            )
        return written

    def deliver(self, receipts: Mapping[str, Path]) -> set[str]:
        """Send clients their receipts, given as folders by client id; returns those that have taken theirs."""
        nodes = {client_id: node for node, client_id in self.roster.clients.items() if client_id in receipts}
        contents = {node: pack(Delivery(), _delivered(receipts[client_id])) for client_id, node in nodes.items()}
        answers = self.roster.peers.ask("receipt", contents)
        return {client_id for client_id, node in nodes.items() if not isinstance(answers[node], Trouble)}

    def miss_absent(self, request_id: str) -> None:
        """Note of the clients that none of the nodes is that they are away; they may come back."""
        present = set(self.roster.clients.values())
        for request in self.roster.registry.requests(request_id):
            if request.status in UNDER_WAY and request.client_id not in present:
                self._trouble(request, Trouble(False, "no node of this run is this client"))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _after_the_last(self, client_id: str) -> datetime:
        """The time, or the first moment after a client's last request, should the clock have been set back since.

        Whoever follows a chain of receipts goes by when their requests were issued.
        """
        last, now = self.roster.registry.last_issued(client_id), self.roster.registry.now()
        return now if last is None else max(now, last + _TICK)

    def _audit(self, deletion: Deletion, client: Client) -> tuple[Audit, str | None]:
        """How one client will be audited, and the seed of its draw, which nobody else knows before the receipt.

        A client that was drawn before and did not prove it has to prove everything.
        """
        if deletion.cheating is None or client.aborted:
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

    def _envelope(self, request: Request, answer: RecordDict) -> bytes | None:
        """The signed envelope in an answer; None if the answer is none, for which nobody is blamed."""
        try:
            _, blobs = opened(answer, Delivery)
        except (ProtocolError, FormatVersionError) as e:
            self._unusable(request, e)
            return None
        return blobs.get("envelope", b"")

    def _take_proofs(
        self,
        request: Request,
        chunks: Sequence[int],
        answer: RecordDict,
        queue: ProofQueue,
        claims: dict[str, Claim],
    ) -> bool:
        """Queue the proofs in an answer; False if there are none to be had from this client now.

        `claims` are what clients' proofs are verified against, made with the first proof of each.
        """
        try:
            response, _ = opened(answer, ProveResponse)
        except (ProtocolError, FormatVersionError) as e:
            self._unusable(request, e)
            return False
        found = {proof.chunk: proof for proof in response.proofs}
        if set(found) != set(chunks) or response.request_id != request.request_id:
            self._reject(request, ProtocolError("the reply does not hold the proofs that were asked for"))
            return False
        if request.client_id not in claims:
            claims[request.client_id] = self._claim(request)
        for chunk, proof in found.items():
            queue.put(request.client_id, claims[request.client_id], chunk, proof)
        return True

    def _settle(self, checked: Iterable[Checked], request_id: str, costs: CostBook) -> None:
        """Store what was verified, and what was not."""
        for one in checked:
            request = self.roster.registry.request(one.client_id, request_id)
            if request is None or request.status is not RequestStatus.PROVING:
                continue  # an earlier proof of the same client was wrong
            if one.error is not None:
                if not isinstance(one.error, BLAMED):
                    raise one.error
                if self.keeper is not None and isinstance(one.error, VerificationError):
                    self.keeper.reject(request_id, one.client_id, one.proof.chunk, one.proof.proof)
                self._reject(request, one.error)
                continue
            proof = one.proof
            costs.add(one.client_id, proof.prove_cpu_s, proof.peak_rss_mb, len(proof.proof), one.cpu_s)
            try:
                accepted = ProofsAccepted(one.client_id, request_id, {proof.chunk: proof.proof})
                after = self.roster.registry.apply(accepted).request
            except BLAMED as e:
                self._reject(request, e)
                continue
            self.roster.emit("prove.accepted", client=one.client_id, request=request_id, chunk=proof.chunk)
            if after is not None:
                self._verified(after)

    def _verified(self, request: Request) -> None:
        """Close a request of which everything that had to be is proved."""
        if request.status is RequestStatus.PROVING and request.complete:
            self.roster.registry.apply(Verified(request.client_id, request.request_id))
            self.roster.emit("client.proved", client=request.client_id, request=request.request_id)

    def _claim(self, request: Request) -> Claim:
        client = self.roster.client(request.client_id)
        response = request.response
        if response is None:
            raise ProtocolError("a request without a response cannot be proved")
        post = list(client.theta)
        for commitment in response.record.commitments:
            post[commitment.chunk] = commitment.theta
        return Claim(
            self.roster.manifest, request.sealed.record, tuple(client.curvature), tuple(client.theta), tuple(post)
        )

    def _trouble(self, request: Request, trouble: Trouble) -> None:
        """What becomes of a request whose client gave no answer, or said that it cannot.

        Before the audit is drawn a client that says so is taken at its word. Afterwards it is asked again until the
        request's time is over, but for spent salts, which do not come back.
        """
        drawn = request.status is RequestStatus.PROVING
        final = SaltsSpentError.SENTENCE in trouble.reason or not drawn
        if trouble.reachable and not trouble.for_now and final:
            self._fail(request, f"the client reported: {trouble.reason}")
            return
        reason = f"the client reported: {trouble.reason}" if trouble.reachable else trouble.reason
        self._lose(request, reason)

    def _unusable(self, request: Request, error: Error) -> None:
        """An answer that cannot be read: of another release, or cut on the way. Nobody is blamed."""
        self._lose(request, f"its answer could not be read: {sentence(error)}")

    def _lose(self, request: Request, reason: str) -> None:
        self.roster.registry.apply(Lost(request.client_id, request.request_id, reason[:1000]))
        self.roster.emit("client.lost", client=request.client_id, request=request.request_id, reason=reason[:1000])

    def _fail(self, request: Request, reason: str) -> None:
        self.roster.registry.apply(Failed(request.client_id, request.request_id, reason[:1000]))
        self.roster.emit("client.failed", client=request.client_id, request=request.request_id, reason=reason[:1000])

    def _reject(self, request: Request, error: Error) -> None:
        reason = sentence(error)
        self.roster.registry.apply(Rejected(request.client_id, request.request_id, reason))
        cheated = isinstance(error, VerificationError)
        self.roster.emit(
            "client.quarantined", client=request.client_id, request=request.request_id, reason=reason,
            verification=cheated,
        )  # fmt: skip

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
            reasons=() if proved else (one_line(request.reason, 1000) or "no reason given",),
            chunks_proved=len(request.proofs),
            certified_distance=distance,
            audit_seed=request.audit_seed,
            # A clock that was set back does not make a receipt older than its request.
            issued_at=max(self.roster.registry.now(), request.sealed.record.issued_at),
            software=Software(prover=about(self.roster.manifest.backend).software),
            log=None if self.keeper is None or self.keeper.log is None else str(self.keeper.log.verifier),
        )


def _not_now(client: Client, *, present: bool) -> str:
    """Why a client cannot be asked now, or nothing."""
    if client.status is ClientStatus.QUARANTINED:
        return "it is quarantined"
    if client.active is not None:
        return f"request {client.active} is under way"
    if client.stale:
        return f"it has to enrol again: {client.stale}"
    return "" if present else "it is away"
