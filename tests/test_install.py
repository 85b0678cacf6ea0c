"""The wheel, installed with each extra into a fresh environment: what it must not hold, and that its command runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import conformance
import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HEAVY = {"torch", "flwr", "ray", "scikit-learn", "sqlalchemy"}
COMMANDS: dict[str, list[str]] = {
    "agent": ["device", "init", "--help"],
    "server": ["server", "init", "DIR", "--host", "localhost", "--provider", "a.b:c"],
    "web": ["server", "console", "nowhere"],
    "postgresql": ["bench", "registry", "--help"],
    "report": ["report", "--help"],
    "scitt": ["receipts", "export", "--help"],
    "transparent": ["estimate", "--help"],
    "simulation": ["demo", "--help"],
    "cluster": ["bench", "proof", "--help"],
}
MODULES = {
    "agent": "zkapex.client.deployment.app",
    "server": "zkapex.server.app",
    "web": "zkapex.server.console.app",
    "postgresql": "psycopg",
    "report": "weasyprint",
    "scitt": "scitt_cose",
    "transparent": "zkapex.circuits.transparent.prove",
    "simulation": "zkapex.simulation.demo.demo",
    "cluster": "zkapex.proofs.jobs.cluster",
}
REFUSED = {"web": 10}
"""Exit codes of commands that have nothing to work on, and say so."""


def run(
    *command: object, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    run("git", "clone", "-q", ROOT, source)
    made = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    assert made.returncode == 0, made.stderr
    return next(folder.glob("*.whl"))


def installed(wheel: Path, folder: Path, extra: str) -> Path:
    """A fresh environment with the wheel and an extra, at the versions that are pinned."""
    assert run(sys.executable, "-m", "venv", folder).returncode == 0
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = run(*pip, "--constraint", ROOT / "constraints.txt", what)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def packages(programs: Path) -> set[str]:
    listed = run(programs / "python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")
    return {one["name"].lower() for one in json.loads(listed.stdout)}


def test_the_base_is_a_verifier_and_small(wheel: Path, tmp_path: Path) -> None:
    """`pip install zkapex`, outside of the repository: no torch, no Flower, below 250 MB, and a receipt verifies."""
    programs = installed(wheel, tmp_path / "base", "")
    assert not packages(programs) & HEAVY
    used = sum(path.lstat().st_size for path in (tmp_path / "base").rglob("*") if path.is_file())
    assert used < 250e6, f"{used / 1e6:.0f} MB"
    case = conformance.case("mask_only")
    arguments = case.arguments(conformance.lay("mask_only", tmp_path / "receipt"))
    cold = {**os.environ, "ZKAPEX_CACHE": str(tmp_path / "cache")}
    done = run(programs / "zkapex", *arguments, "--json", cwd=tmp_path, environment=cold)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["proofs_verified"] > 0
    assert run(programs / "zkapex", "new", "mine", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("extra", COMMANDS)
def test_an_extra_brings_what_its_command_needs(wheel: Path, tmp_path: Path, extra: str) -> None:
    programs = installed(wheel, tmp_path / "env", extra)
    found = run(programs / "python", "-c", f"import {MODULES[extra]}", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    done = run(programs / "zkapex", *COMMANDS[extra], cwd=tmp_path)
    assert done.returncode == REFUSED.get(extra, 0), done.stdout + done.stderr
