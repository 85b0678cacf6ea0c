"""The Flower app that comes with zkapex, and the settings a run of it has."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from zkapex.errors import InputError


def installed_app() -> Path:
    """Folder of the Flower app that comes with the installed package."""
    return Path(str(resources.files("zkapex"))) / "flowerapp"


def settings_of(app_dir: Path) -> dict[str, str | int | float | bool]:
    """The settings a Flower app has, and their defaults: ``[tool.flwr.app.config]`` of its ``pyproject.toml``.

    Raises
    ------
    InputError
        There is no Flower app in ``app_dir``.
    """
    try:
        tables = tomllib.loads((app_dir / "pyproject.toml").read_text(encoding="utf-8"))
        return dict(tables["tool"]["flwr"]["app"]["config"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{app_dir} holds no Flower app", why=f"no settings in its pyproject.toml: {error}") from None


def run_config_of(
    app_dir: Path, overrides: Mapping[str, str | int | float | bool]
) -> dict[str, str | int | float | bool]:
    """A run's settings as Flower makes them: the app's defaults, with overrides of known keys only.

    Raises
    ------
    InputError
        An override names a setting the app does not have, or there is no Flower app in ``app_dir``.
    """
    defaults = settings_of(app_dir)
    if unknown := set(overrides) - defaults.keys():
        raise InputError("a run was given settings it does not have", why=", ".join(sorted(unknown)))
    return {**defaults, **overrides}
