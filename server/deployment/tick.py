"""One campaign from outside: submit a run if there is something to do, wait for its end, say what came of it."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import zkapex.errors
from zkapex.errors import Error, ProtocolError, RuntimeFailure, StorageError
from zkapex.server.deployment.app import CAMPAIGN
from zkapex.server.deployment.link import COMPLETED, SuperLink
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.events import FAILED, EventReader

_POLL_S: Final = 0.5
_LONGEST_S: Final = 24 * 3600.0


@dataclass(frozen=True)
class Tick:
    """What one call came to.

    Attributes
    ----------
    outcome : str
        ``done``, or ``idle`` if there was nothing to do or nobody to ask.
    why : str
        For a person.
    left : int
        How much clients are still to be asked for, as far as is known.
    """

    outcome: str
    why: str
    left: int = 0

    def words(self) -> str:
        """In a sentence."""
        return f"{self.outcome}: {self.why}" + (f", {self.left} still due" if self.left else "")


def tick(place: Place, settings: ServerSettings, timeout_s: float = _LONGEST_S) -> Tick:
    """Run one campaign.

    Raises
    ------
    ProtocolError
        Another one is going on.
    RuntimeFailure
        The SuperLink does not answer, or the run failed for a reason of Flower's.
    Error
        What stopped the campaign, as it was raised there.
    """
    with _alone(place), SuperLink(settings.link.port, place.link / "ca.pem") as link:
        online = sum(node.status == "online" for node in link.nodes())
        if not online:
            return Tick("idle", "no device is online")
        name = uuid.uuid4().hex
        events = EventReader(place.federation, skip_existing=True)
        run_id = link.submit({CAMPAIGN: name})
        deadline = time.monotonic() + timeout_s
        try:
            while not (state := link.state(run_id)).over:
                if time.monotonic() > deadline:
                    raise RuntimeFailure(f"the campaign did not end within {timeout_s:.0f} s", fix="see its log")
                time.sleep(_POLL_S)
        except BaseException:
            link.stop(run_id)
            raise
        mine = list(events.new())
        for event in mine:
            if event["event"] == FAILED:
                raise _raised(event)
        if state.sub_status != COMPLETED:
            raise RuntimeFailure(
                f"the campaign ended as {state.sub_status or state.status}", why=state.details,
                fix=f"see {place.logs / 'superexec.log'}",
            )  # fmt: skip
        left = next((int(event["left"]) for event in mine if event["event"] == "campaign.ended"), 0)
        return Tick("done", f"a campaign with {online} devices online", left)


def _raised(event: dict[str, str]) -> Error:
    kind = getattr(zkapex.errors, event["error"], None)
    if isinstance(kind, type) and issubclass(kind, Error):
        return kind(event["what"], why=event["why"], fix=event["fix"])
    return RuntimeFailure(f"the campaign failed: {event['error']}: {event['what']}")


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    path = place.provider / "campaign.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"cannot lock {path}", why=str(error)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ProtocolError("another campaign is going on", fix="wait for its end") from None
    finally:
        os.close(descriptor)
