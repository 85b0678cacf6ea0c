"""The notebooks of the documentation run, cell by cell, from any folder of the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUN = """
import json, sys
space = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), sys.argv[1], "exec"), space)
"""


def run(name: str) -> str:
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", RUN, f"{name}.ipynb"],
        cwd=ROOT / "docs/notebooks",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_table_of_the_results_is_computed_again() -> None:
    methods = json.loads((ROOT / "results" / "digits.json").read_text(encoding="utf-8"))["methods"]
    assert f"{len(methods)} rows agree" in run("results")


@pytest.mark.slow
def test_an_operator_is_added_from_outside() -> None:
    assert "halved" in run("operator")


def test_notebooks_are_kept_without_output() -> None:
    for path in (ROOT / "docs/notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells), path.name
