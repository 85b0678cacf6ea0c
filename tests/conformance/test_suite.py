"""Every receipt of the conformance suite is judged as its ``expected.json`` says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import conformance
import pytest
from commands import output_of
from commands import zkapex as command_line
from tiny import srs

import zkapex.errors
from zkapex.errors import Error
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import verify_receipt

KEY = conformance.ROOT / "provider.pem"
NAMES = conformance.names()


@pytest.fixture(autouse=True, scope="module")
def _known_reference_string() -> None:
    """One case relies on the verifier having it."""
    srs()


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str, tmp_path: Path) -> None:
    expected = conformance.case(name)
    folder = conformance.lay(name, tmp_path / "receipt")
    if expected.command != conformance.COMMAND:
        code, _, err = output_of(*expected.arguments(folder))
        assert code == expected.exit_code, err
        assert expected.message in err
        return
    if expected.error in (None, "NotProvedError"):
        verified = verify_receipt(folder, [load_public_key(KEY)])
        assert (verified.bundle.receipt.outcome.verdict == "proved") is (expected.error is None)
        return
    with pytest.raises(Error) as caught:
        verify_receipt(folder, [load_public_key(KEY)])
    assert (type(caught.value).__name__, caught.value.exit_code) == (expected.error, expected.exit_code)
    assert expected.message in caught.value.what


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_case_on_the_command_line(name: str, tmp_path: Path) -> None:
    expected = conformance.case(name)
    folder = conformance.lay(name, tmp_path / "receipt")
    if "report" in expected.command:  # which writes what it is asked for, or nothing
        code, _, err = command_line(*expected.arguments(folder))
        assert (code, expected.message in err) == (expected.exit_code, True), err
        return
    code, out, err = command_line(*expected.arguments(folder), "--json")
    found = json.loads(out)
    assert code == expected.exit_code, err
    assert found.get("error") == expected.error
    assert expected.message in found.get("what", "")
    assert (err == "") is (expected.error is None)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_says_what_it_is(name: str) -> None:
    expected = conformance.case(name)
    assert name.endswith("_fail") is (expected.error is not None)
    assert expected.base is None or conformance.case(expected.base).error is None, "based on an accepted receipt"
    if expected.error is not None:
        assert getattr(zkapex.errors, expected.error).exit_code == expected.exit_code != 0
        assert expected.message
    (line,) = (conformance.ROOT / name / "README.md").read_text(encoding="utf-8").splitlines()
    assert (f"{expected.error} ({expected.exit_code})" if expected.error else "Accepted.") in line


def test_every_folder_is_a_case() -> None:
    folders = {
        path.name for path in conformance.ROOT.iterdir() if path.is_dir() and path.name not in ("__pycache__", "trust")
    }
    assert folders == set(NAMES)


def test_a_stranger_can_lay_a_case_out(tmp_path: Path) -> None:
    script = conformance.__file__
    done = subprocess.run([sys.executable, "-I", script, "sampled", str(tmp_path / "new")], capture_output=True)
    assert done.returncode == 0
    assert {p.name for p in (tmp_path / "new").iterdir()} >= {"receipt.json", "proofs", "circuit"}
    again = subprocess.run([sys.executable, "-I", script, "sampled", str(tmp_path / "new")], capture_output=True)
    assert again.returncode != 0
    assert b"usage" in again.stderr
