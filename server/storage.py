"""Named arrays on disk, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zkapex.errors import StorageError


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
        partial.rename(path)
    except OSError as e:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}", why=str(e), fix="free disk space and resume") from e


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
    except (OSError, ValueError, EOFError) as e:
        raise StorageError(f"{path} is missing or damaged", why=str(e), fix="delete it and resume") from e
