"""What processes of a deployment say of themselves: one JSON object a line, for machines first.

Every line has ``time`` (UTC, ISO 8601) and ``event``, and names ``client`` and ``request`` wherever it is about one.
A file of lines belongs to its owner only and is kept to a size: when it is full it becomes ``<name>.1``, and the one
before goes. A line that cannot be written is lost, and nothing else: whoever logs is not stopped by a full disk.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

LARGEST_BYTES: Final = 8 * 2**20
_LONGEST: Final = 1000


def line(event: str, **fields: Any) -> str:
    """One line, without its end. Fields that are None are left out; long text is cut."""
    kept = {name: _plain(value) for name, value in fields.items() if value is not None}
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": at, "event": event, **kept}, separators=(",", ":"))


class Journal:
    """A file of such lines.

    Parameters
    ----------
    path : Path
        Its folder exists, or nothing is written.
    largest : int
        Bytes at which it is put aside.
    """

    def __init__(self, path: Path, largest: int = LARGEST_BYTES) -> None:
        self._path = path
        self._largest = largest

    def write(self, event: str, **fields: Any) -> None:
        """Append one line."""
        data = line(event, **fields).encode() + b"\n"
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            try:
                full = os.fstat(descriptor).st_size + len(data) > self._largest
                if not full:
                    os.write(descriptor, data)
            finally:
                os.close(descriptor)
            if full:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self.write(event, **fields)


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    return str(value)[:_LONGEST]
