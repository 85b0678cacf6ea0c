"""The databases that a registry can be in, and clocks that run ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import databases
import pytest

from zkapex.server.store import registry as registry_module


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


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Lets the provider's and the devices' clocks run ahead."""
    offset = [timedelta()]

    def now() -> datetime:
        return datetime.now(UTC) + offset[0]

    monkeypatch.setitem(registry_module.Registry.__init__.__kwdefaults__, "clock", now)
    monkeypatch.setattr("zkapex.server.service.Federation.__init__.__defaults__", (now,))

    def advance(by: timedelta) -> None:
        offset[0] += by

    return advance
