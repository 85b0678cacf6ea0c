"""Imports go one way: circuits <- proofs <- client, server <- simulation <- the command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "zkapex/host",
    "circuits",
    "proofs",
    "zkapex/unlearning",
    "zkapex/transport",
    "client",
    "server",
    "zkapex/costs",
    "simulation",
)
"""From the bottom up; client and server stand side by side."""

FOUNDATION = {"zkapex", "zkapex.errors", "zkapex.foreign", "zkapex.storage"}
MATHEMATICS = FOUNDATION | {"zkapex.circuits", "zkapex.proofs", "zkapex.unlearning"}
PARTIES = MATHEMATICS | {"zkapex.transport.wire", "zkapex.host"}
ALLOWED: dict[str, set[str]] = {
    "zkapex/host": FOUNDATION | {"zkapex.host"},
    "circuits": FOUNDATION | {"zkapex.circuits"},
    "proofs": FOUNDATION | {"zkapex.circuits", "zkapex.proofs"},
    "zkapex/unlearning": MATHEMATICS,
    "zkapex/transport": FOUNDATION | {"zkapex.proofs.records", "zkapex.transport"},
    "client": PARTIES | {"zkapex.client"},
    "server": PARTIES | {"zkapex.transport.peers", "zkapex.transport.app", "zkapex.server"},
    "zkapex/costs": PARTIES | {"zkapex.transport", "zkapex.client", "zkapex.server", "zkapex.costs"},
    "simulation": PARTIES | {"zkapex.transport", "zkapex.client", "zkapex.server", "zkapex.costs", "zkapex.simulation"},
}
"""What each folder may import of zkapex: these modules and all below them."""

MODULES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def folder_of(path: Path) -> str:
    return next(folder for folder in FOLDERS if path.is_relative_to(ROOT / folder))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, as an absolute name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            module = node.module or ""
            # `from zkapex.client import curvature` names the module only together with the alias.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name: str, modules: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules if module != "zkapex")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    folder = folder_of(path)
    wrong = [
        name
        for name in imports_of(path)
        if name.split(".")[0] == "zkapex"
        and not within(name, ALLOWED[folder])
        and name not in {"zkapex.__version__", "zkapex"}
    ]
    assert not wrong, f"{folder} must not import {wrong}"


@pytest.mark.parametrize("path", [path for path in MODULES if folder_of(path) in {"circuits", "proofs"}], ids=str)
def test_statement_and_proofs_import_neither_torch_nor_flower(path: Path) -> None:
    forbidden = {"torch", "flwr"} if path.name == "cluster.py" else {"torch", "flwr", "ray"}
    assert not {name.split(".")[0] for name in imports_of(path)} & forbidden, "Ray only for those who have a cluster"


def test_statement_and_proofs_load_neither_torch_nor_flower() -> None:
    """As above, with whatever the modules they import import in turn."""
    names = [
        f"zkapex.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}".removesuffix(".__init__")
        for path in MODULES
        if folder_of(path) in {"circuits", "proofs"}
    ]
    script = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'flwr', 'ray') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
