"""What came of campaigns, and what did not work: files beside the requests, light to read for every command."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from zkapex.errors import StorageError
from zkapex.host.files import make_private, write_private
from zkapex.server.deployment.requests import utc_text
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.requests.due import Due
from zkapex.server.requests.folder import PLANNED, Order
from zkapex.storage import load_json

KEPT: Final = 50
"""Outcomes of campaigns that are kept."""
_ID: Final = re.compile("[0-9a-f]{32}")
_SETBACKS: Final = "setbacks.json"


@dataclass(frozen=True)
class Outcome:
    """What came of a campaign.

    Attributes
    ----------
    started_at, ended_at : str
        ISO 8601, UTC.
    left : tuple of Due
        What clients are still to be asked for.
    problems : dict of str to str
        What could not be done, by ``request:ID`` or ``node:NUMBER``, or ``campaign``; and why.
    """

    started_at: str
    ended_at: str
    left: tuple[Due, ...]
    problems: dict[str, str]


@dataclass(frozen=True)
class Setback:
    """What did not work and is not tried again at once.

    Attributes
    ----------
    at : str
        ISO 8601, UTC.
    reason : str
    """

    at: str
    reason: str


def outcome_of(place: Place, name: str) -> Outcome | None:
    """What came of a campaign; None if it did not come to its end."""
    path = place.campaigns / f"{name}.json"
    if not _ID.fullmatch(name) or not path.exists():
        return None
    found = load_json(path)
    try:
        return Outcome(**{**found, "left": tuple(Due(**one) for one in found["left"])})
    except (TypeError, KeyError) as error:
        raise StorageError(f"{path} is damaged", why=str(error)) from None


def setbacks(place: Place) -> dict[str, Setback]:
    """What did not work at the last campaign that tried it."""
    path = place.campaigns / _SETBACKS
    found = load_json(path) if path.exists() else {}
    try:
        return {key: Setback(**value) for key, value in found.items()}
    except TypeError as error:
        raise StorageError(f"{path} is damaged", why=str(error), fix="delete it") from None


def forget_setback(place: Place, key: str) -> None:
    """Have the next campaign try something again that did not work."""
    _write_setbacks(place, {name: one for name, one in setbacks(place).items() if name != key})


def planned(place: Place, request_id: str) -> bool:
    """Whether a request was planned, which makes it one of the federation's."""
    return (Order(place.federation).folder(request_id).provided / PLANNED).exists()


def may_try(known: dict[str, Setback], key: str, settings: ServerSettings, now: datetime) -> bool:
    """Whether enough time has passed since something did not work."""
    if key not in known:
        return True
    waited = now - datetime.fromisoformat(known[key].at)
    return waited.total_seconds() >= 60 * settings.campaigns.retry_minutes


def keep_setbacks(place: Place, problems: dict[str, str], now: datetime) -> None:
    """Only what failed now is kept, and what was not tried because it had failed."""
    at, before = utc_text(now), setbacks(place)
    waiting = {
        key: one
        for key, one in before.items()
        if key.startswith("request:") and key not in problems and not planned(place, key.removeprefix("request:"))
    }
    tried = {key: Setback(at, reason) for key, reason in problems.items() if key != "campaign"}
    _write_setbacks(place, waiting | tried)


def _write_setbacks(place: Place, found: dict[str, Setback]) -> None:
    make_private(place.campaigns)
    text = json.dumps({key: asdict(one) for key, one in found.items()}, indent=1)
    write_private(place.campaigns / _SETBACKS, text.encode())


def keep(place: Place, name: str, outcome: Outcome) -> None:
    """Keep what came of a campaign under the name it was asked for by; old ones go."""
    if not _ID.fullmatch(name):
        return
    write_private(place.campaigns / f"{name}.json", json.dumps(asdict(outcome), indent=1).encode())
    old = [path for path in place.campaigns.glob("*.json") if path.name != _SETBACKS]
    for path in sorted(old, key=_modified, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    return path.stat().st_mtime
