"""A registry in an SQLite file: its permissions, and what a damaged file and a full disk lead to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from parties import FEDERATION, Party, make_manifest

from zkapex.errors import StorageError
from zkapex.server.protocol.states import Enrolled
from zkapex.server.store.registry import Registry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    with Registry(path, FEDERATION) as opened:
        opened.add_manifest(make_manifest())
        yield opened


def enrol(registry: Registry, party: Party) -> None:
    registry.apply(Enrolled(party.enrol(nonce=registry.invite())))


def test_the_file_is_for_its_owner_only(registry: Registry, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_other_files_are_not_registries(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, and long enough to have a header of a hundred bytes" * 20)
    with pytest.raises(StorageError, match="damaged"):
        Registry(tmp_path / "text", FEDERATION)
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


def test_a_full_disk_says_so_and_loses_nothing(registry: Registry) -> None:
    party = Party("a")
    enrol(registry, party)
    before = registry.clients()
    assert [len(client.theta) for client in before] == [10]
    with registry._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.rollback()
    with pytest.raises(StorageError, match="cannot grow") as caught:
        [enrol(registry, Party(name)) for name in "bcdefghij"]
    assert caught.value.why == "the disk is full"
    assert caught.value.retryable
    assert registry.clients()[: len(before)] != ()
    registry.verify_trail()
    with registry._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        connection.rollback()
    enrol(registry, Party("z"))
    registry.verify_trail()
