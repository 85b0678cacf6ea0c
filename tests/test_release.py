"""What a release consists of: built the same twice, and files around the code that say what is true."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import zkapex

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == zkapex.__version__
    assert citation["license"] == "Apache-2.0"


def test_actions_are_pinned_by_digest() -> None:
    for workflow in (ROOT / ".github/workflows").glob("*.yml"):
        jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
        used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
        assert used
        assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)
        assert any(step.get("run") == "bash .ci/run" for job in jobs.values() for step in job["steps"])


def test_issue_forms_ask_for_something() -> None:
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"):
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= content.keys()
        assert any(item.get("validations", {}).get("required") for item in content["body"])


@pytest.mark.slow
def test_two_builds_are_one(tmp_path: Path) -> None:
    """From two clones in different places: wheel, sdist and SBOM have one digest each."""
    digests = []
    for name in ("one", "another/place"):
        clone = tmp_path / name
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        if (ROOT / ".venv-release").exists():  # the tools, not what is built with them
            (clone / ".venv-release").symlink_to(ROOT / ".venv-release")
        built = subprocess.run(["bash", ".ci/release"], cwd=clone, check=True, capture_output=True, text=True)
        digests.append(re.findall(r"^([0-9a-f]{64})  (dist/\S+)$", built.stdout, re.MULTILINE))
        shutil.rmtree(clone)
    assert len(digests[0]) == 3
    assert digests[0] == digests[1]
