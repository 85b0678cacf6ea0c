"""Named arrays and text on disk, whole or not at all, and there when a call returns, whatever becomes of the power."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zkapex.errors import StorageError
from zkapex.foreign import parse_json

DAMAGE = (OSError, ValueError, EOFError, LookupError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)
"""What reading a damaged archive can end with."""


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write an ``.npz`` atomically.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as f:
            np.savez(f, **arrays)  # type: ignore[arg-type]
            f.flush()
            os.fsync(f.fileno())
        partial.rename(path)
        _sync(path.parent)
    except OSError as e:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}", why=str(e), fix="free disk space and resume") from e


def save_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        partial.rename(path)
        _sync(path.parent)
    except OSError as e:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}", why=str(e), fix="free disk space and resume") from e


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    StorageError
        It is missing or damaged.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as e:
        raise StorageError(f"{path} is missing or damaged", why=str(e), fix="delete it and resume") from e


def load_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Read an ``.npz``; nothing in it is unpickled.

    Raises
    ------
    StorageError
        It is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except DAMAGE as e:
        raise StorageError(f"{path} is missing or damaged", why=str(e), fix="delete it and resume") from e


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
