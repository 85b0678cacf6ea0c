"""A device's state at rest: sealed to its name, altered bytes found out, migrated from plain."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from zkapex.client.state.cipher import CREDENTIAL, FORMAT, Cipher, find_secret, open_state
from zkapex.client.state.key import device_key
from zkapex.client.state.salts import LOG, SaltLedger
from zkapex.client.state.vault import Vault
from zkapex.errors import FormatVersionError, InputError, SaltsSpentError, StorageError
from zkapex.proofs.records.signing import public_key_hex

SECRET = b"a passphrase of some length"


def test_nothing_of_the_content_is_on_the_disk(tmp_path: Path) -> None:
    vault = Vault(tmp_path, open_state(tmp_path, SECRET)).inner("requests", "r")
    vault.put("a.json", b"a secret sentence")
    vault.put_arrays("w.npz", {"w": np.full(100, 0x41424344, dtype=np.int64)})
    vault.put_salts("s.json", {"theta/0": (12345678901234567890,)})
    on_disk = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(word in on_disk for word in (b"secret", b"DCBA", b"12345678901234567890", b"theta"))
    assert vault.get("a.json") == b"a secret sentence"
    assert vault.get_arrays("w.npz")["w"][0] == 0x41424344
    assert vault.get_salts("s.json") == {"theta/0": (12345678901234567890,)}


def test_a_file_is_bound_to_its_name_and_its_folder(tmp_path: Path) -> None:
    vault = Vault(tmp_path, open_state(tmp_path, SECRET))
    vault.inner("requests", "a").put("response.json", b"of a")
    vault.inner("requests", "b").put("response.json", b"of b")
    (tmp_path / "requests/a/response.json").replace(tmp_path / "requests/b/response.json")
    with pytest.raises(StorageError, match="damaged"):
        vault.inner("requests", "b").get("response.json")


def test_every_altered_byte_is_found_out(tmp_path: Path) -> None:
    vault = Vault(tmp_path, open_state(tmp_path, SECRET))
    vault.put("model.npz", b"weights")
    sealed = bytearray((tmp_path / "model.npz").read_bytes())
    for place in range(len(sealed)):
        changed = sealed.copy()
        changed[place] ^= 1
        (tmp_path / "model.npz").write_bytes(changed)
        with pytest.raises(StorageError):
            vault.get("model.npz")
    (tmp_path / "model.npz").write_bytes(b"weights")
    with pytest.raises(StorageError, match="not encrypted"):
        vault.get("model.npz")


def test_another_key_and_a_newer_format_are_said(tmp_path: Path) -> None:
    open_state(tmp_path, SECRET)
    with pytest.raises(InputError, match="another key"):
        open_state(tmp_path, SECRET + b"!")
    path = tmp_path / FORMAT
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(FormatVersionError):
        open_state(tmp_path, SECRET)


def test_where_the_key_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "state.key"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(InputError, match="not here"):
        find_secret(None, own)
    own.write_bytes(b"own" * 10)
    assert find_secret(None, own) == b"own" * 10
    (tmp_path / CREDENTIAL).write_bytes(b"credential" * 3)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert find_secret(None, own) == b"credential" * 3
    named = tmp_path / "named"
    named.write_bytes(b"short")
    with pytest.raises(InputError, match="too short"):
        find_secret(named, own)


def test_a_plain_state_becomes_an_encrypted_one_even_if_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Vault(tmp_path)
    key = public_key_hex(device_key(plain).public_key())
    for index in range(6):
        plain.inner("requests", str(index)).put("response.json", f"answer {index}".encode())
    ledger = SaltLedger(plain)
    for _ in range(2):
        ledger.spend({"theta/0": (1, 2, 3, 4)})
    real, left = Cipher.seal, 5

    def failing(self: Cipher, name: str, data: bytes) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("power is gone")
        return real(self, name, data)

    monkeypatch.setattr(Cipher, "seal", failing)
    with pytest.raises(OSError, match="power"):
        open_state(tmp_path, SECRET)
    monkeypatch.setattr(Cipher, "seal", real)
    vault = Vault(tmp_path, open_state(tmp_path, SECRET))
    assert [vault.inner("requests", str(i)).get("response.json") for i in range(6)] == [
        f"answer {i}".encode() for i in range(6)
    ]
    assert public_key_hex(device_key(vault).public_key()) == key
    again = SaltLedger(vault)
    again.spend({"theta/0": (1, 2, 3, 4)})
    with pytest.raises(SaltsSpentError):
        again.spend({"theta/0": (1, 2, 3, 4)})
    assert not any(b"answer" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_openings_are_counted_encrypted_whatever_a_crash_leaves(tmp_path: Path) -> None:
    vault = Vault(tmp_path, open_state(tmp_path, SECRET))
    ledger = SaltLedger(vault)
    ledger.spend({"theta/0": (1, 2, 3)})
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole + whole[: random.Random(0).randrange(1, len(whole) - 1)])
    ledger.spend({"theta/0": (1, 2, 3)})
    with pytest.raises(SaltsSpentError):
        ledger.spend({"theta/0": (1, 2, 3)})
    lines = (tmp_path / LOG).read_bytes().splitlines(keepends=True)
    (tmp_path / LOG).write_bytes(b"".join(reversed(lines)))
    with pytest.raises(StorageError, match="damaged"):
        ledger.require([{"theta/0": (1, 2, 3)}])


def test_files_are_their_owner_s_only(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", open_state(tmp_path / "state", SECRET))
    device_key(vault)
    vault.inner("requests", "r").put("a", b"")
    for path in (tmp_path / "state", *(tmp_path / "state").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
