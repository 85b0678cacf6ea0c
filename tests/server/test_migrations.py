"""Registries of older releases are brought up to date when they are opened, and then are as if they always had been."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import databases
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from parties import FEDERATION, NOW, SETTINGS, VERIFICATION_KEY, Party, make_manifest

from zkapex.errors import FormatVersionError, StorageError
from zkapex.proofs.records.record import sha256_hex
from zkapex.server.protocol.states import (
    ClientStatus,
    Drawn,
    Enrolled,
    ProofsAccepted,
    RequestStatus,
    Responded,
    Verified,
)
from zkapex.server.store import migrate
from zkapex.server.store.registry import Registry
from zkapex.server.store.schema import METADATA, SCHEMA_VERSION

DUMP = Path(__file__).parent / "data" / "registry-1.sql"
"""Written by the first release: three clients; `a` went through r1 and r2 (two chunks drawn) and is in the middle of
r3, `b` was found to cheat, `c` does not answer."""


def old(place: Path | str) -> None:
    """Put the first release's registry to a place."""
    source = sqlite3.connect(":memory:" if isinstance(place, str) else place)
    if isinstance(place, Path):
        place.parent.mkdir(exist_ok=True)
    source.executescript(DUMP.read_text(encoding="utf-8"))
    if isinstance(place, str):
        copy(source, place)
    source.close()


def copy(source: sqlite3.Connection, url: str) -> None:
    """Rows of an SQLite database to a PostgreSQL database with the first release's tables."""
    engine = databases.engine_of(url)
    with engine.begin() as connection:
        migrate.upgrade(connection, "0001")
        tables = sa.MetaData()
        tables.reflect(connection)
        source.row_factory = sqlite3.Row
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                rows = [dict(row) for row in source.execute(f"SELECT * FROM {table.name}")]
                connection.execute(sa.insert(table), rows)
        connection.exec_driver_sql("DROP TABLE alembic_version")  # as the first release left it
    engine.dispose()


def party(name: str) -> Party:
    return Party(name, Ed25519PrivateKey.from_private_bytes(bytes(31) + bytes([" abc".index(name)])))


@pytest.fixture
def place(place: Path | str) -> Path | str:
    if isinstance(place, Path):
        place.parent.mkdir()
    old(place)
    return place


def test_everything_is_there_and_goes_on(place: Path | str) -> None:
    a, b, c = party("a"), party("b"), party("c")
    for one in (a, b, c):
        one.enrol()
    with Registry(place, FEDERATION, clock=lambda: NOW) as registry:
        for name in ("r1", "r2"):
            done = registry.request(a.client_id, name)
            assert done is not None
            assert done.response is not None
            assert (done.status, done.verdict, done.missing) == (RequestStatus.RECEIPTED, "proved", ())
            assert registry.receipt(a.client_id, name) == f"receipt of {name}".encode()
            proofs = a.proofs(done.sealed.record, tuple(done.drawn))
            assert done.proofs == {chunk: sha256_hex(body) for chunk, body in proofs.items()}
            a.adopt(done.response.record)
        assert len(done.drawn) == 2
        assert len(done.touched) == 3
        stands = {client.client_id: client for client in registry.clients()}
        for one, status in ((a, ClientStatus.PENDING), (b, ClientStatus.QUARANTINED), (c, ClientStatus.UNREACHABLE)):
            assert stands[one.client_id].status is status
            assert stands[one.client_id].theta == tuple(one.theta)
            assert len(stands[one.client_id].curvature) == make_manifest().n_curvatures
        assert stands[b.client_id].reason == "It cheated."
        evidence = registry.evidence(a.client_id, "r3", settings=SETTINGS, verification_key=VERIFICATION_KEY)
        assert len(evidence.earlier) == 2
        assert len(evidence.proofs) == 1

        going_on = registry.request(a.client_id, "r3")
        assert going_on is not None
        assert going_on.missing == registry.missing(a.client_id, "r3") == tuple(going_on.drawn[1:])
        for chunk in going_on.missing:
            registry.apply(ProofsAccepted(a.client_id, "r3", a.proofs(going_on.sealed.record, (chunk,))))
        registry.apply(Verified(a.client_id, "r3"))
        waiting = registry.request(c.client_id, "r1")
        assert waiting is not None
        registry.apply(Responded(c.respond(waiting.sealed.record)))
        registry.apply(Drawn(c.client_id, "r1"))
        registry.apply(Enrolled(Party("d").enrol(nonce=registry.invite())))
        again = registry.client(c.client_id)
        assert again is not None
        assert again.status is ClientStatus.PENDING


def test_the_trail_becomes_a_chain(place: Path | str) -> None:
    with Registry(place, FEDERATION) as registry:
        trail = registry.transitions()
        assert registry.verify_trail().serial == len(trail)
        assert [line.event for line in trail[:6]] == ["Enrolled"] * 3 + ["Opened", "Distributed", "Responded"]
        assert [line.serial for line in trail] == list(range(1, len(trail) + 1))
        assert trail[-1].event == "Lost"
        assert next(line for line in trail if line.event == "Rejected").detail == "It cheated."
    with pytest.raises(sa.exc.DatabaseError, match="can only be appended to"):
        databases.tamper(place, "DELETE FROM trail")


def test_migrated_and_new_registries_have_the_same_tables(place: Path | str) -> None:
    Registry(place, FEDERATION).close()
    engine = databases.engine_of(place)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == migrate.revision(SCHEMA_VERSION)
        assert compare_metadata(context, METADATA) == []
        assert connection.exec_driver_sql("SELECT schema_version FROM meta").scalar() == SCHEMA_VERSION
        left = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
        assert left == set(METADATA.tables)
    engine.dispose()


def test_new_registries_are_at_the_newest_migration(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.revision(SCHEMA_VERSION)]
    Registry(tmp_path / "new.sqlite", FEDERATION).close()
    engine = databases.engine_of(tmp_path / "new.sqlite")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == migrate.revision(SCHEMA_VERSION)
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(place: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one transaction: what ends it in the middle leaves the old registry, for the next try."""
    with monkeypatch.context() as patch:
        patch.setattr("zkapex.server.store.trail.start", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Registry(place, FEDERATION)
    engine = databases.engine_of(place)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT schema_version FROM meta").scalar() == 1
        assert "transitions" in sa.inspect(connection).get_table_names()
        assert "trail" not in sa.inspect(connection).get_table_names()
    engine.dispose()
    with Registry(place, FEDERATION) as registry:
        registry.verify_trail()


def test_a_newer_registry_is_refused_by_name_and_left_alone(place: Path | str) -> None:
    Registry(place, FEDERATION).close()
    databases.tamper(place, f"UPDATE meta SET schema_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(FormatVersionError, match=f"schema version {SCHEMA_VERSION + 1}") as caught:
        Registry(place, FEDERATION)
    assert str(place).partition("?")[0] in caught.value.what
    assert not isinstance(caught.value, StorageError)
