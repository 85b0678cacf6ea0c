"""What a client or a request holds much of, read from the registry by the chunk, or in whole once somebody asks.

A view is a value: it goes on saying what it said when it was made, whatever is stored after that. So the rules can be
judged on it, and callers can keep it, as if it were the tuple or the mapping that it equals.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, overload

from sqlalchemy import Connection, bindparam, select

from zkapex.errors import Error, StorageError
from zkapex.proofs.records.record import Record, sha256_hex
from zkapex.proofs.records.sealed import Sealed, restore
from zkapex.server.store.schema import COMMITMENTS, DRAWS, PROOFS, RECORDS, TOUCHED

T = TypeVar("T")
R = TypeVar("R", bound=Record)

# Built once: building a statement takes SQLAlchemy longer than the database takes to run it.
_POINTS = (
    select(COMMITMENTS.c.position, COMMITMENTS.c.point)
    .where(
        COMMITMENTS.c.client_id == bindparam("client"),
        COMMITMENTS.c.kind == bindparam("of"),
        COMMITMENTS.c.version <= bindparam("as_of"),
        COMMITMENTS.c.position < bindparam("length"),
    )
    .order_by(COMMITMENTS.c.position, COMMITMENTS.c.version)
)
_POINT = _POINTS.where(COMMITMENTS.c.position == bindparam("at"))
_IN_DRAW = select(DRAWS.c.chunk).where(DRAWS.c.request == bindparam("of"), DRAWS.c.draw == bindparam("number"))
_DRAW = _IN_DRAW.order_by(DRAWS.c.chunk)
_IS_DRAWN = _IN_DRAW.where(DRAWS.c.chunk == bindparam("at"))
_PROVED = select(PROOFS.c.chunk, PROOFS.c.digest).where(
    PROOFS.c.client_id == bindparam("client"),
    PROOFS.c.request_id == bindparam("request"),
    PROOFS.c.number <= bindparam("as_of"),
)
_ALL_PROVED = _PROVED.order_by(PROOFS.c.chunk)
_ONE_PROVED = _PROVED.where(PROOFS.c.chunk == bindparam("at"))


class Reader(Protocol):
    """Runs a query: in the transaction that this thread is in, or in one of its own."""

    def __call__(self, query: Callable[[Connection], T], /) -> T:
        """Run it."""
        ...


class _View(Sequence[T], ABC):
    """A tuple that is still in the database."""

    def __init__(self, read: Reader, length: int) -> None:
        self._read = read
        self._length = length
        self._whole: tuple[T, ...] | None = None if length else ()

    @abstractmethod
    def _load(self, connection: Connection) -> tuple[T, ...]:
        """Read all of it."""

    def _all(self) -> tuple[T, ...]:
        if self._whole is None:
            whole = self._read(self._load)
            if len(whole) != self._length:
                raise StorageError(
                    "the registry is damaged",
                    why=f"{self._length} rows were stored, {len(whole)} are there",
                    fix="restore a backup",
                )
            self._whole = whole
        return self._whole

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self._all()[index]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, tuple | _View):
            return NotImplemented
        return len(other) == self._length and self._all() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} of {self._length}>"


class Points(_View[str]):
    """A client's commitments of one kind, as of a version of the client."""

    def __init__(self, read: Reader, client_id: str, kind: str, version: int, length: int) -> None:
        super().__init__(read, length)
        self._which = {"client": client_id, "of": kind, "as_of": version, "length": length}
        self._one: dict[int, str] = {}

    def _load(self, connection: Connection) -> tuple[str, ...]:
        newest = {row.position: row.point for row in connection.execute(_POINTS, self._which)}
        return tuple(newest.values())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if self._whole is not None or isinstance(index, slice) or not 0 <= index < self._length:
            return self._all()[index]
        if index not in self._one:
            which = {**self._which, "at": index}
            points = [row.point for row in self._read(lambda connection: connection.execute(_POINT, which).all())]
            if not points:
                raise StorageError("the registry is damaged", why=f"commitment {index} is gone", fix="restore a backup")
            self._one[index] = points[-1]
        return self._one[index]


class Touched(_View[int]):
    """The chunks a request touches."""

    def __init__(self, read: Reader, request: int, length: int) -> None:
        super().__init__(read, length)
        self._request = request

    def _load(self, connection: Connection) -> tuple[int, ...]:
        text = connection.execute(select(TOUCHED.c.chunks).where(TOUCHED.c.request == self._request)).scalar_one()
        return tuple(json.loads(text))


class Drawn(_View[int]):
    """The chunks of one draw, ascending."""

    def __init__(self, read: Reader, request: int, draw: int, length: int) -> None:
        super().__init__(read, length)
        self._which = {"of": request, "number": draw}
        self._known: dict[int, bool] = {}

    def _load(self, connection: Connection) -> tuple[int, ...]:
        return tuple(connection.execute(_DRAW, self._which).scalars())

    def __contains__(self, chunk: object) -> bool:
        if self._whole is not None or not isinstance(chunk, int):
            return chunk in self._all()
        if chunk not in self._known:
            which = {**self._which, "at": chunk}
            self._known[chunk] = self._read(lambda connection: connection.execute(_IS_DRAWN, which).first()) is not None
        return self._known[chunk]


class Proved(Mapping[int, str]):
    """Digests of the proofs of a request by chunk, as far as they were accepted when this was made."""

    def __init__(self, read: Reader, client_id: str, request_id: str, length: int) -> None:
        self._read = read
        self._length = length
        self._which = {"client": client_id, "request": request_id, "as_of": length}
        self._known: dict[int, str | None] = {}
        self._whole: dict[int, str] | None = None if length else {}

    def _all(self) -> dict[int, str]:
        if self._whole is None:
            rows = self._read(lambda connection: connection.execute(_ALL_PROVED, self._which).all())
            self._whole = {row.chunk: row.digest for row in rows}
        return self._whole

    def __getitem__(self, chunk: int) -> str:
        if self._whole is not None:
            return self._whole[chunk]
        if chunk not in self._known:
            which = {**self._which, "at": chunk}
            row = self._read(lambda connection: connection.execute(_ONE_PROVED, which).first())
            self._known[chunk] = None if row is None else row.digest
        digest = self._known[chunk]
        if digest is None:
            raise KeyError(chunk)
        return digest

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(self._all())

    def __repr__(self) -> str:
        return f"<proofs of {self._length} chunks>"


class StoredSealed(Sealed[R]):
    """A signed record that was verified before it was stored, and is read and parsed when somebody looks into it."""

    def __init__(self, kind: type[R], digest: str, read: Reader) -> None:
        vars(self).update(digest=digest, _kind=kind, _read=read)

    def __getattr__(self, name: str) -> Any:
        if name == "envelope":
            value: Any = self._read(self._fetch)
        elif name == "record":
            try:
                value = restore(self._kind, self.envelope).record
            except Error as error:
                raise _damaged(error.what) from error
        else:
            raise AttributeError(name)
        vars(self)[name] = value
        return value

    def _fetch(self, connection: Connection) -> bytes:
        return fetch_record(connection, self.digest)

    def __repr__(self) -> str:
        return f"<sealed {self._kind.kind} {self.digest[:16]}…>"


def fetch_record(connection: Connection, digest: str) -> bytes:
    """Read a signed record's envelope.

    Raises
    ------
    StorageError
        It is not there, or not what was stored.
    """
    envelope = connection.execute(select(RECORDS.c.envelope).where(RECORDS.c.digest == digest)).scalar()
    if not isinstance(envelope, bytes) or sha256_hex(envelope) != digest:
        raise _damaged("it is gone" if envelope is None else "it has another digest")
    return envelope


def _damaged(why: str) -> StorageError:
    return StorageError("a signed record in the registry is damaged", why=why, fix="restore a backup")
