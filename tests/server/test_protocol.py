"""The state machine: every legal path, every illegal one, and random walks that must keep its promises."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from parties import FEDERATION, NOW, SEED, Party, Provider, make_manifest, point, proof
from sqlalchemy import insert, select

from zkapex.errors import CommitmentError, Error, IllegalTransitionError, ProtocolError, ReceiptError
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import ChunkCommitment, Continuation, Equality, Held
from zkapex.proofs.records.packing import mask_digest
from zkapex.proofs.records.sealed import Sealed
from zkapex.server.protocol.decide import decide
from zkapex.server.protocol.states import (
    UNDER_WAY,
    Client,
    ClientStatus,
    Distributed,
    Drawn,
    Enrolled,
    Event,
    Failed,
    Invitation,
    Lost,
    Moved,
    Opened,
    ProofsAccepted,
    Readmitted,
    ReceiptIssued,
    Rejected,
    Request,
    RequestStatus,
    Responded,
    Scope,
    Verified,
    claims,
)
from zkapex.server.store.registry import Registry
from zkapex.server.store.schema import INVITATIONS

PROVIDER = Provider()


class Memory:
    """A registry in a dictionary, which is all the protocol needs."""

    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}
        self.requests: dict[tuple[str, str], Request] = {}
        self.used: set[str] = set()
        self.uninvited: set[str] = set()
        """Nonces that were not issued; all others were, for anybody."""
        self.published: dict[str, datetime] = {}
        """When a mask was first signed, by its digest."""
        self.now = NOW

    def apply(self, event: Event) -> Scope:
        key = (event.client_id, getattr(event, "request_id", ""))
        taken = frozenset(claims(event) & self.used)
        nonce = event.enrolment.record.nonce if isinstance(event, Enrolled) else ""
        invitation = Invitation(nonce, None) if nonce and nonce not in self.uninvited else None
        mask = mask_digest(event.request.record.mask) if isinstance(event, Opened) else ""
        before = Scope(
            FEDERATION,
            make_manifest(),
            self.clients.get(key[0]),
            self.requests.get(key),
            taken,
            invitation,
            self.published.get(mask),
        )
        after = decide(before, event, self.now)
        if isinstance(event, Opened):
            self.published.setdefault(mask, event.request.record.issued_at)
        if after.client is not None:
            self.clients[key[0]] = after.client
        if after.request is not None:
            self.requests[key] = after.request
            self.used |= {f"proof:{digest}" for digest in after.request.proofs.values()}
        if after is not before:
            self.used |= {claim for claim in claims(event) if claim.startswith("nonce:")}
        return after


def enrolled(party: Party) -> Memory:
    memory = Memory()
    memory.apply(Enrolled(party.enrol()))
    return memory


def advance(memory: Memory, party: Party, to: RequestStatus, request_id: str = "r1", **ask: Any) -> Request:
    """Take a new request of `party` to a state along the honest path."""
    asked = PROVIDER.ask(party, request_id, **ask)
    ids = (party.client_id, request_id)
    steps: list[tuple[RequestStatus, Any]] = [
        (RequestStatus.OPEN, lambda: Opened(asked, SEED if asked.record.audit.count else None)),
        (RequestStatus.DISTRIBUTED, lambda: Distributed(*ids)),
        (RequestStatus.RESPONDED, lambda: Responded(party.respond(asked.record))),
        (RequestStatus.PROVING, lambda: Drawn(*ids)),
        (RequestStatus.VERIFIED, lambda: ProofsAccepted(*ids, party.proofs(asked.record, memory.requests[ids].drawn))),
        (RequestStatus.VERIFIED, lambda: Verified(*ids)),
        (RequestStatus.RECEIPTED, lambda: ReceiptIssued(*ids, b"receipt")),
    ]
    for status, event in steps:
        memory.apply(event())
        if status is to and memory.requests[ids].status is to:
            break
    return memory.requests[ids]


def test_the_honest_path_and_the_chain() -> None:
    party = Party("a")
    memory = enrolled(party)
    before = memory.clients[party.client_id].theta
    for number in range(3):
        request = advance(memory, party, RequestStatus.RECEIPTED, f"r{number}")
        assert request.status is RequestStatus.RECEIPTED
        assert request.verdict == "proved"
        client = memory.clients[party.client_id]
        assert client.status is ClientStatus.PROVED
        assert request.response is not None
        party.adopt(request.response.record)
        assert client.theta == tuple(party.theta)
        changed = [chunk for chunk, (a, b) in enumerate(zip(before, client.theta, strict=True)) if a != b]
        assert tuple(changed) == request.touched
        before = client.theta


def test_statuses_along_the_way() -> None:
    party = Party("a")
    memory = enrolled(party)
    assert memory.clients[party.client_id].status is ClientStatus.ENROLLED
    advance(memory, party, RequestStatus.PROVING)
    client = memory.clients[party.client_id]
    assert (client.status, client.active) == (ClientStatus.PENDING, "r1")


@pytest.mark.parametrize("status", RequestStatus)
def test_every_event_on_every_state_is_applied_repeated_or_refused(status: RequestStatus) -> None:
    """The whole table: which events move a request, which are repetitions, and that all others are refused."""
    party = Party("a")
    memory = enrolled(party)
    ids = (party.client_id, "r1")
    if status is RequestStatus.FAILED:
        request = advance(memory, party, RequestStatus.PROVING)
        memory.apply(Failed(*ids, "gone"))
    else:
        request = advance(memory, party, status)
    events: dict[str, Event] = {
        "distributed": Distributed(*ids),
        "responded": Responded(request.response or party.respond(request.sealed.record)),
        "drawn": Drawn(*ids),
        "lost": Lost(*ids),
        "failed": Failed(*ids, "gone"),
        "rejected": Rejected(*ids, "cheated"),
        "verified": Verified(*ids),
        "receipt": ReceiptIssued(*ids, b"receipt"),
    }
    outcome = ""
    for name, event in events.items():
        trial = Memory()
        trial.clients, trial.requests = dict(memory.clients), dict(memory.requests)
        key = {"applied": "+", "repeated": "=", "refused": "-"}
        try:
            state = (trial.clients[ids[0]], trial.requests[ids])
            trial.apply(event)
            same = (trial.clients[ids[0]], trial.requests[ids]) == state
            outcome += f"{name}{key['repeated' if same else 'applied']} "
        except IllegalTransitionError:
            outcome += f"{name}{key['refused']} "
    assert outcome.split() == TABLE[status].split()


TABLE = {
    RequestStatus.OPEN: "distributed+ responded- drawn- lost+ failed+ rejected+ verified- receipt-",
    RequestStatus.DISTRIBUTED: "distributed= responded+ drawn- lost+ failed+ rejected+ verified- receipt-",
    RequestStatus.RESPONDED: "distributed= responded= drawn+ lost+ failed+ rejected+ verified- receipt-",
    RequestStatus.PROVING: "distributed= responded= drawn= lost+ failed+ rejected+ verified- receipt-",
    RequestStatus.VERIFIED: "distributed- responded= drawn- lost- failed- rejected- verified= receipt+",
    RequestStatus.FAILED: "distributed- responded= drawn- lost- failed= rejected- verified- receipt+",
    RequestStatus.RECEIPTED: "distributed- responded= drawn- lost- failed- rejected- verified= receipt=",
}


def test_a_lost_client_comes_back() -> None:
    party = Party("a")
    memory = enrolled(party)
    request = advance(memory, party, RequestStatus.PROVING)
    ids = (party.client_id, "r1")
    memory.apply(Lost(*ids))
    memory.apply(Lost(*ids))
    assert memory.clients[party.client_id].status is ClientStatus.UNREACHABLE
    assert request.response is not None
    memory.apply(Responded(request.response))  # it was asked again and repeats itself
    assert memory.clients[party.client_id].status is ClientStatus.PENDING
    memory.apply(Lost(*ids))
    memory.apply(Distributed(*ids))  # sending says nothing about whether it is heard
    assert memory.clients[party.client_id].status is ClientStatus.UNREACHABLE
    memory.apply(ProofsAccepted(*ids, party.proofs(request.sealed.record, request.drawn)))
    memory.apply(Verified(*ids))
    assert memory.clients[party.client_id].status is ClientStatus.PROVED


def test_a_client_that_stays_lost_can_be_asked_again() -> None:
    party = Party("a")
    memory = enrolled(party)
    advance(memory, party, RequestStatus.DISTRIBUTED)
    memory.apply(Lost(party.client_id, "r1"))
    memory.apply(Failed(party.client_id, "r1", "it expired"))
    assert memory.requests[party.client_id, "r1"].verdict == "unreachable"
    assert memory.clients[party.client_id].status is ClientStatus.UNREACHABLE
    with pytest.raises(IllegalTransitionError, match="cannot be asked"):  # it may have carried the request out
        memory.apply(Opened(PROVIDER.ask(party, "r2")))
    memory.apply(Enrolled(party.enrol(revision=1)))
    assert advance(memory, party, RequestStatus.RECEIPTED, "r2").verdict == "proved"


def test_failure_keeps_the_old_commitments() -> None:
    party = Party("a")
    memory = enrolled(party)
    advance(memory, party, RequestStatus.PROVING)
    memory.apply(Failed(party.client_id, "r1", "out of memory"))
    client = memory.clients[party.client_id]
    assert client.theta == tuple(party.theta)
    assert (client.status, client.reason, client.active) == (ClientStatus.FAILED, "out of memory", None)
    memory.apply(Enrolled(party.enrol(revision=1)))
    assert advance(memory, party, RequestStatus.RECEIPTED, "r2", attempts=1).verdict == "proved"
    assert memory.clients[party.client_id].aborted == 0


def test_after_a_draw_nobody_fails_for_free() -> None:
    """Whoever was drawn and did not prove it has to prove everything the next time, and the request says so."""
    party = Party("a")
    memory = enrolled(party)
    advance(memory, party, RequestStatus.PROVING, sample=2)
    memory.apply(Failed(party.client_id, "r1", "the battery is empty"))
    memory.apply(Enrolled(party.enrol(revision=1)))
    with pytest.raises(ProtocolError, match="0 earlier attempts"):
        memory.apply(Opened(PROVIDER.ask(party, "r2", sample=2), SEED))
    with pytest.raises(ValueError, match="everything has to be proved"):
        PROVIDER.ask(party, "r2", sample=2, attempts=1)
    request = advance(memory, party, RequestStatus.PROVING, "r2", attempts=1)
    assert request.drawn == request.touched
    memory.apply(Failed(party.client_id, "r2", "the battery is empty again"))
    assert memory.clients[party.client_id].aborted == 2


def test_a_failure_before_the_draw_is_not_counted() -> None:
    party = Party("a")
    memory = enrolled(party)
    advance(memory, party, RequestStatus.DISTRIBUTED, sample=2)
    memory.apply(Failed(party.client_id, "r1", "out of memory"))
    client = memory.clients[party.client_id]
    assert client.aborted == 0
    assert client.stale
    memory.apply(Enrolled(party.enrol(revision=1)))
    advance(memory, party, RequestStatus.OPEN, "r2", sample=2)
    memory.apply(Failed(party.client_id, "r2", "withdrawn"))  # it was never sent
    assert not memory.clients[party.client_id].stale
    advance(memory, party, RequestStatus.RECEIPTED, "r3", sample=2)


def test_the_chain_of_enrolments_cannot_be_cut() -> None:
    party = Party("a")
    memory = enrolled(party)
    first = party.enrolled
    advance(memory, party, RequestStatus.RECEIPTED)
    known = memory.clients[party.client_id]
    party.theta, party.enrolled = list(known.theta), known.enrolment_digest
    good = party.enrol(revision=1)
    held = Continuation(previous=known.enrolment_digest, root=known.theta_root, held=Held(mask=(), proofs=()))
    cases: list[tuple[dict[str, Any], type[Error], str]] = [
        ({"continuation": None}, ProtocolError, "does not continue"),
        ({"continuation": held.model_copy(update={"previous": "00" * 32})}, CommitmentError, "other commitments"),
        ({"continuation": held.model_copy(update={"root": "00" * 32})}, CommitmentError, "other commitments"),
    ]
    for changes, kind, message in cases:
        with pytest.raises(kind, match=message):
            memory.apply(Enrolled(party.enrol(revision=1, **{"continuation": held, **changes})))
    memory.uninvited = {good.record.nonce}
    with pytest.raises(ProtocolError, match="not issued"):
        memory.apply(Enrolled(good))
    memory.uninvited = set()
    memory.apply(Enrolled(good))
    assert good.record.continuation is not None
    assert good.record.continuation.previous == first == known.enrolment_digest


def test_curvature_that_is_younger_than_a_mask_is_not_taken_for_it() -> None:
    party, other = Party("a"), Party("b")
    memory = enrolled(party)
    memory.apply(Enrolled(other.enrol()))
    advance(memory, other, RequestStatus.OPEN)
    memory.apply(Moved(party.client_id, "it personalises"))
    memory.now = NOW + timedelta(minutes=1)
    memory.apply(Enrolled(party.enrol(revision=1)))
    with pytest.raises(CommitmentError, match="after this mask"):
        memory.apply(Opened(PROVIDER.ask(party, "r2")))
    held = Continuation(
        previous=str(party.enrolled),
        root=commitment_root(list(enumerate(party.theta))),
        held=Held(mask=(), proofs=()),
        curvature=Equality(commitment=point("A"), responses=("00" * 32,)),
    )
    keeps = enrolled(party_b := Party("c"))
    keeps.published = dict(memory.published)
    keeps.apply(Moved(party_b.client_id, "it personalises"))
    keeps.now = NOW + timedelta(minutes=1)
    same = held.model_copy(update={"previous": party_b.enrolled, "root": keeps.clients[party_b.client_id].theta_root})
    keeps.apply(Enrolled(party_b.enrol(revision=1, continuation=same)))
    assert keeps.clients[party_b.client_id].curvature_at == NOW
    keeps.apply(Opened(PROVIDER.ask(party_b, "r2")))


def test_a_client_that_changes_its_weights_enrols_before_it_is_asked() -> None:
    party = Party("a")
    memory = enrolled(party)
    advance(memory, party, RequestStatus.OPEN)
    with pytest.raises(IllegalTransitionError, match="change its weights"):
        memory.apply(Moved(party.client_id, "it personalises"))
    memory.apply(Failed(party.client_id, "r1", "withdrawn"))
    memory.apply(Moved(party.client_id, "it personalises"))
    with pytest.raises(IllegalTransitionError, match="cannot be asked"):
        memory.apply(Opened(PROVIDER.ask(party, "r2")))
    memory.apply(Enrolled(party.enrol(revision=1)))
    advance(memory, party, RequestStatus.RECEIPTED, "r2")


def test_quarantine_ends_only_by_an_operator_and_a_new_enrolment() -> None:
    party = Party("a")
    memory = enrolled(party)
    advance(memory, party, RequestStatus.PROVING)
    memory.apply(Rejected(party.client_id, "r1", "a masked weight is not zero"))
    client = memory.clients[party.client_id]
    assert (client.status, client.reason) == (ClientStatus.QUARANTINED, "a masked weight is not zero")
    memory.apply(ReceiptIssued(party.client_id, "r1", b"receipt"))
    with pytest.raises(IllegalTransitionError, match="cannot be asked"):
        memory.apply(Opened(PROVIDER.ask(party, "r2")))
    with pytest.raises(IllegalTransitionError, match="cannot enrol") as caught:
        memory.apply(Enrolled(party.enrol(revision=1)))
    party.enrolled = client.enrolment_digest
    assert "operator" in caught.value.fix
    memory.apply(Readmitted(party.client_id, "the device was repaired"))
    memory.apply(Readmitted(party.client_id, "the device was repaired"))
    with pytest.raises(IllegalTransitionError, match="cannot be asked"):
        memory.apply(Opened(PROVIDER.ask(party, "r2")))
    known = memory.clients[party.client_id]
    party.theta, party.enrolled = list(known.theta), known.enrolment_digest
    same = Continuation(
        previous=known.enrolment_digest,
        root=known.theta_root,
        theta=Equality(commitment=point("A"), responses=("00" * 32,)),
    )
    with pytest.raises(ProtocolError, match="every earlier request holds"):
        memory.apply(Enrolled(party.enrol(revision=1, continuation=same)))
    party.theta, party.enrolled = list(known.theta), known.enrolment_digest
    memory.apply(Enrolled(party.enrol(revision=1)))
    assert memory.clients[party.client_id].status is ClientStatus.ENROLLED
    with pytest.raises(IllegalTransitionError, match="readmitted"):
        memory.apply(Readmitted(party.client_id, "again"))
    advance(memory, party, RequestStatus.RECEIPTED, "r2", attempts=1)


def test_sampled_audit_asks_for_the_drawn_chunks_only() -> None:
    party = Party("a")
    memory = enrolled(party)
    request = advance(memory, party, RequestStatus.PROVING, sample=2)
    assert len(request.drawn) == len(request.missing) == 2
    undrawn = (set(request.touched) - set(request.drawn)).pop()
    with pytest.raises(ProtocolError, match="drawn"):
        memory.apply(ProofsAccepted(party.client_id, "r1", {undrawn: b"proof"}))
    with pytest.raises(ProtocolError, match="sample"):
        advance(enrolled(party), party, RequestStatus.OPEN, sample=4)
    with pytest.raises(ReceiptError, match="seed"):
        enrolled(party).apply(Opened(PROVIDER.ask(party, sample=2), "00" * 32))


def refused_enrolments() -> dict[str, tuple[Any, type[Error], str]]:
    return {
        "other federation": ({"federation": "other"}, ProtocolError, "federation"),
        "unknown manifest": ({"manifest_digest": "00" * 32}, ProtocolError, "manifest"),
        "too few chunks": ({"theta": (point(1),)}, CommitmentError, "number of commitments"),
        "too few factors": ({"curvature": (point(1),)}, CommitmentError, "number of commitments"),
        "no curvature": ({"curvature": ()}, CommitmentError, "number of commitments"),
        "first is not 0": ({"revision": 1}, ProtocolError, "revision 0"),
    }


@pytest.mark.parametrize(("changes", "kind", "message"), refused_enrolments().values(), ids=refused_enrolments())
def test_refused_enrolments(changes: dict[str, Any], kind: type[Error], message: str) -> None:
    with pytest.raises(kind, match=message):
        Memory().apply(Enrolled(Party("a").enrol(**changes)))


def test_enrolling_again() -> None:
    party = Party("a")
    memory = Memory()
    first = party.enrol()
    memory.apply(Enrolled(first))
    assert memory.apply(Enrolled(first)).client == memory.clients[party.client_id]
    with pytest.raises(ProtocolError, match="nonce"):
        memory.apply(Enrolled(party.enrol(revision=1, nonce=first.record.nonce)))
    with pytest.raises(ProtocolError, match="not new"):
        memory.apply(Enrolled(party.enrol(nonce="11" * 32)))
    party.theta, party.enrolled = list(first.record.theta), first.digest
    second = party.enrol(revision=5)
    memory.apply(Enrolled(second))
    assert memory.clients[party.client_id].theta == second.record.theta
    with pytest.raises(ProtocolError):
        memory.apply(Enrolled(first))
    advance(memory, party, RequestStatus.DISTRIBUTED)
    with pytest.raises(IllegalTransitionError, match="cannot enrol"):
        memory.apply(Enrolled(party.enrol(revision=6)))


def test_refused_requests() -> None:
    party, other = Party("a"), Party("b")
    memory = enrolled(party)
    enrolment = party.enrol()
    party.enrolled = memory.clients[party.client_id].enrolment_digest
    manifest = make_manifest(model="other")
    cases: list[tuple[dict[str, Any], type[Error], str]] = [
        ({"pre_root": "00" * 32}, CommitmentError, "current commitments"),
        ({"enrolment_digest": "00" * 32}, CommitmentError, "name the enrolment"),
        ({"enrolment_digest": None}, CommitmentError, "name the enrolment"),
        ({"attempts": 1}, ProtocolError, "1 earlier attempts"),
        ({"nonce": enrolment.record.nonce}, ProtocolError, "nonce"),
        ({"manifest_digest": manifest.digest()}, ProtocolError, "manifest"),
        ({"issued_at": NOW - timedelta(days=2), "expires_at": NOW}, ProtocolError, "expired"),
        ({"mask": PROVIDER.ask(party).record.mask[::-1]}, ProtocolError, "order"),
        ({"guards": PROVIDER.ask(party).record.guards[::-1]}, ProtocolError, "guards"),
    ]
    for changes, kind, message in cases:
        with pytest.raises(kind, match=message):
            memory.apply(Opened(PROVIDER.ask(party, **changes)))
    with pytest.raises(ReceiptError, match="seed"):
        memory.apply(Opened(PROVIDER.ask(party), SEED))
    with pytest.raises(ProtocolError, match="never enrolled"):
        memory.apply(Opened(PROVIDER.ask(other)))
    changed = replace(memory.clients[party.client_id], manifest_digest="00" * 32)
    memory.clients[party.client_id] = changed
    with pytest.raises(CommitmentError, match="another manifest"):
        memory.apply(Opened(PROVIDER.ask(party)))


def test_one_request_at_a_time_and_each_id_once() -> None:
    party = Party("a")
    memory = enrolled(party)
    request = advance(memory, party, RequestStatus.OPEN)
    memory.apply(Opened(request.sealed))
    with pytest.raises(IllegalTransitionError, match="cannot be asked"):
        memory.apply(Opened(PROVIDER.ask(party, "r2")))
    with pytest.raises(ProtocolError, match="used before"):
        memory.apply(Opened(PROVIDER.ask(party, nonce="22" * 32)))
    memory.apply(Failed(party.client_id, "r1", "withdrawn"))
    with pytest.raises(ProtocolError, match="used before"):
        memory.apply(Opened(PROVIDER.ask(party, nonce="22" * 32)))


def test_refused_responses() -> None:
    party = Party("a")
    memory = enrolled(party)
    request = advance(memory, party, RequestStatus.DISTRIBUTED).sealed.record
    good = party.respond(request)
    moved = (good.record.commitments[0], ChunkCommitment(chunk=1, theta=point("x")), good.record.commitments[2])
    cases: list[tuple[dict[str, Any], type[Error], str]] = [
        ({"nonce": "00" * 32}, ProtocolError, "nonce"),
        ({"commitments": good.record.commitments[:2]}, CommitmentError, "exactly the touched"),
        ({"commitments": moved}, CommitmentError, "exactly the touched"),
        ({"root": "00" * 32}, CommitmentError, "Merkle"),
        ({"request_id": "r2"}, ProtocolError, "no request"),
    ]
    for changes, kind, message in cases:
        with pytest.raises(kind, match=message):
            memory.apply(Responded(party.respond(request, **changes)))
    memory.now = request.expires_at
    with pytest.raises(ProtocolError, match="too late"):
        memory.apply(Responded(good))
    memory.now = NOW
    memory.apply(Responded(good))
    memory.now = request.expires_at
    memory.apply(Responded(good))  # what was accepted in time may be repeated at any time
    other = good.record.model_copy(update={"root": "00" * 32})
    with pytest.raises(IllegalTransitionError):
        memory.apply(Responded(Sealed(other, b"another envelope")))


def test_proofs_are_accepted_once_from_anybody() -> None:
    first, second = Party("a"), Party("b")
    memory = enrolled(first)
    memory.apply(Enrolled(second.enrol()))
    requests = [advance(memory, party, RequestStatus.PROVING) for party in (first, second)]
    ids = [(party.client_id, "r1") for party in (first, second)]
    mine = first.proofs(requests[0].sealed.record, requests[0].drawn)
    memory.apply(ProofsAccepted(*ids[0], mine))
    memory.apply(ProofsAccepted(*ids[0], mine))
    with pytest.raises(ProtocolError, match="proof was used before"):
        memory.apply(ProofsAccepted(*ids[1], mine))
    with pytest.raises(ProtocolError, match="two chunks"):
        memory.apply(ProofsAccepted(*ids[1], {0: b"same", 3: b"same"}))
    with pytest.raises(ProtocolError, match="not of drawn"):
        memory.apply(ProofsAccepted(*ids[1], {}))
    again = first.proofs(requests[0].sealed.record, requests[0].drawn, attempt=1)
    kept = memory.apply(ProofsAccepted(*ids[0], again)).request
    assert kept is not None
    assert kept.proofs == memory.requests[ids[0]].proofs
    swapped = {0: mine[3]}
    with pytest.raises(ProtocolError, match="proof was used before"):
        memory.apply(ProofsAccepted(*ids[0], swapped))


def test_nothing_is_verified_before_everything_is_proved() -> None:
    party = Party("a")
    memory = enrolled(party)
    request = advance(memory, party, RequestStatus.PROVING)
    proofs = party.proofs(request.sealed.record, request.drawn)
    memory.apply(ProofsAccepted(party.client_id, "r1", {0: proofs[0]}))
    with pytest.raises(IllegalTransitionError, match="be verified"):
        memory.apply(Verified(party.client_id, "r1"))
    assert memory.requests[party.client_id, "r1"].missing == (3, 9)


def test_another_receipt_is_refused() -> None:
    party = Party("a")
    memory = enrolled(party)
    advance(memory, party, RequestStatus.RECEIPTED)
    with pytest.raises(IllegalTransitionError, match="receipt"):
        memory.apply(ReceiptIssued(party.client_id, "r1", b"another"))


class RandomWalk(RuleBasedStateMachine):
    """Honest and dishonest events in any order, by two clients; the promises of the protocol must hold after each."""

    @initialize()
    def begin(self) -> None:
        self.memory = Memory()
        self.parties = [Party("a"), Party("b")]
        self.revisions = [1, 1]
        self.asked = 0
        self.history: dict[str, list[ClientStatus]] = {}
        self.theta: dict[str, tuple[str, ...]] = {}
        self.readmitted: set[str] = set()
        for party in self.parties:
            self.memory.apply(Enrolled(party.enrol()))

    def attempt(self, event: Event) -> None:
        before = dict(self.memory.clients), dict(self.memory.requests)
        try:
            self.memory.apply(event)
        except (ProtocolError, CommitmentError):
            assert (self.memory.clients, self.memory.requests) == before
            return
        after = dict(self.memory.clients), dict(self.memory.requests)
        if not isinstance(event, Readmitted):
            self.memory.apply(event)  # delivered again
            assert (self.memory.clients, self.memory.requests) == after

    def ids(self, who: int) -> tuple[str, str]:
        party = self.parties[who]
        client = self.memory.clients.get(party.client_id)
        return party.client_id, (client.active if client and client.active else "r1")

    @rule(who=st.integers(0, 1), skip=st.integers(0, 2))
    def enrol(self, who: int, skip: int) -> None:
        party = self.parties[who]
        known = self.memory.clients[party.client_id]
        party.theta, party.enrolled = list(known.theta), known.enrolment_digest
        self.attempt(Enrolled(party.enrol(revision=self.revisions[who])))
        client = self.memory.clients[party.client_id]
        party.theta, party.enrolled = list(client.theta), client.enrolment_digest
        self.revisions[who] += skip

    @rule(who=st.integers(0, 1), sample=st.sampled_from([None, 2]))
    def open(self, who: int, sample: int | None) -> None:
        party = self.parties[who]
        self.asked += 1
        client = self.memory.clients.get(party.client_id)
        attempts = 0
        if client is not None:
            party.theta, attempts = list(client.theta), client.aborted
        sample = None if attempts else sample
        asked = PROVIDER.ask(party, f"r{self.asked}", sample=sample, attempts=attempts)
        self.attempt(Opened(asked, SEED if sample else None))

    @rule(who=st.integers(0, 1), steps=st.integers(1, 6))
    def proceed(self, who: int, steps: int) -> None:
        """Go on honestly for a while; without this, a random walk hardly ever gets anywhere."""
        for _ in range(steps):
            ids = self.ids(who)
            request = self.memory.requests.get(ids)
            if request is None or request.status not in UNDER_WAY:
                return
            match request.status:
                case RequestStatus.OPEN:
                    self.attempt(Distributed(*ids))
                case RequestStatus.DISTRIBUTED:
                    self.attempt(Responded(self.parties[who].respond(request.sealed.record)))
                case RequestStatus.RESPONDED:
                    self.attempt(Drawn(*ids))
                case _ if request.missing:
                    proofs = self.parties[who].proofs(request.sealed.record, request.missing[:2])
                    self.attempt(ProofsAccepted(*ids, proofs))
                case _:
                    self.attempt(Verified(*ids))

    @rule(who=st.integers(0, 1))
    def respond(self, who: int) -> None:
        request = self.memory.requests.get(self.ids(who))
        if request is not None:
            self.attempt(Responded(self.parties[who].respond(request.sealed.record)))

    @rule(who=st.integers(0, 1), kind=st.sampled_from([Distributed, Drawn, Verified, Lost]))
    def step(self, who: int, kind: Any) -> None:
        self.attempt(kind(*self.ids(who)))

    @rule(who=st.integers(0, 1), whose=st.integers(0, 1), count=st.integers(1, 3), attempt=st.integers(0, 1))
    def prove(self, who: int, whose: int, count: int, attempt: int) -> None:
        request = self.memory.requests.get(self.ids(whose))
        if request is not None:
            proofs = self.parties[whose].proofs(request.sealed.record, request.touched[:count], attempt)
            self.attempt(ProofsAccepted(*self.ids(who), proofs))

    @rule(who=st.integers(0, 1), kind=st.sampled_from([Failed, Rejected]))
    def fail(self, who: int, kind: Any) -> None:
        self.attempt(kind(*self.ids(who), "reason"))

    @rule(who=st.integers(0, 1))
    def move(self, who: int) -> None:
        self.attempt(Moved(self.parties[who].client_id, "it personalises"))

    @rule(who=st.integers(0, 1))
    def readmit(self, who: int) -> None:
        self.attempt(Readmitted(self.parties[who].client_id, "repaired"))
        client = self.memory.clients.get(self.parties[who].client_id)
        if client is not None and client.readmitted:
            self.readmitted.add(client.client_id)

    @rule(who=st.integers(0, 1))
    def receipt(self, who: int) -> None:
        for ids, request in list(self.memory.requests.items()):
            if ids[0] == self.parties[who].client_id and request.status in {
                RequestStatus.VERIFIED,
                RequestStatus.FAILED,
            }:
                self.attempt(ReceiptIssued(*ids, f"{ids}".encode()))

    @invariant()
    def a_pending_client_has_exactly_one_request_under_way(self) -> None:
        for client_id, client in getattr(self, "memory", Memory()).clients.items():
            busy = [
                request.request_id
                for (owner, _), request in self.memory.requests.items()
                if owner == client_id and request.status in UNDER_WAY
            ]
            assert busy == ([client.active] if client.active else [])
            if client.status is ClientStatus.PENDING:
                assert busy
            if client.status in {ClientStatus.ENROLLED, ClientStatus.PROVED, ClientStatus.FAILED}:
                assert not busy

    @invariant()
    def quarantine_is_left_only_after_readmission(self) -> None:
        for client_id, client in getattr(self, "memory", Memory()).clients.items():
            past = self.history.setdefault(client_id, [])
            if past and past[-1] is ClientStatus.QUARANTINED and client.status is not ClientStatus.QUARANTINED:
                assert client.status is ClientStatus.ENROLLED
                assert client_id in self.readmitted
                self.readmitted.discard(client_id)
            past.append(client.status)

    @invariant()
    def commitments_change_only_by_enrolment_or_by_a_verified_response(self) -> None:
        for client_id, client in getattr(self, "memory", Memory()).clients.items():
            old = self.theta.get(client_id)
            if old is not None and old != client.theta:
                assert client.status in {ClientStatus.ENROLLED, ClientStatus.PROVED}
            self.theta[client_id] = client.theta

    @invariant()
    def whatever_is_proved_is_wholly_proved_and_no_proof_counts_twice(self) -> None:
        digests: list[str] = []
        for request in getattr(self, "memory", Memory()).requests.values():
            digests += request.proofs.values()
            assert set(request.proofs) <= set(request.drawn) <= set(request.touched)
            assert request.complete == (not request.missing)
            if request.verdict == "proved":
                assert request.drawn
                assert not request.missing
        assert len(set(digests)) == len(digests)


TestRandomWalk = RandomWalk.TestCase
TestRandomWalk.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class Both(Memory):
    """A registry in memory, which holds everything, beside one in a database. They must say the same of every event."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self.registry = registry

    def apply(self, event: Event) -> Scope:
        if isinstance(event, Enrolled) and event.enrolment.record.nonce not in self.uninvited:
            self._invite(event.enrolment.record.nonce)
        told: list[str] = []
        scopes: list[Scope] = []
        for judge in (super().apply, self.registry.apply):
            try:
                scopes.append(judge(event))
                told.append("applied")
            except Error as error:
                told.append(f"{type(error).__name__}: {error.explain()}")
                refused = error
        assert told[0] == told[1]
        if not scopes:
            raise refused
        assert scopes[0].client == scopes[1].client
        assert scopes[0].request == scopes[1].request
        return scopes[0]

    def _invite(self, nonce: str) -> None:
        """Have the registry issue this very nonce, for anybody."""
        with self.registry._transaction(write=True) as connection:
            if connection.execute(select(INVITATIONS).where(INVITATIONS.c.nonce == nonce)).first() is None:
                connection.execute(insert(INVITATIONS).values(nonce=nonce, client_id=None, at=""))


class ByChunk(RandomWalk):
    """The protocol's own random walk, on both."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        # In memory where that is possible: what survives a power cut is not what is tested.
        self.folder = TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.registry = Registry(Path(self.folder.name) / "r.sqlite", FEDERATION, clock=lambda: NOW)
        self.registry.add_manifest(make_manifest())
        self.memory = Both(self.registry)
        for party in self.parties:
            self.memory.apply(Enrolled(party.enrol()))

    @invariant()
    def the_database_holds_what_memory_does(self) -> None:
        if hasattr(self, "registry"):
            assert {client.client_id: client for client in self.registry.clients()} == self.memory.clients
            stored = {(request.client_id, request.request_id): request for request in self.registry.requests()}
            assert stored == self.memory.requests

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.verify_trail()
            self.registry.close()
            self.folder.cleanup()


TestByChunk = ByChunk.TestCase
TestByChunk.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_claims_are_what_may_be_used_once() -> None:
    party = Party("a")
    assert claims(Enrolled(party.enrol())) != claims(Opened(PROVIDER.ask(party)))
    assert len(claims(ProofsAccepted("a", "r", {1: proof(1), 2: proof(2)}))) == 2
    assert claims(Lost("a", "r")) == frozenset()
