"""Asks for proofs, has them verified beside that, and settles the requests of all clients whose proofs hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import RecordDict

from zkapex.errors import FormatVersionError, ProtocolError, VerificationError
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.messages import ProveRequest, ProveResponse
from zkapex.server.federation.roster import BLAMED, Roster
from zkapex.server.protocol.states import Drawn, ProofsAccepted, Request, RequestStatus, Verified
from zkapex.server.requests.costs import CostBook
from zkapex.server.requests.keeping import Keeper
from zkapex.server.requests.parts import Parts
from zkapex.server.requests.verification import Checked, ProofQueue
from zkapex.transport.peers import Answer, Trouble, opened
from zkapex.transport.wire import pack


@dataclass(frozen=True)
class Proving:
    """Takes proofs from the clients of a roster.

    Attributes
    ----------
    roster : Roster
    batch : int
        Chunks asked for in one message.
    workers : int
        Processes that verify proofs; 0: a thread of this process.
    keeper : Keeper or None
        Keeps rejected proofs.
    """

    roster: Roster
    batch: int
    workers: int
    keeper: Keeper | None

    @property
    def parts(self) -> Parts:
        """Of the same clients."""
        return Parts(self.roster)

    def prove(self, request_id: str, costs: CostBook) -> None:
        """Ask for the drawn chunks batch by batch, and settle the requests of all clients whose proofs hold.

        Proofs are verified beside this: while some are, other clients are asked and answered.
        """
        waiting: set[str] = set()
        claims: dict[str, Claim] = {}
        with ProofQueue(self.roster.engine, self.workers) as queue:
            for request in self.parts.under_way(request_id, RequestStatus.RESPONDED).values():
                self.roster.registry.apply(Drawn(request.client_id, request_id))
            while True:
                contents, asked = {}, {}
                for node, request in self.parts.under_way(request_id, RequestStatus.PROVING).items():
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
                        self.parts.trouble(request, answer)
                        waiting.add(request.client_id)
                    elif not self._take_proofs(request, chunks, answer, queue, claims):
                        waiting.add(request.client_id)
                    self._settle(queue.collect(), request_id, costs)

                self.roster.peers.ask("prove", contents, on_answer=on_answer)
            for request in self.parts.under_way(request_id, RequestStatus.PROVING).values():
                self._verified(request)  # whose last proof was accepted just before the server was killed

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
            self.parts.unusable(request, e)
            return False
        found = {proof.chunk: proof for proof in response.proofs}
        if set(found) != set(chunks) or response.request_id != request.request_id:
            self.parts.reject(request, ProtocolError("the reply does not hold the proofs that were asked for"))
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
                self.parts.reject(request, one.error)
                continue
            proof = one.proof
            costs.add(one.client_id, proof.prove_cpu_s, proof.peak_rss_mb, len(proof.proof), one.cpu_s)
            try:
                accepted = ProofsAccepted(one.client_id, request_id, {proof.chunk: proof.proof})
                after = self.roster.registry.apply(accepted).request
            except BLAMED as e:
                self.parts.reject(request, e)
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
