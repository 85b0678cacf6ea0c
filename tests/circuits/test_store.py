"""Keys on disk: built once, checked whenever they are used, and never half there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import ezkl
import onnx
import pytest
from tiny import SRS_FILE, spec, srs, tiny

from zkapex.circuits.cache import sha256_file
from zkapex.circuits.halo2.srs import Srs, find_srs, import_srs, local_srs
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import ProverError, ResourceError, StorageError, VerificationError

SMALL = StatementSpec(
    rows_per_chunk=4, block_width=4, curvature_rank=3, ridge=5, guard_rank=1, weight_limit=100, log2_rows=9
)


@pytest.fixture(scope="module")
def small_srs(tmp_path_factory: pytest.TempPathFactory) -> Srs:
    return local_srs(9, tmp_path_factory.mktemp("srs"))


@pytest.fixture(scope="module")
def built(small_srs: Srs, tmp_path_factory: pytest.TempPathFactory) -> Circuit:
    return circuit(SMALL, small_srs, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def copy(built: Circuit, tmp_path: Path) -> Path:
    """A cache root with a copy of the built circuit."""
    shutil.copytree(built.folder.parent, tmp_path / "keys")
    return tmp_path


def folder_of(root: Path) -> Path:
    return next(p for p in (root / "keys").iterdir() if p.is_dir())


def test_a_circuit_is_built_once(built: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ezkl, "setup", None)
    again = circuit(SMALL, built.srs, built.folder.parent.parent)
    assert again == built
    assert again.rows <= 2**9
    assert built.srs.origin == "local"


def test_two_builds_give_the_same_keys(built: Circuit, small_srs: Srs, tmp_path: Path) -> None:
    again = circuit(SMALL, small_srs, tmp_path)
    assert (again.vk_digest, again.settings_digest) == (built.vk_digest, built.settings_digest)
    assert sha256_file(again.pk) == sha256_file(built.pk)


@pytest.mark.parametrize("name", ["vk.key", "settings.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_files_are_reported(copy: Path, small_srs: Srs, name: str, damage: str) -> None:
    victim = folder_of(copy) / name
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(bytes(data) if damage == "flip" else bytes(data[:-1]))
    with pytest.raises(StorageError, match="missing or damaged"):
        circuit(SMALL, small_srs, copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"statement": {}}', "null"])
def test_a_damaged_description_is_reported(copy: Path, small_srs: Srs, text: str) -> None:
    (folder_of(copy) / "built.json").write_text(text)
    with pytest.raises(StorageError, match="no usable circuit"):
        circuit(SMALL, small_srs, copy)


def test_a_folder_without_description_is_rebuilt(copy: Path, small_srs: Srs, built: Circuit) -> None:
    (folder_of(copy) / "built.json").unlink()
    assert circuit(SMALL, small_srs, copy).vk_digest == built.vk_digest


def start(root: Path, given: Srs, before: str = "", **environment: str) -> subprocess.Popen[bytes]:
    """Build `SMALL` in a process of its own, after running some code there."""
    program = f"""
import os, signal
from pathlib import Path
from zkapex.circuits.halo2 import store
from zkapex.circuits.statement import StatementSpec
{before}
spec = StatementSpec.model_validate_json({SMALL.model_dump_json()!r})
store.circuit(spec, store.Srs(Path({str(given.path)!r}), {given.digest!r}, "local"), Path({str(root)!r}))
"""
    return subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **environment})


DIE_BEFORE_RENAMING = """
real = Path.rename
def die(self, target):
    if self.name.startswith(".building-"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
Path.rename = die
"""


def test_a_build_killed_before_it_is_put_in_place_leaves_no_circuit(small_srs: Srs, tmp_path: Path) -> None:
    assert start(tmp_path, small_srs, DIE_BEFORE_RENAMING).wait(60) == -signal.SIGKILL
    assert [p for p in (tmp_path / "keys").iterdir() if p.is_dir() and not p.name.startswith(".building-")] == []
    assert circuit(SMALL, small_srs, tmp_path).spec == SMALL


def test_concurrent_builders_share_one_build(small_srs: Srs, tmp_path: Path) -> None:
    builders = [start(tmp_path, small_srs) for _ in range(3)]
    assert [builder.wait(60) for builder in builders] == [0, 0, 0]
    assert len([p for p in (tmp_path / "keys").iterdir() if p.is_dir()]) == 1


def test_tables_that_another_program_left_are_not_believed(small_srs: Srs, built: Circuit, tmp_path: Path) -> None:
    """ezkl's shared cache of lookup tables: neither a half-written nor an altered table there makes a difference."""
    for name in Path(os.environ["EZKL_REPO_PATH"], "cache").iterdir():
        (tmp_path / "cache" / name.name).mkdir(parents=True)
    assert start(tmp_path, small_srs, EZKL_REPO_PATH=str(tmp_path), HOME=str(tmp_path)).wait(60) == 0
    assert circuit(SMALL, small_srs, tmp_path).vk_digest == built.vk_digest


def test_a_full_disk_is_a_resource_error_and_leaves_nothing(
    small_srs: Srs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(ResourceError, match="building keys"):
        circuit(SMALL, small_srs, tmp_path)
    assert [p for p in (tmp_path / "keys").iterdir() if p.is_dir()] == []


def test_a_statement_that_does_not_fit_its_rows_is_refused(small_srs: Srs, tmp_path: Path) -> None:
    with pytest.raises(ProverError, match="rows"):
        circuit(SMALL.model_copy(update={"rows_per_chunk": 100}), small_srs, tmp_path)
    with pytest.raises(ProverError, match="rows"):
        circuit(SMALL.model_copy(update={"weight_limit": 300}), small_srs, tmp_path)


@pytest.mark.parametrize("bad", ["garbage", "truncated", "empty", "too small"])
def test_a_reference_string_that_is_none_is_an_error_not_a_panic(bad: str, small_srs: Srs, tmp_path: Path) -> None:
    data = small_srs.path.read_bytes()
    content = {"garbage": bytes(range(256)) * 400, "truncated": data[: len(data) // 2], "empty": b"", "too small": b""}
    path = tmp_path / "bad.srs"
    if bad == "too small":
        ezkl.gen_srs(str(path), 5)
    else:
        path.write_bytes(content[bad])
    with pytest.raises(ProverError, match="could not build"):
        circuit(SMALL, Srs(path, sha256_file(path), "imported"), tmp_path)


def test_local_reference_strings_are_made_once_and_checked(small_srs: Srs) -> None:
    root = small_srs.path.parent.parent
    assert local_srs(9, root) == small_srs
    assert find_srs(small_srs.digest, "local", root) == small_srs
    assert find_srs("0" * 64, root=root) is None


def test_a_damaged_local_reference_string_is_reported(small_srs: Srs, tmp_path: Path) -> None:
    shutil.copytree(small_srs.path.parent, tmp_path / "srs")
    victim = tmp_path / "srs" / small_srs.path.name
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(StorageError, match="damaged"):
        local_srs(9, tmp_path)
    with pytest.raises(StorageError, match="damaged"):
        find_srs(small_srs.digest, root=tmp_path)


def test_importing_checks_the_digest(tmp_path: Path) -> None:
    data = SRS_FILE.read_bytes()
    with pytest.raises(VerificationError, match="digest"):
        import_srs(data[:-1], sha256_file(SRS_FILE), 12, root=tmp_path)
    assert not (tmp_path / "srs").exists() or list((tmp_path / "srs").iterdir()) == []
    imported = import_srs(data, sha256_file(SRS_FILE), 12, root=tmp_path)
    assert imported.path.read_bytes() == data
    assert imported.origin == "imported"
    assert import_srs(data, imported.digest, 12, root=tmp_path) == imported


def test_the_settings_say_what_the_statement_needs() -> None:
    run = json.loads(tiny().settings.read_text())["run_args"]
    assert run["input_visibility"] == "KZGCommit"
    assert run["output_visibility"] == "Public"
    assert run["param_visibility"] == "Fixed"
    assert run["disable_freivalds"] is True, "ezkl's own argument proves nothing"
    assert run["lookup_range"] == [-spec().weight_limit, spec().weight_limit]
    assert tiny().srs == srs()
