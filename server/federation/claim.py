"""Whose folder a run's is: one that holds another run is not gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zkapex.errors import InputError
from zkapex.proofs.backends import DEFAULT
from zkapex.server.federation.provider import Provider
from zkapex.server.federation.settings import DECISIVE, RunSettings
from zkapex.storage import load_json, save_text


def claim(path: Path, provider: Provider, settings: RunSettings) -> None:
    """Mark the folder as that of a run, or make sure that it is.

    Parameters
    ----------
    path : Path
        Of the mark, in the provider's folder.
    provider : Provider
    settings : RunSettings

    Raises
    ------
    InputError
        The folder holds another run.
    StorageError
        The mark cannot be written, or is damaged.
    """
    mine: dict[str, Any] = {"federation": provider.federation, "model": provider.name}
    mine |= {name: getattr(settings, name) for name in DECISIVE}
    if not path.exists():
        save_text(path, json.dumps(mine, indent=1))
        return
    found = load_json(path)
    if isinstance(found, dict):
        found.setdefault("backend", DEFAULT)  # there was one when the mark was made
    other = [name for name, value in mine.items() if not isinstance(found, dict) or found.get(name) != value]
    if other:
        raise InputError(
            f"{path.parent.parent} holds another run",
            why=f"with another {', '.join(other)}".replace("_", "-"),
            fix="choose another work-dir, or empty this one",
        )
