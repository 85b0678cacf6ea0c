"""What an installed zkapex consists of, and that the repository and the package say the same."""

from __future__ import annotations

import io
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk

import zkapex

ROOT = Path(__file__).parents[1]
FOLDERS = ("circuits", "client", "proofs", "server", "simulation")


def tables(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


PROJECT = tables("pyproject.toml")
APP = tables("zkapex/flowerapp/pyproject.toml")


def test_every_folder_is_one_package_seen_from_both_places() -> None:
    for folder in FOLDERS:
        link = ROOT / "zkapex" / folder
        assert link.is_symlink()
        assert link.readlink() == Path("..") / folder
        assert PROJECT["tool"]["setuptools"]["package-dir"][f"zkapex.{folder}"] == folder


def test_every_package_goes_into_the_wheel() -> None:
    found = {"zkapex"}
    for top in (*FOLDERS, "zkapex"):
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            found.add(".".join(parts if parts[0] == "zkapex" else ("zkapex", *parts)))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_versions_agree() -> None:
    assert zkapex.__version__ == PROJECT["project"]["version"] == APP["project"]["version"]


def test_the_app_of_the_package_is_that_of_the_repository() -> None:
    assert APP["tool"]["flwr"] == PROJECT["tool"]["flwr"]


def test_the_bundle_holds_no_code() -> None:
    for app in (ROOT, ROOT / "zkapex" / "flowerapp"):
        with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))) as bundle:
            assert sorted(bundle.namelist()) == [".info/CONTENT", "pyproject.toml"]


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-hub.txt"])
def test_constraints_pin_every_requirement(file: str) -> None:
    pinned = _pinned(file)
    extras = PROJECT["project"]["optional-dependencies"]
    of_file = [names for extra, names in extras.items() if extra != "hub" or file == "constraints-hub.txt"]
    required = [*PROJECT["project"]["dependencies"], *(name for names in of_file for name in names)]
    for requirement in required:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[.*\])?(?:==(.*))?", requirement)
        assert match is not None
        name, version = match.groups()
        if name == "zkapex":
            continue  # an extra that includes others
        assert _normal(name) in pinned, f"{name} is not in {file}: run make lock"
        assert version is None or pinned[_normal(name)] == version
    assert pinned["torch"] == "2.13.0", "a local version such as +cpu cannot be installed everywhere"


def test_data_sets_by_name_change_no_more_versions_than_they_must() -> None:
    """The libraries that load them do not support the releases that everything else is pinned to."""
    own, hub = _pinned("constraints.txt"), _pinned("constraints-hub.txt")
    assert {name for name, version in own.items() if hub.get(name) != version} == {"fsspec", "huggingface-hub"}


def _pinned(file: str) -> dict[str, str]:
    pinned = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert version, f"{line} is not pinned"
            pinned[_normal(name)] = version
    return pinned


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
