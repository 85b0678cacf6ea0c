"""What a run tells the outside while it goes on: one JSON object per line, appended to a file.

The ServerApp runs in a process that Flower starts, so progress reaches the command line, and anybody with ``tail -f``,
through this file. A line is written with one system call and is complete or absent, whatever happens to the process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from zkapex.errors import Error, StorageError

FILE_NAME: Final = "events.jsonl"

COMPLETED: Final = "run.completed"
"""The last event of a run that did what it was asked to. A run that ends without it has failed."""

FAILED: Final = "run.failed"
"""The last event of a run that stopped by an exception: ``error`` (class), ``what``, ``why`` and ``fix``."""


class EventLog:
    """Appends the events of one run to ``work_dir/events.jsonl``.

    As a context manager it also records the exception that ends the block, as :data:`FAILED`.

    Raises
    ------
    StorageError
        The file cannot be created or written.
    """

    def __init__(self, work_dir: Path) -> None:
        self._path = work_dir / FILE_NAME
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise StorageError(f"cannot write the events of the run to {self._path}", why=str(error)) from None

    def emit(self, event: str, **fields: Any) -> None:
        """Append ``{"event": event, "time": seconds since the epoch, **fields}``."""
        line = json.dumps({"event": event, "time": time.time(), **fields}, separators=(",", ":"), allow_nan=False)
        data = line.encode("utf-8") + b"\n"
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            raise StorageError(f"cannot write the events of the run to {self._path}", why=str(error)) from None
        if written != len(data):
            raise StorageError(f"cannot write the events of the run to {self._path}", why="the disk is full")

    def close(self) -> None:
        """Close the file. Emitting afterwards is an error."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        try:
            if isinstance(error, Error):
                self.emit(FAILED, error=type(error).__name__, what=error.what, why=error.why, fix=error.fix)
            elif error is not None:
                self.emit(FAILED, error=type(error).__name__, what=str(error), why="", fix="")
        finally:
            self.close()


class EventReader:
    """Reads the events that were appended to ``work_dir/events.jsonl`` since the last call.

    Parameters
    ----------
    work_dir : Path
        Folder of the run. The file need not exist yet.
    skip_existing : bool
        Start behind what the file already holds, for a run that goes on in the folder of an earlier one.
    """

    def __init__(self, work_dir: Path, *, skip_existing: bool = False) -> None:
        self._path = work_dir / FILE_NAME
        self._offset = self._path.stat().st_size if skip_existing and self._path.exists() else 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the complete lines that came in; a line that is still being written waits for the next call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)
