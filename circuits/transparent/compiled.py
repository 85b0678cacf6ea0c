"""Kernels: functions compiled by numba; their machine code is kept in zkapex's cache folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from zkapex.circuits.cache import cache_root
from zkapex.errors import StorageError

F = TypeVar("F", bound=Callable[..., Any])


def _keep() -> bool:
    """Point numba at a folder of ours; without one that can be written, every process compiles anew."""
    try:
        folder = cache_root() / "numba"
        folder.mkdir(exist_ok=True)
    except (OSError, StorageError):
        return False
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
    return True


_KEPT = _keep()


def kernel(function: F) -> F:
    """Compile at the first call with each combination of types, or load what an earlier process compiled."""
    return cast(F, numba.njit(cache=_KEPT)(function))


def inlined(function: F) -> F:
    """Compile as part of the kernels that call it; LLVM inlines what is this small."""
    return cast(F, numba.njit(function))
