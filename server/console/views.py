"""What the console shows, as plain values, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol


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
    """One deletion request over all clients."""

    request_id: str
    answers: Sequence[Answer]
    opened_at: datetime
    expires_at: datetime
    operator: str
    facts: Mapping[str, Any] = field(default_factory=dict)

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
        return all(answer.verdict is not None for answer in self.answers)

    @property
    def proved(self) -> int:
        """Units proved."""
        return sum(answer.proved for answer in self.answers)

    @property
    def drawn(self) -> int:
        """Units to be proved, as far as that is known."""
        return sum(answer.drawn for answer in self.answers)


@dataclass(frozen=True)
class Entry:
    """One line of the audit trail."""

    at: datetime
    event: str
    client_id: str
    request_id: str | None
    detail: str


@dataclass(frozen=True)
class Task:
    """Something that needs a person."""

    text: str
    link: str
    urgent: bool = False


class Source(Protocol):
    """What the console reads and does. The same functions stand behind the command line."""

    federation: str

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
