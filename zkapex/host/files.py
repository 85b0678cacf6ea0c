"""Files and folders of a deployment: readable by their owner only, whole or not at all, on disk when a call returns."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from zkapex.errors import StorageError

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600


def make_private(folder: Path) -> None:
    """Create a folder for its owner only, and every missing one above it.

    Raises
    ------
    StorageError
        It cannot be created, or exists and is open to others.
    """
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        folder.chmod(PRIVATE_FOLDER)
    except OSError as error:
        raise StorageError(f"cannot create {folder}", why=error.strerror or str(error)) from error


def write_private(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Write a file atomically and durably, with the given permissions from its first byte on.

    Raises
    ------
    StorageError
        The disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}", why=error.strerror or str(error), fix="free disk space") from error


def sync_folder(folder: Path) -> None:
    """Make a renamed or deleted entry of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_others(folder: Path) -> list[Path]:
    """Every file and folder, the folder itself included, that anybody but its owner may read, write or enter."""
    found = []
    for path in (folder, *sorted(folder.rglob("*"))):
        with suppress(FileNotFoundError):
            info = path.lstat()
            if not stat.S_ISLNK(info.st_mode) and stat.S_IMODE(info.st_mode) & 0o077:
                found.append(path)
    return found
