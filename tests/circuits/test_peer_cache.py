"""Keys are fetched from a peer's cache rather than built, if they are what is noted beside them."""

from __future__ import annotations

from pathlib import Path

import ezkl
import pytest
from tiny import spec, srs

from zkapex.circuits.halo2.store import circuit
from zkapex.errors import StorageError

MASK_ONLY = spec(kind="mask-only", curvature="none", curvature_rank=0, ridge=0, guard_rank=0, inner_columns=1)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("peer")
    circuit(MASK_ONLY, srs(), root)
    return root


@pytest.fixture(autouse=True)
def no_build(peer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKAPEX_PEER_CACHE", str(peer))
    monkeypatch.setattr(ezkl, "setup", lambda *_: pytest.fail("the keys were built"))


def test_keys_are_fetched(peer: Path, tmp_path: Path) -> None:
    mine, theirs = circuit(MASK_ONLY, srs(), tmp_path), circuit(MASK_ONLY, srs(), peer)
    assert mine.folder.is_relative_to(tmp_path)
    for path in theirs.folder.iterdir():
        assert (mine.folder / path.name).read_bytes() == path.read_bytes()
    assert mine.vk_digest == theirs.vk_digest


@pytest.mark.parametrize("name", ["pk.key", "vk.key", "circuit.ezkl", "settings.json"])
def test_altered_keys_are_refused_and_nothing_is_kept(name: str, peer: Path, tmp_path: Path) -> None:
    theirs = circuit(MASK_ONLY, srs(), peer).folder / name
    sound = theirs.read_bytes()
    theirs.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    try:
        with pytest.raises(StorageError) as caught:
            circuit(MASK_ONLY, srs(), tmp_path)
    finally:
        theirs.write_bytes(sound)
    assert name in caught.value.what
    assert not [p for p in (tmp_path / "keys").iterdir() if p.is_dir()]


def test_a_peer_without_a_file_is_reported(peer: Path, tmp_path: Path) -> None:
    theirs = circuit(MASK_ONLY, srs(), peer).folder / "pk.key"
    sound = theirs.read_bytes()
    theirs.unlink()
    try:
        with pytest.raises(StorageError):
            circuit(MASK_ONLY, srs(), tmp_path)
    finally:
        theirs.write_bytes(sound)
