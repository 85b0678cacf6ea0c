"""What operators ask to be forgotten: one file a request, from when it is made to when it is over.

A request is a file ``<id>.json`` in the provider's folder: what is to be forgotten, on which legal basis, by when. What
came of it is in the registry; this is the order, with who is to be told what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from zkapex.errors import IllegalTransitionError, InputError, StorageError
from zkapex.host.files import write_private

LEGAL_BASES: Final = ("gdpr-17-erasure", "gdpr-7-withdrawal", "gdpr-21-objection", "ccpa-deletion", "contract", "other")
_ID: Final = re.compile("[a-z0-9][a-z0-9-]{0,63}")
_OPEN, _CANCELLED = "open", "cancelled"


@dataclass(frozen=True)
class Order:
    """A request as an operator made it.

    Attributes
    ----------
    request_id : str
    about : mapping
        What is to be forgotten, as the server's provider understands it.
    legal_basis : str
        One of `LEGAL_BASES`.
    note : str
    created_at, due_at : str
        ISO 8601, UTC; `due_at` is when it has to be done.
    status : str
        ``open`` or ``cancelled``.
    repeats : str
        The request that this one repeats; empty if it is new.
    clients : tuple of str
        Ids of the clients that a repetition is for.
    """

    request_id: str
    about: Mapping[str, str | int | float | bool] = field(hash=False)
    legal_basis: str
    note: str
    created_at: str
    due_at: str
    status: str = _OPEN
    repeats: str = ""
    clients: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether it is to be carried out."""
        return self.status == _OPEN


class OrderBook:
    """The requests of a server.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    StorageError
        From every method: a file is damaged, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Order]:
        """All requests, the oldest first."""
        found = [self._read(path) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda order: (order.created_at, order.request_id))

    def get(self, request_id: str) -> Order:
        """One request.

        Raises
        ------
        InputError
            There is none of this id.
        """
        path = self._path(request_id)
        if not path.exists():
            raise InputError(f"there is no request {request_id}", fix="zkapex server requests list")
        return self._read(path)

    def check(self, order: Order) -> None:
        """Return only if a request could be kept.

        Raises
        ------
        InputError
            There is one of this id, or something about it is not understood.
        """
        if order.legal_basis not in LEGAL_BASES:
            raise InputError(f"{order.legal_basis!r} is no legal basis", fix=f"choose one of {', '.join(LEGAL_BASES)}")
        path = self._path(order.request_id)
        if path.exists():
            raise InputError(f"there is a request {order.request_id} already", fix="choose another id")

    def create(self, order: Order) -> None:
        """Keep a new request.

        Raises
        ------
        InputError
            As `check`.
        """
        self.check(order)
        self._write(order)

    def cancel(self, request_id: str, sent: bool) -> None:
        """Take a request back that nobody was asked to follow yet.

        Raises
        ------
        IllegalTransitionError
            Devices have been asked (`sent`): what they deleted does not come back.
        """
        order = self.get(request_id)
        if sent:
            raise IllegalTransitionError(
                f"request {request_id} can no longer be cancelled",
                why="devices were asked already, and what they deleted does not come back",
            )
        self._write(replace(order, status=_CANCELLED))

    def about(self, request_id: str) -> Mapping[str, str | int | float | bool]:
        """What a request is about; nothing if it was not made by an operator."""
        return self._read(self._path(request_id)).about if self._path(request_id).exists() else {}

    def before(self, request_id: str) -> tuple[str, ...]:
        """See `zkapex.server.federation.provider.Orders`."""
        ids = [order.request_id for order in self.all() if order.open or order.request_id == request_id]
        return tuple(ids[: ids.index(request_id)] if request_id in ids else ids)

    def deadline(self, request_id: str) -> datetime | None:
        """See `zkapex.server.federation.provider.Orders`."""
        path = self._path(request_id)
        return datetime.fromisoformat(self._read(path).due_at) if path.exists() else None

    def repeats(self, request_id: str) -> tuple[str, frozenset[str]] | None:
        """See `zkapex.server.federation.provider.Orders`."""
        path = self._path(request_id)
        found = self._read(path) if path.exists() else None
        return None if found is None or not found.repeats else (found.repeats, frozenset(found.clients))

    def _path(self, request_id: str) -> Path:
        if not _ID.fullmatch(request_id):
            raise InputError(f"{request_id!r} is no id of a request", fix="use lower-case letters, digits and hyphens")
        return self._folder / f"{request_id}.json"

    def _read(self, path: Path) -> Order:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return Order(**{**found, "clients": tuple(found.get("clients", ()))})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StorageError(f"{path} is damaged", why=str(error), fix="restore it from a backup") from None

    def _write(self, order: Order) -> None:
        write_private(self._path(order.request_id), json.dumps(asdict(order), indent=1).encode())


def utc_text(moment: datetime) -> str:
    """A moment as it is kept."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")
