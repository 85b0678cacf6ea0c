"""What the server knows about clients and requests, and what can happen to them. The rules are in ``protocol.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import Enrolment, ModelManifest, UnlearnRequest, UnlearnResponse
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.sealed import Sealed


class ClientStatus(StrEnum):
    """Where a client stands."""

    ENROLLED = "enrolled"
    PENDING = "pending"
    PROVED = "proved"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    QUARANTINED = "quarantined"


class RequestStatus(StrEnum):
    """Where a request to one client stands."""

    OPEN = "open"
    DISTRIBUTED = "distributed"
    RESPONDED = "responded"
    PROVING = "proving"
    VERIFIED = "verified"
    FAILED = "failed"
    RECEIPTED = "receipted"


UNDER_WAY = frozenset({RequestStatus.OPEN, RequestStatus.DISTRIBUTED, RequestStatus.RESPONDED, RequestStatus.PROVING})
"""States of a request in which its client is busy with it."""


class Extended(Mapping[int, str]):
    """A mapping with some entries more, without a copy of it."""

    def __init__(self, base: Mapping[int, str], more: Mapping[int, str]) -> None:
        inner: dict[int, str] = {}
        if isinstance(base, Extended):  # never nested: in memory, one is extended again and again
            inner, base = base._more, base._base
        self._base: Mapping[int, str] = base
        self._more: dict[int, str] = inner | {
            key: value for key, value in more.items() if key not in inner and key not in base
        }

    def __getitem__(self, key: int) -> str:
        return self._more[key] if key in self._more else self._base[key]

    def __iter__(self) -> Iterator[int]:
        yield from self._base
        yield from self._more

    def __len__(self) -> int:
        return len(self._base) + len(self._more)

    def __repr__(self) -> str:
        return f"<{len(self)} proofs>"


@dataclass(frozen=True)
class Client:
    """What the server holds a client to.

    `theta` and `curvature` are the current commitments (G1 points as hex), one per chunk and one per (layer, column
    block). `active` is the request under way. `readmitted` says that an operator lets a quarantined client enrol again.
    `stale` says why its device may hold other weights than it is held to; while it does, the client is asked for
    nothing but to enrol again. `aborted` counts its requests that were given up after their audit had been drawn, since
    it last proved one in full. `curvature_at` is when its curvature was enrolled.
    """

    client_id: str
    public_key: str
    status: ClientStatus
    revision: int
    enrolment_digest: str
    manifest_digest: str
    theta: Sequence[str] = field(repr=False)
    curvature: Sequence[str] = field(repr=False)
    active: str | None = None
    readmitted: bool = False
    reason: str = ""
    stale: str = ""
    aborted: int = 0
    curvature_at: datetime | None = None

    @property
    def theta_root(self) -> str:
        """Merkle root over the current commitments of all chunks."""
        return commitment_root(list(enumerate(self.theta)))


@dataclass(frozen=True)
class Request:
    """A request to one client. `proofs` maps each drawn chunk that has been proved to its proof's digest.

    `sent` says that it may have reached its client. `ids` are client and request id where they are known without
    looking into the signed request.
    """

    sealed: Sealed[UnlearnRequest] = field(repr=False)
    status: RequestStatus
    touched: Sequence[int] = field(repr=False)
    audit_seed: str | None = field(default=None, repr=False)
    response: Sealed[UnlearnResponse] | None = field(default=None, repr=False)
    drawn: Sequence[int] = ()
    proofs: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    verdict: str | None = None
    reason: str = ""
    receipt_digest: str | None = None
    sent: bool = False
    ids: tuple[str, str] | None = field(default=None, repr=False, compare=False)

    @property
    def request_id(self) -> str:
        """Id of the deletion request."""
        return self.sealed.record.request_id if self.ids is None else self.ids[1]

    @property
    def client_id(self) -> str:
        """The client it is for."""
        return self.sealed.record.client_id if self.ids is None else self.ids[0]

    @property
    def complete(self) -> bool:
        """Whether every drawn chunk has an accepted proof. Others have none, so counting them says it."""
        return len(self.proofs) == len(self.drawn)

    @property
    def missing(self) -> tuple[int, ...]:
        """Drawn chunks without an accepted proof, ascending."""
        return tuple(chunk for chunk in self.drawn if chunk not in self.proofs)


@dataclass(frozen=True)
class Enrolled:
    """A client's signed enrolment arrived."""

    enrolment: Sealed[Enrolment]

    @property
    def client_id(self) -> str:
        """The client it is about."""
        return self.enrolment.record.client_id


@dataclass(frozen=True)
class Moved:
    """The client is about to change its weights otherwise than by a request, such as by personalising anew."""

    client_id: str
    reason: str


@dataclass(frozen=True)
class Readmitted:
    """An operator decided that a quarantined client may enrol again."""

    client_id: str
    reason: str


@dataclass(frozen=True)
class Quarantined:
    """An operator decided that a client which has no request under way takes no part until it is readmitted."""

    client_id: str
    reason: str


@dataclass(frozen=True)
class Opened:
    """The server signed a request. The seed is kept secret until the receipt; it goes with a sampled audit."""

    request: Sealed[UnlearnRequest]
    audit_seed: str | None = None

    @property
    def client_id(self) -> str:
        """The client it is about."""
        return self.request.record.client_id

    @property
    def request_id(self) -> str:
        """The request it is about."""
        return self.request.record.request_id


@dataclass(frozen=True)
class Distributed:
    """The request was sent to the client."""

    client_id: str
    request_id: str


@dataclass(frozen=True)
class Responded:
    """The client's signed response arrived."""

    response: Sealed[UnlearnResponse]

    @property
    def client_id(self) -> str:
        """The client it is about."""
        return self.response.record.client_id

    @property
    def request_id(self) -> str:
        """The request it is about."""
        return self.response.record.request_id


@dataclass(frozen=True)
class Drawn:
    """The audit was drawn; proving starts. Which chunks follows from the seed and the response."""

    client_id: str
    request_id: str


@dataclass(frozen=True)
class ProofsAccepted:
    """The verifier accepted these proofs (raw bytes by chunk)."""

    client_id: str
    request_id: str
    proofs: Mapping[int, bytes] = field(repr=False)


@dataclass(frozen=True)
class Verified:
    """Everything that had to be proved is."""

    client_id: str
    request_id: str


@dataclass(frozen=True)
class Lost:
    """Nothing usable came from the client. The request stays as it is and goes on when the client is heard from."""

    client_id: str
    request_id: str
    reason: str = ""


@dataclass(frozen=True)
class Failed:
    """The request is given up without blaming the client: it expired, or the client reported that it could not.

    After the audit was drawn it counts: the next request to the client has to be proved in full.
    """

    client_id: str
    request_id: str
    reason: str


@dataclass(frozen=True)
class Rejected:
    """Verification showed that the client did not do what was asked. It is quarantined."""

    client_id: str
    request_id: str
    reason: str


@dataclass(frozen=True)
class ReceiptIssued:
    """The receipt for a finished request was signed; `envelope` is the content of ``receipt.json``."""

    client_id: str
    request_id: str
    envelope: bytes = field(repr=False)


Event = (
    Enrolled
    | Moved
    | Readmitted
    | Quarantined
    | Opened
    | Distributed
    | Responded
    | Drawn
    | ProofsAccepted
    | Verified
    | Lost
    | Failed
    | Rejected
    | ReceiptIssued
)
RequestEvent = Distributed | Responded | Drawn | ProofsAccepted | Verified | Lost | Failed | Rejected | ReceiptIssued


@dataclass(frozen=True)
class Invitation:
    """A nonce that the provider issued for one enrolment, by the client it is for; None: one that is not known yet."""

    nonce: str
    client_id: str | None


@dataclass(frozen=True)
class Scope:
    """Everything a decision may depend on, and its result.

    Parameters
    ----------
    federation : str
        The federation this server runs.
    manifest : ModelManifest or None
        The manifest that the event's enrolment or request, or the event's client, names; None if it is not known.
    client : Client or None
        The event's client.
    request : Request or None
        The event's request.
    taken : frozenset of str
        Those of the event's :func:`claims` that were used before, by this or any other client.
    invitation : Invitation or None
        That an enrolment's nonce was issued with.
    published : datetime or None
        When the mask of the event's request, with its targets, was first signed, for this or any other client.
    """

    federation: str
    manifest: ModelManifest | None
    client: Client | None
    request: Request | None
    taken: frozenset[str] = frozenset()
    invitation: Invitation | None = None
    published: datetime | None = None


def claims(event: Event) -> frozenset[str]:
    """List what an event uses up: ``nonce:<hex>`` and ``proof:<sha256>``. Each can be used once, ever, by anybody."""
    match event:
        case Enrolled(enrolment):
            return frozenset({f"nonce:{enrolment.record.nonce}"})
        case Opened(request):
            return frozenset({f"nonce:{request.record.nonce}"})
        case ProofsAccepted(proofs=proofs):
            return frozenset(f"proof:{sha256_hex(proof)}" for proof in proofs.values())
        case _:
            return frozenset()
