"""Arrays and text on the provider's disk: whole or not at all, never unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zkapex.errors import StorageError
from zkapex.storage import load_arrays, load_json, save_arrays, save_text


def test_round_trip_leaves_nothing_over(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a.npz", {"x/y": np.eye(3)})
    save_text(tmp_path / "b.json", '{"ü": 1}')
    assert np.array_equal(load_arrays(tmp_path / "a.npz")["x/y"], np.eye(3))
    assert load_json(tmp_path / "b.json") == {"ü": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.json"]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_what_cannot_be_written_says_so(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    for save in (
        lambda: save_arrays(tmp_path / folder / "a.npz", {"x": np.eye(2)}),
        lambda: save_text(tmp_path / folder / "b", ""),
    ):
        error = refused(save, StorageError)
        assert folder in error.what
        assert error.why
        assert "disk" in error.fix


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([print], dtype=object))
    refused(lambda: load_arrays(tmp_path / "a.npz"), StorageError)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"PK\x03\x04"])
def test_damage_says_what_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    for load in (load_arrays, load_json):
        assert str(tmp_path / "a") in refused(lambda load=load: load(tmp_path / "a"), StorageError).what
        refused(lambda load=load: load(tmp_path / "none"), StorageError)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_changed_archive_is_noticed_or_unharmed(tmp_path: Path, data: st.DataObject) -> None:
    save_arrays(tmp_path / "a.npz", {"x": np.arange(9.0)})
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "a.npz").write_bytes(raw)
    try:
        found = load_arrays(tmp_path / "a.npz")
    except StorageError:
        return
    if "x" in found:
        assert np.array_equal(found["x"], np.arange(9.0))
