"""The databases that a registry can be in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import databases
import pytest


@pytest.fixture(scope="session")
def server() -> Iterator[databases.Server]:
    """A PostgreSQL server of the tests' own. What its disks do is not what is tested."""
    if databases.programs() is None:
        pytest.skip(databases.WHY_NOT)
    with databases.postgresql("fsync=off", "full_page_writes=off") as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a registry can be: a path that does not exist, or the URL of an empty database."""
    if request.param == "sqlite":
        return tmp_path / "state" / "registry.sqlite"
    server: databases.Server = request.getfixturevalue("server")
    return server.database()
