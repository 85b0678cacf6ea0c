"""Whether a device's state is where it has always been, or a copy: restored from a backup, it has forgotten openings.

A file that is made once has an inode and a time of change that no copy, archive or backup brings back; both are noted
beside it. A snapshot of a whole disk that is rolled back does bring them back, and is not noticed: whoever rolls a
device back has to have it enrol again (docs/security.md).
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from zkapex.client.state.vault import Vault
from zkapex.errors import StorageError
from zkapex.host.files import sync_folder

MARK, NOTE = ".openings.mark", "openings.place"


class Place:
    """The mark of a device's state.

    Parameters
    ----------
    vault : Vault
        The device's state.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @property
    def _mark(self) -> Path:
        return self._vault.folder / MARK

    def settle(self) -> None:
        """Say that the state belongs here from now on: nothing that was committed to before counts any more.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        try:
            self._mark.unlink(missing_ok=True)
            with os.fdopen(os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_hex(16).encode())
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._mark.parent)
            self._vault.put(NOTE, json.dumps(self._found()).encode())
        except OSError as e:
            raise StorageError(f"cannot write {self._mark}", why=str(e), fix="free disk space") from e

    def known(self) -> bool:
        """Whether the state is where `settle` left it."""
        if not self._vault.has(NOTE):
            return False
        try:
            return bool(json.loads(self._vault.get(NOTE)) == self._found())
        except (OSError, ValueError):
            return False

    def _found(self) -> list[int | str]:
        stat = self._mark.stat()
        return [stat.st_ino, stat.st_ctime_ns, self._mark.read_text()]
