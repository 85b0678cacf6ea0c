"""The provider's side of the protocol: asks, verifies, records, and issues receipts. Talks to nodes through `Peers`.

The rules live in `zkapex.server.protocol.decide`, the memory in `zkapex.server.store.registry`; this module only
decides what to ask whom next. Each method may be called again after a crash and goes on from what the registry holds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import RecordDict

from zkapex.errors import FormatVersionError, ProtocolError
from zkapex.proofs.messages import (
    Delivery,
    EvaluateReply,
    EvaluateRequest,
    Proposal,
    ProposeRequest,
    UnlearnResponse,
)
from zkapex.proofs.records.sealed import Sealed, unseal
from zkapex.proofs.records.signing import public_key_from_hex
from zkapex.server.federation.identity import sentence
from zkapex.server.federation.roster import BLAMED, Roster
from zkapex.server.protocol.states import (
    UNDER_WAY,
    Distributed,
    Drawn,
    Request,
    RequestStatus,
    Responded,
)
from zkapex.server.requests.concluding import conclude, deliver
from zkapex.server.requests.costs import CostBook
from zkapex.server.requests.deletion import Deletion
from zkapex.server.requests.keeping import Keeper
from zkapex.server.requests.opening import open_requests
from zkapex.server.requests.parts import Parts
from zkapex.server.requests.proving import Proving
from zkapex.transport.peers import Answer, Trouble, opened
from zkapex.transport.wire import pack, pack_arrays


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
        open_requests(self.roster, self.keeper, deletion, addressed)

    def expire(self) -> None:
        """Give up what is under way and whose time is over; nobody is blamed for that."""
        registry = self.roster.registry
        for request in registry.unfinished():
            if request.status in UNDER_WAY and registry.now() >= request.sealed.record.expires_at:
                client = self.roster.client(request.client_id)
                reason = "its time was over" + (f"; last: {client.reason}" if client.reason else "")
                self._parts.fail(request, reason)

    def distribute(self, request_id: str) -> None:
        """Send the request to every client that has not answered it, and take the signed responses."""
        contents, requests = {}, {}
        for node, request in self._parts.under_way(request_id, RequestStatus.OPEN, RequestStatus.DISTRIBUTED).items():
            self.roster.registry.apply(Distributed(request.client_id, request_id))
            contents[node] = pack(Delivery(), {"envelope": request.sealed.envelope})
            requests[node] = request

        def on_answer(node: int, answer: Answer) -> None:
            request = requests[node]
            client = self.roster.client(request.client_id)
            if isinstance(answer, Trouble):
                self._parts.trouble(request, answer)
                return
            envelope = self._envelope(request, answer)
            if envelope is None:
                return
            if self.roster.registry.now() >= request.sealed.record.expires_at:
                self._parts.fail(request, "its answer came when its time was over")
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
                self._parts.unusable(request, e)
                return
            except BLAMED as e:
                self._parts.reject(request, e)
                return
            self.roster.emit(
                "unlearn.responded", client=client.client_id, request=request_id, chunks=len(request.touched)
            )

        self.roster.peers.ask("unlearn", contents, on_answer=on_answer)

    def prove(self, request_id: str, costs: CostBook) -> None:
        """Ask for the drawn chunks batch by batch, and settle the requests of all clients whose proofs hold."""
        Proving(self.roster, self.batch, self.verify_workers, self.keeper).prove(request_id, costs)

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
        return conclude(self.roster, self.keeper, request_id, folder)

    def deliver(self, receipts: Mapping[str, Path]) -> set[str]:
        """Send clients their receipts, given as folders by client id; returns those that have taken theirs."""
        return deliver(self.roster, receipts)

    def miss_absent(self, request_id: str) -> None:
        """Note of the clients that none of the nodes is that they are away; they may come back."""
        present = set(self.roster.clients.values())
        for request in self.roster.registry.requests(request_id):
            if request.status in UNDER_WAY and request.client_id not in present:
                self._parts.trouble(request, Trouble(False, "no node of this run is this client"))

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _parts(self) -> Parts:
        return Parts(self.roster)

    def _envelope(self, request: Request, answer: RecordDict) -> bytes | None:
        """The signed envelope in an answer; None if the answer is none, for which nobody is blamed."""
        try:
            _, blobs = opened(answer, Delivery)
        except (ProtocolError, FormatVersionError) as e:
            self._parts.unusable(request, e)
            return None
        return blobs.get("envelope", b"")
