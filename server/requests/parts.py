"""Clients' parts in requests: which are under way, and what becomes of one that does not go as it should."""

from __future__ import annotations

from dataclasses import dataclass

from zkapex.errors import Error, SaltsSpentError, VerificationError
from zkapex.server.federation.identity import sentence
from zkapex.server.federation.roster import Roster
from zkapex.server.protocol.states import Failed, Lost, Rejected, Request, RequestStatus
from zkapex.transport.peers import Trouble


@dataclass(frozen=True)
class Parts:
    """The parts that clients of a roster have in requests.

    Attributes
    ----------
    roster : Roster
    """

    roster: Roster

    def under_way(self, request_id: str, *states: RequestStatus) -> dict[int, Request]:
        """Requests in one of some states, by node, of clients that are here."""
        found = {}
        for node, client_id in self.roster.clients.items():
            request = self.roster.registry.request(client_id, request_id)
            if request is not None and request.status in states:
                found[node] = request
        return found

    def trouble(self, request: Request, trouble: Trouble) -> None:
        """What becomes of a request whose client gave no answer, or said that it cannot.

        Before the audit is drawn a client that says so is taken at its word. Afterwards it is asked again until the
        request's time is over, but for spent salts, which do not come back.
        """
        drawn = request.status is RequestStatus.PROVING
        final = SaltsSpentError.SENTENCE in trouble.reason or not drawn
        if trouble.reachable and not trouble.for_now and final:
            self.fail(request, f"the client reported: {trouble.reason}")
            return
        reason = f"the client reported: {trouble.reason}" if trouble.reachable else trouble.reason
        self.lose(request, reason)

    def unusable(self, request: Request, error: Error) -> None:
        """An answer that cannot be read: of another release, or cut on the way. Nobody is blamed."""
        self.lose(request, f"its answer could not be read: {sentence(error)}")

    def lose(self, request: Request, reason: str) -> None:
        """Nothing came of asking this time; the client is asked again."""
        self.roster.registry.apply(Lost(request.client_id, request.request_id, reason[:1000]))
        self.roster.emit("client.lost", client=request.client_id, request=request.request_id, reason=reason[:1000])

    def fail(self, request: Request, reason: str) -> None:
        """It has not come to an end, and will not; the client is not to blame."""
        self.roster.registry.apply(Failed(request.client_id, request.request_id, reason[:1000]))
        self.roster.emit("client.failed", client=request.client_id, request=request.request_id, reason=reason[:1000])

    def reject(self, request: Request, error: Error) -> None:
        """The answer is wrong: the client is quarantined."""
        reason = sentence(error)
        self.roster.registry.apply(Rejected(request.client_id, request.request_id, reason))
        cheated = isinstance(error, VerificationError)
        self.roster.emit(
            "client.quarantined", client=request.client_id, request=request.request_id, reason=reason,
            verification=cheated,
        )  # fmt: skip
