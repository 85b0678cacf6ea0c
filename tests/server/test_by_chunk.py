"""What a decision about one chunk reads and writes does not depend on how many there are.

That such decisions are the same as with everything in memory is in ``test_protocol.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parties import FEDERATION, NOW, Party, Provider, make_manifest
from sqlalchemy import event

from zkapex.server.protocol.states import (
    Distributed,
    Drawn,
    Enrolled,
    Extended,
    Opened,
    ProofsAccepted,
    Responded,
)
from zkapex.server.store.registry import Registry


def test_a_proof_costs_the_same_few_rows_whatever_else_there_is(tmp_path: Path) -> None:
    """What is read and written for a proof does not grow with the chunks, with proofs before it, nor with records."""
    party = Party("a")
    with Registry(tmp_path / "r.sqlite", FEDERATION, clock=lambda: NOW) as registry:
        registry.add_manifest(make_manifest())
        registry.apply(Enrolled(party.enrol(nonce=registry.invite())))
        asked = Provider().ask(party)
        ids = (party.client_id, "r1")
        for happened in (Opened(asked), Distributed(*ids), Responded(party.respond(asked.record)), Drawn(*ids)):
            registry.apply(happened)
        request = registry.request(*ids)
        assert request is not None
        drawn = tuple(request.drawn)
        statements: list[list[str]] = []
        values: list[list[Any]] = []

        @event.listens_for(registry._engine, "before_cursor_execute")
        def _note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
            assert not many or "INSERT INTO proofs" in statement or "UPDATE draws" in statement
            statements[-1].append(statement)
            values[-1].append(parameters)

        for chunk in drawn:
            statements.append([])
            values.append([])
            registry.apply(ProofsAccepted(*ids, party.proofs(asked.record, (chunk,))))
        first, second, third = statements
        assert second == third
        assert set(first) <= set(second)  # before there is a proof, nobody has to look for one
        whole = ("commitments", "records", "touched", "enrolments", "manifests")
        assert not [statement for statement in third if any(f"FROM {table}" in statement for table in whole)]
        by_chunk = [text for text in third if "FROM draws" in text or "FROM proofs" in text]
        assert by_chunk
        assert all("chunk = ?" in text or "digest IN" in text for text in by_chunk)
        for statement, given in zip(third, values[2], strict=True):
            if statement.startswith(("SELECT", "UPDATE")) and "FROM trail" not in statement:
                assert_by_index(registry, statement, given)


def assert_by_index(registry: Registry, statement: str, values: Any) -> None:
    """The database finds the rows by an index on all that is asked for, and looks at no others."""
    with registry._engine.connect() as connection:
        plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert all(step.startswith("SEARCH") for step in plan), (statement, plan)
    if "draws" in statement:
        assert all("request=? AND draw=? AND chunk=?" in step for step in plan), (statement, plan)
    if "FROM proofs" in statement and "chunk = ?" in statement:
        assert all("client_id=? AND request_id=? AND chunk=?" in step for step in plan), (statement, plan)


def test_a_mapping_that_is_extended_is_the_same_mapping() -> None:
    base = {1: "a", 2: "b"}
    once = Extended(base, {3: "c", 2: "other"})
    twice = Extended(once, {1: "x", 4: "d", 3: "y"})
    assert once == {1: "a", 2: "b", 3: "c"}
    assert twice == {1: "a", 2: "b", 3: "c", 4: "d"}
    assert (len(once), len(twice), list(twice)) == (3, 4, [1, 2, 3, 4])
