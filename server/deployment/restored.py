"""A server that was restored from a backup begins in doubt: what was asked for since is not in it.

Until an operator has confirmed that everything since is asked for again, no campaign runs: the model in the backup
holds what was deleted after it, and clients that were quarantined since look honest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zkapex.errors import IllegalTransitionError, InputError
from zkapex.host.files import write_private
from zkapex.server.deployment.settings import Place
from zkapex.storage import load_json


def mark(place: Place, facts: dict[str, Any]) -> None:
    """Note that the server was restored, and from what."""
    write_private(_path(place), json.dumps(facts, indent=1).encode())


def unconfirmed(place: Place) -> dict[str, Any] | None:
    """What a server was restored from, as long as nobody has confirmed it; else None."""
    if not _path(place).exists():
        return None
    found = load_json(_path(place))
    return found if isinstance(found, dict) else {}


def confirm(place: Place) -> None:
    """Let campaigns run again.

    Raises
    ------
    InputError
        There is nothing to confirm.
    """
    if not _path(place).exists():
        raise InputError("this server waits for no confirmation")
    _path(place).unlink()


def refuse_unconfirmed(place: Place) -> None:
    """Return only if there is nothing to confirm.

    Raises
    ------
    IllegalTransitionError
        There is.
    """
    found = unconfirmed(place)
    if found is not None:
        raise IllegalTransitionError(
            "the server was restored from a backup, and nobody has confirmed it",
            why=f"what was asked for and whom was quarantined since {found.get('made_at', 'then')} is not known here",
            fix="ask for it again under new ids, quarantine again, then: zkapex server confirm-restore",
        )


def _path(place: Place) -> Path:
    return place.provider / "restored.json"
