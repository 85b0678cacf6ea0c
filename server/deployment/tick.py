"""One campaign from outside: look for work, submit a run to the SuperLink, wait for its end, and say what came of it.

Whoever is killed here loses nothing: the run goes on, and the next call waits for it before it looks again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from filelock import FileLock, Timeout

from zkapex.errors import Error, ProtocolError, RuntimeFailure
from zkapex.server.deployment.link import COMPLETED, RunState, SuperLink
from zkapex.server.deployment.outcomes import Outcome, outcome_of
from zkapex.server.deployment.restored import refuse_unconfirmed
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.deployment.work import Work, work
from zkapex.server.events import FAILED, EventReader
from zkapex.server.store.registry import utc_now

POLL_S: Final = 1.0
LONGEST_POLL_S: Final = 5.0
"""Every look costs the SuperLink something: a campaign that takes long is looked at less often."""
PATIENCE_S: Final = 120.0
"""How long the SuperLink may not answer while a run is waited for: it is started again if it ends."""
_LOCK: Final = ".tick.lock"


@dataclass(frozen=True)
class Tick:
    """What one call did.

    Attributes
    ----------
    work : tuple of Work
        What there was to do when it began.
    run : int or None
        Number of Flower's run; None if there was nothing that could be done.
    outcome : Outcome or None
        What came of that.
    """

    work: tuple[Work, ...]
    run: int | None = None
    outcome: Outcome | None = None


def tick(place: Place, settings: ServerSettings, link: SuperLink, clock: Callable[[], datetime] = utc_now) -> Tick:
    """Run one campaign, if the registry has work for devices that are online.

    Raises
    ------
    ProtocolError
        Another process does so now.
    IllegalTransitionError
        The server was restored from a backup, and nobody has confirmed what was asked for since.
    RuntimeFailure
        The SuperLink does not answer, or the campaign did not come to its end; the next one goes on.
    """
    refuse_unconfirmed(place)
    lock = FileLock(place.campaigns / _LOCK, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise ProtocolError(
            "a campaign of this server is waited for already", why=f"another process holds {lock.lock_file}"
        ) from None
    try:
        for run in link.active():
            _wait(link, run, settings)
        online = {node.node_id for node in link.nodes() if node.status == "online"}
        found = tuple(work(place, settings, online, clock()))
        if not any(one.ready for one in found):
            return Tick(found)
        name, events = secrets.token_hex(16), EventReader(place.federation, skip_existing=True)
        run = link.submit({"campaign": name})
        state = _wait(link, run, settings)
        outcome = outcome_of(place, name)
        if outcome is None:
            raise _failure(run, state, events)
        return Tick(found, run, outcome)
    finally:
        lock.release()


def _wait(link: SuperLink, run: int, settings: ServerSettings) -> RunState:
    begun = time.monotonic()
    end = begun + 60 * settings.campaigns.longest_minutes
    while not (state := _state(link, run)).over:
        if time.monotonic() > end:
            link.stop(run)
            raise RuntimeFailure(
                f"campaign {run} was stopped", why=f"it took longer than {settings.campaigns.longest_minutes} minutes",
                fix="the next one goes on where it was",
            )  # fmt: skip
        time.sleep(min(LONGEST_POLL_S, POLL_S + (time.monotonic() - begun) / 30))
    return state


def _state(link: SuperLink, run: int) -> RunState:
    patience = time.monotonic() + PATIENCE_S
    while True:
        try:
            return link.state(run)
        except RuntimeFailure:
            if time.monotonic() > patience:
                raise
            time.sleep(POLL_S)


def _failure(run: int, state: RunState, events: EventReader) -> Error:
    """Why a run left no outcome: what it said itself, or else what Flower says."""
    said = [event for event in events.new() if event["event"] == FAILED]
    if said:
        why, fix = f"{said[-1]['what']} ({said[-1]['why']})" if said[-1]["why"] else said[-1]["what"], said[-1]["fix"]
        return RuntimeFailure(f"campaign {run} stopped", why=why, fix=fix or "the next one goes on where it was")
    ended = "it was killed" if state.sub_status != COMPLETED else "its outcome is missing"
    return RuntimeFailure(
        f"campaign {run} did not come to its end", why=state.details or ended,
        fix="see logs/superexec.log; the next one goes on where it was",
    )  # fmt: skip
