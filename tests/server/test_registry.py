"""The registry: what it returns from is on disk, whatever happens next; what cannot be is not stored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import databases
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parties import (
    FEDERATION,
    NOW,
    SEED,
    SETTINGS,
    VERIFICATION_KEY,
    Party,
    Provider,
    make_manifest,
    make_outcome,
)
from sqlalchemy.exc import IntegrityError

from zkapex.errors import FormatVersionError, InputError, ProtocolError, StorageError
from zkapex.proofs.receipts.bundle import read_bundle, write_bundle
from zkapex.proofs.receipts.receipt import issue
from zkapex.server.protocol.states import (
    ClientStatus,
    Distributed,
    Drawn,
    Enrolled,
    Event,
    Failed,
    Opened,
    ProofsAccepted,
    ReceiptIssued,
    Rejected,
    Request,
    RequestStatus,
    Responded,
    Verified,
)
from zkapex.server.store.registry import Registry, utc_now

PROVIDER = Provider()


class Clock:
    """Advances by a second at each look."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def registry(place: Path | str) -> Iterator[Registry]:
    with Registry(place, FEDERATION, clock=Clock()) as opened:
        opened.add_manifest(make_manifest())
        yield opened


def steps(party: Party, registry: Registry, request_id: str = "r1", sample: int | None = None) -> Iterator[Event]:
    """The events of one honest request; the next one may depend on what the last one led to."""
    ids = (party.client_id, request_id)
    now = registry.now()
    asked = PROVIDER.ask(party, request_id, sample=sample, issued_at=now, expires_at=now + timedelta(hours=1))
    yield Opened(asked, SEED if sample else None)
    yield Distributed(*ids)
    response = party.respond(asked.record)
    yield Responded(response)
    yield Drawn(*ids)
    for chunk in load(registry, *ids).drawn:
        yield ProofsAccepted(*ids, party.proofs(asked.record, (chunk,)))
    yield Verified(*ids)
    party.adopt(response.record)
    yield ReceiptIssued(*ids, b"receipt of " + request_id.encode())


def load(registry: Registry, client_id: str, request_id: str = "r1") -> Request:
    request = registry.request(client_id, request_id)
    assert request is not None
    return request


def invited(registry: Registry, party: Party, **changes: Any) -> Enrolled:
    """An enrolment that was asked for."""
    return Enrolled(party.enrol(nonce=registry.invite(), **changes))


def enrol(registry: Registry, party: Party) -> None:
    registry.apply(invited(registry, party))


def state(registry: Registry) -> tuple[Any, ...]:
    return registry.clients(), registry.requests()


def test_what_apply_returns_is_what_is_stored(registry: Registry) -> None:
    party = Party("a")
    scope = registry.apply(invited(registry, party))
    assert registry.client(party.client_id) == scope.client
    for number in range(2):
        for event in steps(party, registry, f"r{number}", sample=2):
            scope = registry.apply(event)
            assert registry.client(party.client_id) == scope.client
            assert registry.request(party.client_id, f"r{number}") == scope.request
            before = state(registry), registry.transitions()
            registry.apply(event)  # delivered again: nothing changes, and nothing is recorded
            assert (state(registry), registry.transitions()) == before
    assert scope.client is not None
    assert scope.client.theta == tuple(party.theta)
    assert registry.receipt(party.client_id, "r1") == b"receipt of r1"


def test_what_is_not_there(registry: Registry) -> None:
    assert registry.client("00" * 32) is None
    assert registry.request("00" * 32, "r1") is None
    assert registry.receipt("00" * 32, "r1") is None
    assert registry.manifest("00" * 32) is None
    assert registry.manifest(make_manifest().digest()) == make_manifest()
    with pytest.raises(ProtocolError, match="no request"):
        registry.evidence("00" * 32, "r1", settings=SETTINGS, verification_key=VERIFICATION_KEY)


def test_refused_events_leave_no_trace(registry: Registry) -> None:
    party, other = Party("a"), Party("b")
    enrol(registry, party)
    enrol(registry, other)
    walk = steps(party, registry)
    for _ in range(4):
        registry.apply(next(walk))
    taken = party.proofs(load(registry, party.client_id).sealed.record, (0,))
    registry.apply(ProofsAccepted(party.client_id, "r1", taken))
    theirs = steps(other, registry)
    for _ in range(4):
        registry.apply(next(theirs))
    before = state(registry), registry.transitions()
    refused: list[Event] = [
        invited(registry, party, revision=1),
        Enrolled(Party("uninvited").enrol()),
        Opened(PROVIDER.ask(other, "r2")),
        Verified(party.client_id, "r1"),
        ReceiptIssued(party.client_id, "r1", b""),
        ProofsAccepted(other.client_id, "r1", taken),
        ProofsAccepted(party.client_id, "r1", {3: taken[0]}),
        Distributed("00" * 32, "r1"),
        Distributed(party.client_id, "unknown"),
    ]
    for event in refused:
        with pytest.raises(ProtocolError):
            registry.apply(event)
    with pytest.raises(ProtocolError, match="nonce"):
        registry.apply(Enrolled(Party("c").enrol(nonce=load(registry, party.client_id).sealed.record.nonce)))
    assert (state(registry), registry.transitions()) == before


def test_the_audit_trail_tells_what_happened_and_when(registry: Registry) -> None:
    party = Party("a")
    enrol(registry, party)
    walk = steps(party, registry)
    registry.apply(next(walk))
    registry.apply(Rejected(party.client_id, "r1", "It answered without having been asked."))
    trail = registry.transitions(party.client_id)
    assert [(line.event, line.client_status, line.request_status) for line in trail] == [
        ("Enrolled", ClientStatus.ENROLLED, None),
        ("Opened", ClientStatus.PENDING, RequestStatus.OPEN),
        ("Rejected", ClientStatus.QUARANTINED, RequestStatus.FAILED),
    ]
    assert trail[-1].detail == "It answered without having been asked."
    assert all(a.at < b.at for a, b in itertools.pairwise(trail))
    assert registry.transitions("00" * 32) == ()


def test_reopening_gives_everything_back(registry: Registry, place: Path | str) -> None:
    """After each event, another process knows exactly as much as the one that applied it."""
    party = Party("a")
    enrol(registry, party)
    for event in steps(party, registry, sample=2):
        registry.apply(event)
        with Registry(place, FEDERATION) as reopened:
            assert state(reopened) == state(registry)
            finished = isinstance(event, ReceiptIssued)
            assert [request.request_id for request in reopened.unfinished()] == ([] if finished else ["r1"])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_interrupted_anywhere_it_ends_the_same(place: Path | str, data: st.DataObject) -> None:
    """Events repeated after any number of restarts lead to the same state as events that came once."""
    party = Party("a")  # another one in every example
    registry = Registry(place, FEDERATION, clock=Clock())
    registry.add_manifest(make_manifest())
    enrol(registry, party)
    last: list[Event] = []
    for event in steps(party, registry):
        registry.apply(event)
        last.append(event)
        if data.draw(st.booleans()):
            registry.close()
            registry = Registry(place, FEDERATION, clock=Clock())
            registry.apply(last[-1])
    client = registry.client(party.client_id)
    assert client is not None
    assert (client.status, client.theta) == (ClientStatus.PROVED, tuple(party.theta))
    assert len(registry.transitions(party.client_id)) == len(last) + 1
    registry.close()


def test_evidence_makes_receipts_along_the_chain(registry: Registry, tmp_path: Path) -> None:
    """Requests that failed in between do not count; each receipt verifies from the directory alone."""
    party = Party("a")
    enrol(registry, party)
    for number, fails in enumerate((False, True, False)):
        request_id, ids = f"r{number}", (party.client_id, f"r{number}")
        for event in steps(party, registry, request_id):
            if isinstance(event, Distributed) and fails:
                registry.apply(Failed(*ids, "It was withdrawn."))
                break
            if isinstance(event, ReceiptIssued):
                break
            registry.apply(event)
        evidence = registry.evidence(*ids, settings=SETTINGS, verification_key=VERIFICATION_KEY)
        changes: dict[str, Any] = {"chunks_proved": len(evidence.proofs)}
        if fails:
            changes |= {"verdict": "failed", "reasons": ("It was withdrawn.",), "certified_distance": None}
        receipt = issue(evidence, make_outcome(evidence.proofs, **changes), PROVIDER.key)
        registry.apply(ReceiptIssued(*ids, receipt.envelope))
        write_bundle(tmp_path / request_id, receipt.envelope, evidence)
        bundle = read_bundle(tmp_path / request_id, [PROVIDER.key.public_key()])
        assert registry.receipt(*ids) == bundle.receipt.envelope
        client = registry.client(party.client_id)
        assert client is not None
        assert bundle.dossier.post == client.theta
        assert (bundle.dossier.response is None) == fails
    assert len(evidence.earlier) == 1


def test_enrolling_under_a_smaller_model_drops_commitments(registry: Registry) -> None:
    party = Party("a")
    enrol(registry, party)
    small = make_manifest(layers=make_manifest().layers[:1])
    registry.add_manifest(small)
    registry.add_manifest(small)
    registry.apply(invited(registry, party, revision=1, manifest=small))
    client = registry.client(party.client_id)
    assert client is not None
    assert client.theta == tuple(party.theta)
    assert len(client.theta) == small.n_chunks
    assert len(client.curvature) == small.n_curvatures


@pytest.mark.parametrize("change", ["SET envelope = '\\x00'", "SET envelope = '{}'"])
def test_a_damaged_record_is_noticed(registry: Registry, place: Path | str, change: str) -> None:
    party = Party("a")
    enrol(registry, party)
    registry.apply(next(steps(party, registry)))
    registry.close()
    databases.tamper(place, f"UPDATE records {change}")
    with Registry(place, FEDERATION) as reopened:
        (request,) = reopened.requests()
        with pytest.raises(StorageError, match="damaged") as caught:
            _ = request.sealed.record
        assert not caught.value.retryable


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM commitments WHERE position = 1",
        "DELETE FROM draws WHERE chunk = 0",
        "UPDATE draws SET draw = 7 WHERE chunk = 0",
    ],
)
def test_rows_that_are_gone_are_noticed(registry: Registry, place: Path | str, statement: str) -> None:
    party = Party("a")
    enrol(registry, party)
    for event in itertools.islice(steps(party, registry), 4):
        registry.apply(event)
    databases.tamper(place, statement)
    with pytest.raises(StorageError, match="damaged"):
        registry.apply(Verified(party.client_id, "r1")) if "draws" in statement else registry.clients()[0].theta[1]


def test_newer_and_foreign_registries_are_refused(registry: Registry, place: Path | str) -> None:
    registry.close()
    with pytest.raises(InputError, match="another federation"):
        Registry(place, "another")
    databases.tamper(place, "UPDATE meta SET schema_version = 1000")
    with pytest.raises(FormatVersionError, match="version 1000"):
        Registry(place, FEDERATION)


def test_other_programs_databases_are_no_registries(place: Path | str) -> None:
    if isinstance(place, Path):
        place.parent.mkdir()
    databases.tamper(place, "CREATE TABLE something (x INTEGER)")
    with pytest.raises(InputError, match="not a zkapex registry"):
        Registry(place, FEDERATION)


def test_a_locked_registry_says_so(registry: Registry, place: Path | str) -> None:
    """Writers wait for each other, and say so when it takes too long; reading goes on."""
    with Registry(place, FEDERATION, lock_timeout_s=0.05) as impatient:
        with registry._transaction(write=True):
            with pytest.raises(StorageError, match="locked") as caught:
                enrol(impatient, Party("a"))
            assert caught.value.retryable
            assert impatient.clients() == ()
        enrol(impatient, Party("a"))


def test_several_threads_and_registries_write_at_once(registry: Registry, place: Path | str) -> None:
    """Nothing is lost, and the trail is one chain whoever wrote."""
    parties = [Party(name) for name in "abcdef"]
    for party in parties:
        enrol(registry, party)

    def work(party: Party, own: Registry) -> None:
        for event in steps(party, own, sample=2):
            own.apply(event)

    with Registry(place, FEDERATION, clock=registry.now, lock_timeout_s=60) as other, ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(work, party, (registry, other)[at % 2]) for at, party in enumerate(parties)]
        for job in jobs:
            job.result()
    assert {client.client_id: client.theta for client in registry.clients()} == {
        party.client_id: tuple(party.theta) for party in parties
    }
    assert registry.verify_trail().serial == len(registry.transitions()) == 6 * 9


def test_a_value_goes_on_saying_what_it_said(registry: Registry) -> None:
    """Clients and requests are read when they are looked at, and still are what they were when they were returned."""
    party = Party("a")
    enrol(registry, party)
    before = registry.client(party.client_id)
    assert before is not None
    theta = tuple(party.theta)
    walk = steps(party, registry)
    for _ in range(5):
        registry.apply(next(walk))
    halfway = load(registry, party.client_id)
    for event in walk:
        registry.apply(event)
    assert set(halfway.proofs) == {halfway.drawn[0]}
    assert halfway.missing == tuple(halfway.drawn[1:])
    assert halfway.drawn[-1] not in halfway.proofs
    assert before.theta[1] == theta[1]
    assert before.theta == theta
    after = registry.client(party.client_id)
    assert after is not None
    assert after.theta[0] != theta[0]
    assert [after.theta[at] for at in range(len(theta))] == party.theta


def test_missing_chunks_come_in_batches(registry: Registry) -> None:
    party = Party("a")
    enrol(registry, party)
    walk = steps(party, registry)
    assert registry.missing(party.client_id, "r1") == ()
    for _ in range(4):
        registry.apply(next(walk))
    drawn = load(registry, party.client_id).drawn
    assert registry.missing(party.client_id, "r1") == tuple(drawn)
    assert registry.missing(party.client_id, "r1", 2) == tuple(drawn[:2])
    for number, event in enumerate(walk, start=1):
        registry.apply(event)
        missing = registry.missing(party.client_id, "r1")
        assert missing == tuple(drawn[number:]) == load(registry, party.client_id).missing


def test_reasons_hold_what_no_database_does(registry: Registry) -> None:
    party = Party("a")
    enrol(registry, party)
    registry.apply(next(steps(party, registry)))
    registry.apply(Rejected(party.client_id, "r1", "a \0 and half of \ud83d"))
    assert load(registry, party.client_id).reason == "a \N{REPLACEMENT CHARACTER} and half of ?"
    registry.verify_trail()


def test_the_database_itself_refuses_a_proof_twice(registry: Registry, place: Path | str) -> None:
    """The last line of defence, should two writers ever get past the protocol's check."""
    party = Party("a")
    enrol(registry, party)
    for event in steps(party, registry):
        registry.apply(event)
    with pytest.raises(IntegrityError):
        databases.tamper(
            place,
            "INSERT INTO proofs SELECT digest, client_id, request_id, 99, 99, body FROM proofs WHERE number = 1",
        )


def test_only_databases_that_work_are_taken(tmp_path: Path) -> None:
    for location in ("mysql://x/y", "postgresql://x/y", "sqlite://", "sqlite:///:memory:", "://"):
        with pytest.raises(InputError):
            Registry(location, FEDERATION)
    with Registry(f"sqlite:///{tmp_path}/r.sqlite", FEDERATION) as opened:
        assert opened.name == f"{tmp_path}/r.sqlite"


def test_the_clock_is_in_utc() -> None:
    assert utc_now().utcoffset() == timedelta(0)
