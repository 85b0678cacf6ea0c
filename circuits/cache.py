"""Where keys and reference strings are kept, and how files come to be there: whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from zkapex.errors import StorageError


def cache_root() -> Path:
    """The folder all keys live in; created when missing."""
    root = Path(os.environ.get("ZKAPEX_CACHE") or platformdirs.user_cache_dir("zkapex"))
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot create the key cache {root}", why=str(e), fix="set ZKAPEX_CACHE") from e
    return root


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
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
