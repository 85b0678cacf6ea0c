"""The audit trail: append-only, and a chain that shows what was done to it by whoever may write to the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import databases
import pytest
from parties import FEDERATION, Party, Provider, make_manifest
from sqlalchemy.exc import DatabaseError

from zkapex.errors import VerificationError
from zkapex.server.protocol.states import Distributed, Enrolled, Opened, Rejected, Responded
from zkapex.server.store.registry import Registry
from zkapex.server.store.trail import Head, start

UNLOCK = {
    Path: ("DROP TRIGGER trail_no_update", "DROP TRIGGER trail_no_delete"),
    str: ("DROP TRIGGER trail_append_only ON trail",),
}


@pytest.fixture
def party() -> Party:
    return Party("a")


@pytest.fixture
def registry(place: Path | str, party: Party) -> Iterator[Registry]:
    """With five entries."""
    with Registry(place, FEDERATION) as opened:
        opened.add_manifest(make_manifest())
        assert opened.verify_trail() == start(FEDERATION)
        opened.apply(Enrolled(party.enrol(nonce=opened.invite())))
        asked = Provider().ask(party, expires_at=opened._clock().replace(year=2100))
        for event in (Opened(asked), Distributed(party.client_id, "r1"), Responded(party.respond(asked.record))):
            opened.apply(event)
        opened.apply(Rejected(party.client_id, "r1", "It did not do what was asked."))
        yield opened


def unlocked(place: Path | str, *statements: str) -> None:
    databases.tamper(place, *UNLOCK[Path if isinstance(place, Path) else str], *statements)


@pytest.mark.parametrize("statement", ["DELETE FROM trail", "UPDATE trail SET event = 'x'", "TRUNCATE trail"])
def test_the_database_refuses_to_change_it(registry: Registry, place: Path | str, statement: str) -> None:
    if isinstance(place, Path) and statement.startswith("TRUNCATE"):
        pytest.skip("SQLite has no TRUNCATE")
    with pytest.raises(DatabaseError, match="can only be appended to"):
        databases.tamper(place, statement)
    assert registry.verify_trail().serial == 5


def test_entries_commit_to_what_events_brought(registry: Registry, party: Party) -> None:
    enrolled, opened, distributed, responded, _ = registry.transitions(party.client_id)
    client, request = registry.client(party.client_id), registry.request(party.client_id, "r1")
    assert client is not None
    assert request is not None
    assert request.response is not None
    assert enrolled.content == client.enrolment_digest
    assert opened.content == request.sealed.digest
    assert distributed.content == ""
    assert responded.content == request.response.digest


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE trail SET detail = '' WHERE serial = 5", "entry 5 .* was changed"),
        ("UPDATE trail SET at = '2020-01-01T00:00:00+00:00' WHERE serial = 1", "entry 1 .* was changed"),
        ("UPDATE trail SET request_id = NULL WHERE serial = 3", "entry 3 .* was changed"),
        ("UPDATE trail SET request_id = '' WHERE serial = 1", "entry 1 .* was changed"),
        ("UPDATE trail SET content = '' WHERE serial = 4", "entry 4 .* was changed"),
        ("UPDATE trail SET client_status = 'proved' WHERE serial = 5", "entry 5 .* was changed"),
        ("UPDATE trail SET digest = client_id WHERE serial = 2", "entry 2 .* was changed"),
        ("DELETE FROM trail WHERE serial = 3", "entry 3 .* is missing"),
        ("DELETE FROM trail WHERE serial = 1", "entry 1 .* is missing"),
        ("UPDATE trail SET serial = 0 WHERE serial = 1", "entry 1 .* is missing"),
    ],
)
def test_what_was_tampered_with_is_named(registry: Registry, place: Path | str, statement: str, message: str) -> None:
    assert registry.verify_trail().serial == 5
    unlocked(place, statement)
    with pytest.raises(VerificationError, match=message):
        registry.verify_trail()


def test_a_trail_that_was_computed_anew_shows_to_who_kept_its_head(
    registry: Registry, place: Path | str, party: Party
) -> None:
    known = registry.verify_trail()
    assert registry.verify_trail(known) == known
    assert registry.verify_trail(start(FEDERATION)) == known
    unlocked(place, "DELETE FROM trail WHERE serial = 5")
    assert registry.verify_trail().serial == 4  # a shorter chain is a chain
    with pytest.raises(VerificationError, match=r"entry 5 .* is missing"):
        registry.verify_trail(known)
    registry.apply(Enrolled(Party("b").enrol(nonce=registry.invite())))
    assert registry.verify_trail().serial == 5
    with pytest.raises(VerificationError, match=r"entry 5 .* is not the one that was known"):
        registry.verify_trail(known)
    with pytest.raises(VerificationError, match="not the one that was known") as caught:
        registry.verify_trail(Head(0, "00" * 32))
    assert caught.value.why == "it is another federation's"
