"""What the console shows, as plain values, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from zkapex.server.deployment.requests import Order


@dataclass(frozen=True)
class ClientView:
    """A client as it stands."""

    client_id: str
    status: str
    revision: int
    reason: str = ""
    active: str | None = None
    readmitted: bool = False
    requests: Sequence[Answer] = ()


@dataclass(frozen=True)
class Answer:
    """What one client has done about one request.

    `touched`, `drawn` and `proved` count units (chunks or layers): changed by the request, to be proved, proved.
    """

    request_id: str
    client_id: str
    status: str
    verdict: str | None
    reason: str
    touched: int
    drawn: int
    proved: int
    receipt: bool


@dataclass(frozen=True)
class RequestView:
    """One deletion request over all clients; without answers it was ordered or planned, and nobody was asked yet."""

    request_id: str
    answers: Sequence[Answer]
    opened_at: datetime | None
    expires_at: datetime | None
    operator: str
    order: Order | None = None

    @property
    def states(self) -> dict[str, int]:
        """How many clients are where, by verdict, or by state where there is none yet."""
        found: dict[str, int] = {}
        for answer in self.answers:
            name = answer.verdict or answer.status
            found[name] = found.get(name, 0) + 1
        return found

    @property
    def done(self) -> bool:
        """Whether every client's part is settled."""
        return bool(self.answers) and all(answer.verdict is not None for answer in self.answers)

    @property
    def proved(self) -> int:
        """Units proved."""
        return sum(answer.proved for answer in self.answers)

    @property
    def drawn(self) -> int:
        """Units to be proved, as far as that is known."""
        return sum(answer.drawn for answer in self.answers)


@dataclass(frozen=True)
class PlanView:
    """What a search found: the setting that was chosen, and every one that was tried, as ``plan.json`` has them."""

    chosen: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LedgerView:
    """The log of what was issued, as its latest checkpoint says."""

    origin: str
    size: int
    root: str
    key: str
    witnesses: Sequence[str]


@dataclass(frozen=True)
class Draft:
    """A request as somebody is about to order it.

    `about` is lines of ``name=value``; `density` the share of weights its mask is expected to have.
    """

    request_id: str = ""
    about: str = ""
    legal_basis: str = "gdpr-17-erasure"
    days: str = "30"
    note: str = ""
    density: str = "0.005"


@dataclass(frozen=True)
class Entry:
    """One line of the audit trail; of what an operator did, `client_id` may be empty, and `who` is a name."""

    at: datetime
    event: str
    client_id: str
    request_id: str | None
    detail: str
    who: str = ""


@dataclass(frozen=True)
class Task:
    """Something that needs a person."""

    text: str
    link: str
    urgent: bool = False


class Source(Protocol):
    """What the console reads and does. The same functions stand behind the command line."""

    can_order: bool

    @property
    def federation(self) -> str:
        """Name of the federation."""

    def requests(self) -> Sequence[RequestView]:
        """All requests, the newest first."""

    def request(self, request_id: str) -> RequestView | None:
        """One of them."""

    def clients(self) -> Sequence[ClientView]:
        """All clients."""

    def client(self, client_id: str) -> ClientView | None:
        """One of them, with its requests."""

    def trail(self, limit: int) -> Sequence[Entry]:
        """The audit trail, the newest first."""

    def verify(self, request_id: str, client_id: str) -> Mapping[str, Any]:
        """Verify a receipt again; the object that ``zkapex verify --json`` prints.

        Raises
        ------
        Error
            It does not hold.
        """

    def summary(self, request_id: str, client_id: str) -> Mapping[str, Any]:
        """What a receipt says, as far as reading it tells: nothing of it is checked yet.

        Raises
        ------
        Error
            There is none, or it cannot be read.
        """

    def plan(self, request_id: str) -> PlanView | None:
        """What was planned for a request; None if nothing was yet."""

    def outcome(self, request_id: str) -> Mapping[str, Any] | None:
        """``results/<id>.json``, see `zkapex.server.requests.result`; None if there is none yet."""

    def estimate(self, draft: Draft) -> Mapping[str, str | int | float] | None:
        """What a request will cost each client and the provider; None if the federation has no model yet.

        Raises
        ------
        Error
            The draft makes no sense, or proofs cannot be measured on this machine.
        """

    def create(self, draft: Draft, operator: str) -> None:
        """Order a deletion.

        Raises
        ------
        Error
            Something about it is not understood, or there is one of this id.
        """

    def cancel(self, request_id: str, operator: str) -> None:
        """Take an order back.

        Raises
        ------
        Error
            There is none, or devices were asked already.
        """

    def ledger(self) -> LedgerView | None:
        """The log of what was issued; None if there is none yet."""

    def check_ledger(self) -> LedgerView:
        """Check the log whole.

        Raises
        ------
        Error
            It does not hold.
        """

    def report(self, request_id: str, reader: str) -> str | None:
        """The report about a request, as a page; None if nobody has signed one.

        Raises
        ------
        Error
            It does not hold.
        """

    def make_report(self, request_id: str, case: Mapping[str, Any], operator: str) -> None:
        """Sign the report about a request, from its receipts and what the controller says of the case.

        Raises
        ------
        Error
            There are no receipts, or the case is described wrongly.
        """

    def readmit(self, client_id: str, reason: str, operator: str) -> None:
        """Let a quarantined client enrol again.

        Raises
        ------
        Error
            It is not quarantined, or there is none of that id.
        """


def tasks(source: Source, now: datetime, soon_s: float = 2 * 86_400) -> list[Task]:
    """What needs a person: quarantined clients, requests that failed, deadlines that are near.

    Parameters
    ----------
    source : Source
    now : datetime
        In UTC.
    soon_s : float
        How near a deadline is, in seconds.
    """
    found = [
        Task(f"Client {view.client_id[:16]} is quarantined: {view.reason}", f"clients/{view.client_id}", urgent=True)
        for view in source.clients()
        if view.status == "quarantined" and not view.readmitted
    ]
    for request in source.requests():
        if request.expires_at is None:
            continue
        left = (request.expires_at - now).total_seconds()
        waiting = sum(answer.verdict is None for answer in request.answers)
        failed = sum(answer.verdict in {"failed", "unreachable"} for answer in request.answers)
        link = f"requests/{request.request_id}"
        if waiting and left < soon_s:
            when = "has expired" if left < 0 else f"expires {request.expires_at:%Y-%m-%d %H:%M} UTC"
            found.append(
                Task(f"{request.request_id} {when}, and {waiting} clients have not finished", link, urgent=True)
            )
        if failed:
            found.append(Task(f"{request.request_id}: {failed} clients did not prove it", link))
    return found
