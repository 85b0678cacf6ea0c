"""Files that appear whole or not at all, and survive a power cut once written."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from zkapex.errors import StorageError


def put(path: Path, data: bytes, mode: int = 0o644, by: Path | None = None) -> None:
    """Write a file, replacing an earlier one; returns when it is on the disk.

    Parameters
    ----------
    path : Path
    data : bytes
    mode : int
    by : Path, optional
        Where it is until it is whole, on the same disk: whoever is killed in between leaves that behind. By default
        beside it, under a hidden name.

    Raises
    ------
    StorageError
        It could not be written.
    """
    temporary = by or path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if by is not None:
            by.unlink(missing_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path} could not be written", why=error.strerror or str(error)) from error


def sync(folder: Path) -> None:
    """Return when the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
