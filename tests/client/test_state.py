"""The vault: files appear whole or not at all, for their owner only, and damage is named."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from federation import refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zkapex.client.state.vault import Vault
from zkapex.errors import StorageError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_put_is_got_and_private(tmp_path: Path) -> None:
    os.umask(0o022)
    vault = Vault(tmp_path / "a" / "b").inner("c", "d")
    assert not (tmp_path / "a").exists(), "asking makes nothing"
    assert not vault.has("x")
    vault.put("x", b"1")
    vault.put("x", b"2")
    vault.put_arrays("y.npz", {"m": np.eye(2)})
    vault.put_salts("z.json", {"s": (1, 2**254)})
    assert vault.get("x") == b"2"
    assert np.array_equal(vault.get_arrays("y.npz")["m"], np.eye(2))
    assert vault.get_salts("z.json") == {"s": (1, 2**254)}
    assert {mode(path) for path in vault.folder.iterdir()} == {0o600}
    assert {mode(path) for path in (tmp_path / "a").rglob("*") if path.is_dir()} == {0o700}
    assert sorted(path.name for path in vault.folder.iterdir()) == ["x", "y.npz", "z.json"], "nothing is left over"
    vault.clear()
    assert not vault.has("x")
    vault.clear()


def test_what_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    for read in (vault.get, vault.get_arrays, vault.get_salts):
        assert "nothing" in refused(lambda read=read: read("nothing"), StorageError).what


def test_what_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    vault.put("x", b"old")
    vault.put_arrays("y.npz", {"a": np.zeros(1)})
    (tmp_path / ".x.partial").mkdir()
    (tmp_path / ".y.npz.partial").mkdir()
    assert "x" in refused(lambda: vault.put("x", b"new"), StorageError).what
    refused(lambda: vault.put_arrays("y.npz", {"a": np.ones(1)}), StorageError)
    assert vault.get("x") == b"old"
    assert not vault.get_arrays("y.npz")["a"].any()


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(lambda: Vault(tmp_path / "file" / "vault").put("x", b""), StorageError)


def test_a_file_system_that_takes_nothing() -> None:
    assert "/sys" in refused(lambda: Vault(Path("/sys")).put("x", b"1"), StorageError).what


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": ["x"]}', '{"a": [null]}', "\udcff"])
def test_damaged_salts(tmp_path: Path, text: str) -> None:
    (tmp_path / "s").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(lambda: Vault(tmp_path).get_salts("s"), StorageError)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_arrays_are_noticed_or_unharmed(tmp_path: Path, data: st.DataObject) -> None:
    vault = Vault(tmp_path)
    arrays = {"weights": np.arange(12, dtype=np.int64).reshape(3, 4), "mu": np.ones(2)}
    vault.put_arrays("a.npz", arrays)
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([len(raw), position]))
    (tmp_path / "a.npz").write_bytes(raw[:cut])
    try:
        found = vault.get_arrays("a.npz")
    except StorageError:
        return
    for name in set(found) & set(arrays):
        assert np.array_equal(found[name], arrays[name])
