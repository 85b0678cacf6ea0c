"""A server from a backup, which begins in doubt (`zkapex.server.deployment.restored`).

An old backup knows less than devices do. What it could make unsafe, and what is done about it:

* the audit of a request that was under way is known to its client by now, which could answer anew: such requests are
  given up, and whoever had one has to prove everything next time;
* a device may hold other weights than the backup says: every client has to enrol again, by proof;
* going on with an old log would show a second history under one key: the log of the server that is replaced is taken
  over, or else a new one begins, under a new key;
* the model is that of then, and requests, quarantines and retirements since are forgotten: no campaign runs before an
  operator has confirmed that they were made again. What is left of the server that is replaced, or is named, is looked
  at for them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from zkapex.errors import Error, IllegalTransitionError, InputError, StorageError
from zkapex.host.files import make_private, sync_folder
from zkapex.host.health import serving
from zkapex.proofs.ledger.log import Log
from zkapex.server.deployment.acts import acts, record
from zkapex.server.deployment.backup import DUMP, load_dump, read_backup
from zkapex.server.deployment.init import renew_guard
from zkapex.server.deployment.reading import registry_of
from zkapex.server.deployment.requests import Order, OrderBook
from zkapex.server.deployment.restored import mark
from zkapex.server.deployment.settings import Place, ServerSettings, load
from zkapex.server.protocol.states import UNDER_WAY, ClientStatus, Failed, Moved

_WHY: Final = "the server was restored from a backup"


@dataclass(frozen=True)
class Restored:
    """What came of restoring a server.

    Attributes
    ----------
    made_at : str
        When the backup was made.
    given_up : tuple of str
        Requests that were under way then, and were given up for some client.
    orders : tuple of str
        Requests that were made since, as far as the folder of the server before knows, and not cancelled.
    acts : tuple of str
        What operators did since, as far as that folder knows.
    set_aside : Path or None
        Where that folder is now.
    new_log : bool
        Whether the transparency log begins anew, under another key, because its latest state is not known.
    """

    made_at: str
    given_up: tuple[str, ...]
    orders: tuple[str, ...]
    acts: tuple[str, ...]
    set_aside: Path | None
    new_log: bool


def restore(archive: Path, root: Path, replace: bool = False, passphrase: bytes | None = None) -> Restored:
    """Put a backup in the place of a server; processes of that server must have ended.

    Parameters
    ----------
    root : Path
        Folder of the server.
    replace : bool
        There may be one, which is set aside beside it.
    passphrase : bytes, optional
        What the archive is encrypted with.

    Raises
    ------
    InputError
        The archive is no backup, or there is a server and it is not to be replaced.
    IllegalTransitionError
        The server that is to be replaced is running.
    VerificationError
        The archive is damaged.
    StorageError
        The disk is full, or the folder cannot be written.
    """
    root = root.resolve()
    if root.exists() and any(root.iterdir()) and not replace:
        raise InputError(f"{root} is not empty", fix="stop its processes, and give --replace to set it aside")
    _refuse_running(root)
    make_private(root.parent)
    fresh = Path(tempfile.mkdtemp(prefix=f".{root.name}.restoring-", dir=root.parent))
    try:
        facts = read_backup(archive, fresh, passphrase)
        place, settings = Place(fresh), load(fresh)
        if settings.database:
            load_dump(settings.database, fresh / DUMP)
            (fresh / DUMP).unlink()
        made_at = str(facts["made_at"])
        mark(place, {"made_at": made_at, "restored_at": datetime.now(UTC).isoformat(timespec="seconds")})
        given_up = _doubt(place, settings, made_at)
        new_log = _ledger(place, Place(root))
        aside = _set_aside(root)
        fresh.rename(root)
        sync_folder(root.parent)
    except OSError as error:
        raise StorageError(f"cannot restore {root}", why=error.strerror or str(error)) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    place = Place(root)
    for folder in (place.logs, place.link / "home", place.provider / "home", place.campaigns, place.operator):
        make_private(folder)
    renew_guard(place, settings)
    orders, since = _since(place, aside)
    record(place, "server.restored", archive.name, f"made at {made_at}")
    return Restored(made_at, given_up, orders, since, aside, new_log)


def _refuse_running(root: Path) -> None:
    try:
        running = serving(load(root).link.health_port)
    except Error:
        return  # there is no server, or its configuration is what was lost
    if running:
        raise IllegalTransitionError(
            f"the server in {root} is running", why="its SuperLink answers", fix="stop its processes first"
        )


def _doubt(place: Place, settings: ServerSettings, made_at: str) -> tuple[str, ...]:
    """Hold nobody to what only the backup says; ids of the requests that are given up."""
    why = f"{_WHY} of {made_at}"
    given_up = []
    try:
        with registry_of(place, settings) as registry:
            for request in registry.unfinished():
                if request.status in UNDER_WAY:
                    registry.apply(Failed(request.client_id, request.request_id, why))
                    given_up.append(request.request_id)
            for client in registry.clients():
                if client.status is not ClientStatus.QUARANTINED:
                    registry.apply(Moved(client.client_id, why))
    except InputError as error:
        if "has not begun" not in error.what:
            raise
    return tuple(dict.fromkeys(given_up))


def _ledger(place: Place, before: Place) -> bool:
    """Never go on with an old log: two histories under one key are what a dishonest provider would show.

    The log of the server that is replaced is taken over if it is there and no shorter; else a new one begins, under a
    new key, and the old one is kept beside it. Returns whether that is so.
    """
    mine, newer = (one.federation / "provider" / "ledger" for one in (place, before))
    if not mine.exists():
        return False
    try:
        if newer.exists() and Log.open(newer).checkpoint().size >= Log.open(mine).checkpoint().size:
            shutil.rmtree(mine)
            shutil.copytree(newer, mine)
            return False
    except (Error, OSError):
        pass  # it is damaged, or gone
    if mine.exists():
        mine.rename(mine.with_name(f"ledger.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"))
    return True


def _set_aside(root: Path) -> Path | None:
    if not root.exists():
        return None
    if not any(root.iterdir()):
        root.rmdir()
        return None
    aside = root.with_name(f"{root.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    root.rename(aside)
    return aside


def _since(place: Place, aside: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Orders and acts that the folder of the server before has and the backup has not."""
    if aside is None:
        return (), ()
    old = Place(aside)
    known = {order.request_id for order in OrderBook(place.requests).all()}
    seen = {act.digest for act in _quietly(lambda: acts(place))}
    orders: list[Order] = [
        order
        for order in _quietly(lambda: OrderBook(old.requests).all())
        if order.open and order.request_id not in known
    ]
    since = [act for act in _quietly(lambda: acts(old)) if act.digest not in seen]
    return (
        tuple(json.dumps(_order(order)) for order in orders),
        tuple(f"{act.at} {act.who} {act.what} {act.subject} {act.reason}".strip() for act in since),
    )


def _order(order: Order) -> dict[str, Any]:
    return {**asdict(order), "about": dict(order.about)}


def _quietly(read: Any) -> Any:
    """What can be read of a folder that may be damaged: it was replaced for a reason."""
    found: Any = []
    with suppress(Error):
        found = read()
    return found
