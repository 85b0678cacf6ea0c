"""Where a process can be killed: right before one of its durable writes (a rename, a deletion, a commit)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy.event
from sqlalchemy.engine import Engine


@dataclass(frozen=True)
class Kill:
    """SIGKILL at a durable write.

    Attributes
    ----------
    who : str
        ``server``, or ``device``.
    at : int
        Number of the write, from 0; see `Points`.
    step : str
        Of a device: the step it is at.
    client : int
        Which device.
    times : int
        How many of that device's processes are killed so.
    """

    who: str
    at: int
    step: str = ""
    client: int = 0
    times: int = 1


class Points:
    """Counts the durable writes of this process in a folder, and kills it right before one of them.

    Right after one is right before the next, as far as a disk knows. What changes nothing is not counted: a commit of
    a transaction that only read, a file that is deleted if it is there, and is not, and whatever is elsewhere.

    Parameters
    ----------
    root : Path
    at : int, optional
        Number of the write, from 0, that is never done.
    """

    def __init__(self, root: Path, at: int | None = None) -> None:
        self.root, self.at = root, at
        self.seen: list[str] = []
        self.paused = 0

    def reach(self, what: str) -> None:
        if self.paused:
            return
        self.seen.append(what)
        if self.at == len(self.seen) - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Another party is at work in this process."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    def watch(self) -> None:
        """From now on until the end of the process."""
        for name in ("rename", "replace", "unlink", "rmdir"):
            setattr(os, name, self._before(name, getattr(os, name)))
        sqlalchemy.event.listen(Engine, "commit", self._commit)

    def _commit(self, connection: sqlalchemy.Connection) -> None:
        database: Any = connection.connection.dbapi_connection
        before, connection.info["changes"] = connection.info.get("changes", 0), database.total_changes
        if connection.info["changes"] != before:
            self.reach("commit")

    def _before(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = Path(os.fspath(args[-1]))
            if kwargs.get("dir_fd") is not None:
                path = Path(f"/proc/self/fd/{kwargs['dir_fd']}").resolve() / path
            there = name in ("rename", "replace") or os.path.lexists(path)
            if there and path.is_relative_to(self.root):
                self.reach(f"{name} {path.relative_to(self.root)}")
            return real(*args, **kwargs)

        return call
