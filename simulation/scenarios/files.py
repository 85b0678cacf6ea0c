"""Scenarios as files: what a run of Flower is told, in TOML. Some come with zkapex, in ``simulation/scenarios/``.

``flwr run . --run-config FILE`` reads them as they are; ``zkapex demo --scenario`` takes the name of one, or a file.
"""

from __future__ import annotations

import os
import tomllib
from importlib import resources
from pathlib import Path

from zkapex.errors import InputError
from zkapex.transport.app import installed_app, settings_of

Value = str | int | float | bool
FOLDER = Path(str(resources.files("zkapex.simulation.scenarios")))
WORK_DIR = "work-dir"
"""The one setting in a file that is Flower's command line's: a demo has its own folder."""


def scenario_names() -> list[str]:
    """The scenarios that come with zkapex."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_scenario(name: str) -> dict[str, Value]:
    """The settings in a scenario's file.

    Parameters
    ----------
    name : str
        One of `scenario_names`, or the path of a file, which ends in ``.toml``.

    Raises
    ------
    InputError
        There is no such file, or it holds something else than settings of a run.
    """
    known = name in scenario_names()
    if not known and not name.endswith(".toml"):
        raise InputError(
            f"there is no scenario {name!r}",
            fix=f"choose one of {', '.join(scenario_names())}, or a file that ends in .toml",
        )
    path = FOLDER / f"{name}.toml" if known else Path(name)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is not a readable scenario", why=str(e), fix="give another --scenario") from None
    defaults = settings_of(installed_app())
    for key, value in found.items():
        if key not in defaults:
            raise InputError(f"{path} sets {key!r}, which no run has", fix=f"use those of {', '.join(defaults)}")
        wanted = type(defaults[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise InputError(f"{key} in {path} is {value!r}", fix=f"give a value of type {wanted.__name__}")
    if "scenario" not in found:
        raise InputError(f"{path} names no scenario", fix='add a line such as scenario = "mnist-writers"')
    found.pop(WORK_DIR, None)
    return found


def absolute(source: str) -> str:
    """The data or model that someone means here, as it is called from any folder."""
    if not source or source.startswith("hub:"):
        return source
    path = Path(os.path.abspath(Path(source).expanduser()))  # noqa: PTH100 - links are left as they are
    return str(path) if path.exists() else source
