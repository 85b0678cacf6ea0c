"""`zkapex new`: its project's own test passes, before and after the tutorial has put another model and data into it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zkapex.errors import InputError
from zkapex.project.make import create, package_name
from zkapex.transport.app import installed_app, settings_of

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs/bring-your-own.md"
FILE = re.compile(r"<!-- file: (\S+); run: tests/project/test_new.py -->\n```python\n(.*?)```", re.DOTALL)


def run(project: Path, *arguments: str) -> str:
    """A program of the project, which is on the path as if it were installed."""
    path = os.pathsep.join([str(project), *sys.path])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_project_passes_its_own_test(tmp_path: Path) -> None:
    written = create(tmp_path / "own-thing")
    assert (tmp_path / "own-thing/own_thing/provider.py") in written
    assert "mymodel" not in "".join(path.read_text(encoding="utf-8") for path in written)
    assert "1 passed" in run(tmp_path / "own-thing", "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.slow  # the project's own test, above, takes the same way
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """Every file of the page, written over the project's; then its test, a run, and a verified receipt."""
    project = tmp_path / "mine"
    create(project)
    files = dict(FILE.findall(TUTORIAL.read_text(encoding="utf-8")))
    assert set(files) == {f"mine/{name}.py" for name in ("model", "data", "task", "provider")}
    for name, text in files.items():
        (project / name).write_text(text, encoding="utf-8")
    assert len(files["mine/provider.py"].splitlines()) <= 45, "a first provider is about 40 lines"
    shown = run(project, "-m", "mine.simulate", "run")
    assert len(re.findall(r": proved, receipt in run/receipts/", shown)) == 2
    before, after = (float(re.search(rf"{when}: .*'forget': ([\d.]+)", shown)[1]) for when in ("before", "after"))  # type: ignore[index]
    assert before > 0.8
    assert after < 0.1
    receipt = next((project / "run/receipts/request-1").iterdir())
    command = "from zkapex.cli import main; main()"
    assert "Verdict: proved" in run(project, "-c", command, "verify", str(receipt), "--trust", "run/key.pub")


def test_its_settings_are_those_of_the_installed_release(tmp_path: Path) -> None:
    create(tmp_path / "mine")
    mine, known = settings_of(tmp_path / "mine"), settings_of(installed_app())
    simulated = {"scenario", "data", "model", "classes", "pixels", "clients", "dishonest", "cheat", "delete", "device"}
    simulated |= {"holder", "forget-samples", "forget-target", "retain-cost", "workers"}
    assert set(known) - simulated == set(mine)
    assert {name for name in mine if mine[name] != known[name]} <= {
        "work-dir", "rounds", "personal-epochs", "forget-class", "operator", "tune-epochs"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["Torch", "1st", "class", "torch", "a-b", ""])
def test_names_that_a_package_cannot_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        create(tmp_path / "x", name)
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something already"):
        create(tmp_path, "fresh")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert package_name(Path("/tmp/My-Hospital 2")) == "my_hospital_2"


@pytest.mark.slow
def test_flower_runs_the_project_too(tmp_path: Path) -> None:
    """`flwr run`, with Flower's own simulation."""
    from zkapex.simulation.federation.launch import run_flower

    project = tmp_path / "mine"
    create(project)
    path = os.pathsep.join([str(project), *sys.path])
    run_flower(project, {}, 2, tmp_path / "run", lambda event: None, environment={"PYTHONPATH": path})
    assert '"verdict": "proved"' in (tmp_path / "run/result.json").read_text(encoding="utf-8")
