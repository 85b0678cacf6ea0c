"""The wheel in a fresh environment: as a verifier it needs little, and verifies a receipt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import conformance
import pytest

ROOT = Path(__file__).parents[2]
LARGEST = 250 * 2**20
"""Bytes that an environment of the verifier may take."""
HEAVY = ("torch", "flwr", "ray", "sklearn", "sqlalchemy")
"""Modules that the verifier does without."""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of what is committed."""
    clone = tmp_path_factory.mktemp("source") / "zkapex"
    run("git", "clone", "-q", ROOT, clone, cwd=ROOT)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", clone / "dist", clone, cwd=clone)
    (found,) = (clone / "dist").glob("zkapex-*.whl")
    return found


@pytest.mark.slow
def test_the_verifier_alone(wheel: Path, tmp_path: Path) -> None:
    """`pip install zkapex`, outside of the repository: no torch, no Flower, below 250 MB, and a receipt verifies."""
    home = tmp_path / "venv"
    run(sys.executable, "-m", "venv", home, cwd=tmp_path)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    found = run(
        python, "-c", f"import importlib.util as u; print([m for m in {HEAVY} if u.find_spec(m)])", cwd=tmp_path
    )
    assert found.strip() == "[]"
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < LARGEST, size
    assert "zkapex" in run(home / "bin" / "zkapex", "--version", cwd=tmp_path)
    case = conformance.case("mask_only")
    run(home / "bin" / "zkapex", *case.arguments(conformance.lay("mask_only", tmp_path / "receipt")), cwd=tmp_path)
