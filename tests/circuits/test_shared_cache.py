"""A cache that several users share, or that can only be read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from limits import case, refuses

from zkapex.circuits import cache
from zkapex.circuits.cache import filling, scratch
from zkapex.circuits.halo2.srs import local_srs
from zkapex.circuits.halo2.store import circuit, require_buildable
from zkapex.circuits.statement import StatementSpec

SPEC = StatementSpec(
    rows_per_chunk=4, block_width=4, curvature_rank=3, ridge=5, guard_rank=1, weight_limit=100, log2_rows=9
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one circuit."""
    folder = tmp_path_factory.mktemp("cache")
    circuit(SPEC, local_srs(9, folder), folder)
    return folder


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder can be written, whoever runs the tests."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.os, "access", lambda path, mode: mode & os.W_OK == 0)
    monkeypatch.setattr(cache, "FileLock", refused)
    monkeypatch.setattr(Path, "mkdir", refused)


@case("cache-readable")
@pytest.mark.usefixtures("read_only")
def test_who_only_reads_needs_no_right_to_write(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srs = local_srs(9, root)
    assert circuit(SPEC, srs, root).rows > 0
    require_buildable(SPEC, root)


@pytest.mark.usefixtures("read_only")
def test_what_is_lacking_and_cannot_be_made_is_said_beforehand(root: Path) -> None:
    other = SPEC.model_copy(update={"ridge": 6})
    for missing in (other, other.model_copy(update={"log2_rows": 10})):
        refuses("cache-lacking", lambda missing=missing: require_buildable(missing, root))  # type: ignore[misc]
    refuses("cache-lacking", lambda: circuit(other, local_srs(9, root), root))
    refuses("cache-lacking", lambda: local_srs(10, root))


def test_a_folder_that_is_a_file_is_said_to_be_unusable(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with_file = tmp_path / "keys"
    refuses("cache-lacking", lambda: filling(with_file, "x").__enter__())


def test_others_may_read_what_one_has_built(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with scratch(tmp_path) as work:
            assert stat.S_IMODE(work.stat().st_mode) == 0o755
    finally:
        os.umask(before)
