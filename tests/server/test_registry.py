"""The registry: what it returns from is on disk, whatever happens next; what cannot be is not stored."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

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
from sqlalchemy.orm import Session

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
from zkapex.server.store.schema import SCHEMA_VERSION, ProofRow

PROVIDER = Provider()


class Clock:
    """Advances by a second at each look."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    with Registry(path, FEDERATION, clock=Clock()) as opened:
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


@pytest.mark.parametrize("statement", ["DELETE FROM transitions", "UPDATE transitions SET event = 'x'"])
def test_the_audit_trail_is_append_only(registry: Registry, path: Path, statement: str) -> None:
    enrol(registry, Party("a"))
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.IntegrityError, match="appended"):
        connection.execute(statement)


def test_reopening_gives_everything_back(registry: Registry, path: Path) -> None:
    """After each event, another process knows exactly as much as the one that applied it."""
    party = Party("a")
    enrol(registry, party)
    for event in steps(party, registry, sample=2):
        registry.apply(event)
        with Registry(path, FEDERATION) as reopened:
            assert state(reopened) == state(registry)
            finished = isinstance(event, ReceiptIssued)
            assert [request.request_id for request in reopened.unfinished()] == ([] if finished else ["r1"])


CRASHING = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
sys.path.insert(0, {support!r})
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from parties import FEDERATION, Party, Provider, make_manifest
from zkapex.server.store import rows
from zkapex.server.store.registry import Registry
from zkapex.server.protocol.states import Enrolled, Opened, Distributed

party = Party("a", Ed25519PrivateKey.from_private_bytes(bytes(32)))
registry = Registry(Path({path!r}), FEDERATION)
registry.add_manifest(make_manifest())
registry.apply(Enrolled(party.enrol(nonce=registry.invite())))
provider = Provider(Ed25519PrivateKey.from_private_bytes(bytes(31) + b"1"))
registry.apply(Opened(provider.ask(party, expires_at=datetime(2100, 1, 1, tzinfo=UTC))))
if {when!r} == "inside":
    # The last thing a transaction writes is its line of the audit trail; die right before.
    rows.TransitionRow = lambda **_: os.kill(os.getpid(), signal.SIGKILL)
registry.apply(Distributed(party.client_id, "r1"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("when", "status"), [("inside", RequestStatus.OPEN), ("after", RequestStatus.DISTRIBUTED)])
def test_a_killed_server_goes_on_where_it_was(path: Path, when: str, status: RequestStatus) -> None:
    support = str(Path(__file__).parents[1] / "support")
    script = textwrap.dedent(CRASHING).format(support=support, path=str(path), when=when)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Registry(path, FEDERATION) as registry:
        (request,) = registry.unfinished()
        assert request.status is status
        assert registry.apply(Distributed(request.client_id, "r1")).request == load(registry, request.client_id)
        assert load(registry, request.client_id).status is RequestStatus.DISTRIBUTED


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_interrupted_anywhere_it_ends_the_same(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Events repeated after any number of restarts lead to the same state as events that came once."""
    path = tmp_path_factory.mktemp("walk") / "registry.sqlite"
    party = Party("a")
    registry = Registry(path, FEDERATION, clock=Clock())
    registry.add_manifest(make_manifest())
    enrol(registry, party)
    last: list[Event] = []
    for event in steps(party, registry):
        registry.apply(event)
        last.append(event)
        if data.draw(st.booleans()):
            registry.close()
            registry = Registry(path, FEDERATION, clock=Clock())
            registry.apply(last[-1])
    client = registry.client(party.client_id)
    assert client is not None
    assert (client.status, client.theta) == (ClientStatus.PROVED, tuple(party.theta))
    assert len(registry.transitions()) == len(last) + 1
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


def test_the_file_is_for_its_owner_only(registry: Registry, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_other_files_are_not_registries(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, and long enough to have a header of a hundred bytes" * 20)
    with pytest.raises(StorageError, match="damaged"):
        Registry(tmp_path / "text", FEDERATION)
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE something (x)")
    with pytest.raises(InputError, match="not a zkapex registry"):
        Registry(tmp_path / "other", FEDERATION)
    with pytest.raises(StorageError):
        Registry(tmp_path, FEDERATION)
    with pytest.raises(StorageError, match="cannot be created"):
        Registry(Path("/proc/no-such-folder/registry.sqlite"), FEDERATION)


def test_a_damaged_file_is_noticed(registry: Registry, path: Path) -> None:
    for name in "abcd":
        enrol(registry, Party(name))
    registry.close()
    data = bytearray(path.read_bytes())
    data[4096 : len(data) // 2] = os.urandom(len(data) // 2 - 4096)
    path.write_bytes(data)
    with pytest.raises(StorageError):
        Registry(path, FEDERATION).clients()


def test_a_damaged_record_is_noticed(registry: Registry, path: Path) -> None:
    party = Party("a")
    enrol(registry, party)
    registry.apply(next(steps(party, registry)))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE requests SET envelope = x'00'")
    connection.close()
    with pytest.raises(StorageError, match="damaged"):
        registry.requests()


def test_newer_and_foreign_registries_are_refused(registry: Registry, path: Path) -> None:
    registry.close()
    with pytest.raises(InputError, match="another federation"):
        Registry(path, "another")
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE meta SET schema_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(FormatVersionError, match=f"version {SCHEMA_VERSION + 1}"):
        Registry(path, FEDERATION)


def test_a_locked_registry_says_so(registry: Registry, path: Path) -> None:
    with Registry(path, FEDERATION, lock_timeout_s=0.05) as impatient:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            enrol(impatient, Party("a"))
        assert impatient.clients() == ()  # reading goes on
        connection.execute("ROLLBACK")
        connection.close()
        enrol(impatient, Party("a"))


def test_a_full_disk_says_so_and_loses_nothing(registry: Registry) -> None:
    party = Party("a")
    enrol(registry, party)
    before = state(registry)
    with registry._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.rollback()
    with pytest.raises(StorageError, match="cannot grow") as caught:
        [enrol(registry, Party(name)) for name in "bcdefghij"]
    assert caught.value.why == "the disk is full"
    assert state(registry)[1] == before[1]
    with registry._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        connection.rollback()
    for event in steps(party, registry):
        registry.apply(event)


def test_the_database_itself_refuses_a_proof_twice(registry: Registry) -> None:
    """The last line of defence, should two writers ever get past the protocol's check."""
    party = Party("a")
    enrol(registry, party)
    for event in steps(party, registry):
        registry.apply(event)
    digest = next(iter(load(registry, party.client_id).proofs.values()))
    row = ProofRow(digest=digest, client_id=party.client_id, request_id="r1", chunk=99, body=b"")
    with Session(registry._engine) as session:
        session.add(row)
        with pytest.raises(IntegrityError):
            session.commit()


def test_the_clock_is_in_utc() -> None:
    assert utc_now().utcoffset() == timedelta(0)
