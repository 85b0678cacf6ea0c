"""Where keys and reference strings are kept, and how files come to be there: whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from zkapex.errors import StorageError


def cache_root() -> Path:
    """The folder all keys live in; created when missing."""
    root = Path(os.environ.get("ZKAPEX_CACHE") or platformdirs.user_cache_dir("zkapex"))
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot create the key cache {root}", why=str(e), fix="set ZKAPEX_CACHE") from e
    return root


def require_writable(folder: Path) -> None:
    """Make a folder of the cache, and raise StorageError unless something can be put there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _unwritable(folder, str(e)) from e
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(folder, "its permissions do not let this user")


@contextmanager
def filling(folder: Path, name: str) -> Iterator[None]:
    """Alone with a folder of the cache, to put there what was not found: who only reads needs neither lock nor rights.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    require_writable(folder)
    try:
        lock = FileLock(folder / f"{name}.lock").acquire()
    except OSError as e:
        raise _unwritable(folder, str(e)) from e
    with lock:
        yield


def _unwritable(folder: Path, why: str) -> StorageError:
    return StorageError(
        f"the cache folder {folder} cannot be written, and lacks what is needed",
        why=why,
        fix="set ZKAPEX_CACHE to a folder of yours, or have its owner build the keys first",
    )


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def checked(path: Path, digest: str) -> Path:
    """The path of a file with this SHA-256 (hex); raises StorageError if it is missing or another."""
    if not path.exists() or sha256_file(path) != digest:
        raise StorageError(f"{path} is missing or damaged", fix="delete the folder it is in; it will be rebuilt")
    return path


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, on the same file system as what it is renamed to; removed afterwards."""
    # Not by tempfile, whose folders are its user's alone: others who share the cache are to read what becomes of it.
    work = parent / f".building-{uuid.uuid4().hex}"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
