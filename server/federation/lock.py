"""One writer at a time: a lock on a work folder that is gone with the process that held it, however that ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zkapex.errors import ProtocolError, StorageError

LOCK = ".writer.lock"


@contextmanager
def one_writer(folder: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder; the kernel gives it back if this process is killed.

    Parameters
    ----------
    folder : Path
        Created if it is missing.
    timeout_s : float
        How long to wait for whoever holds it.

    Raises
    ------
    ProtocolError
        Another process writes there.
    StorageError
        The lock cannot be made.
    """
    lock = FileLock(folder / LOCK, timeout=timeout_s, mode=0o600)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ProtocolError(
            f"another process works in {folder}",
            why=f"it holds {folder / LOCK}",
            fix="wait until it has ended, or stop it",
        ) from None
    except OSError as e:
        raise StorageError(f"cannot lock {folder}", why=str(e), fix="check who may write there") from e
    try:
        yield
    finally:
        lock.release()
