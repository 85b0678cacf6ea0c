"""When a device works: in time windows of its day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time

from zkapex.errors import ResourceError


def inside(windows: Sequence[str], now: time) -> bool:
    """Whether a time of the day is in one of the windows ``HH:MM-HH:MM``; one may go past midnight. None: always."""
    if not windows:
        return True
    for window in windows:
        start, end = (time.fromisoformat(part) for part in window.split("-"))
        if (start <= now < end) if start <= end else (now >= start or now < end):
            return True
    return False


def may_work(windows: Sequence[str], now: datetime | None = None) -> None:
    """Return only if the device works at this time of its day.

    Raises
    ------
    ResourceError
        It does not. A server asks again; nothing was begun.
    """
    at = now or datetime.now().astimezone()
    if not inside(windows, at.time()):
        raise ResourceError(
            "this device does not work at this time", why=f"it works {', '.join(windows)}", fix="ask again then"
        )
