"""Whether a device's state is where it has always been, or a copy: restored from a backup, it has forgotten openings.

A file that is made once has an inode and a time of change that no copy, archive or backup brings back. Every enrolment
has such a mark of its own, and notes both of it: so the mark is there before the enrolment is, and a device that loses
power in between stands by one that is marked. A snapshot of a whole disk that is rolled back does bring them back, and
is not noticed: whoever rolls a device back has to have it enrol again (docs/security.md).
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress

from zkapex.client.state.vault import Vault
from zkapex.errors import StorageError
from zkapex.host.files import sync_folder

MARK, NOTE = ".openings.mark", "openings.place"


class Place:
    """The marks of a device's state.

    Parameters
    ----------
    vault : Vault
        The device's state.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def mark(self, enrolment: Vault) -> None:
        """Say that an enrolment belongs here, before it is what the device stands by.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        name = f"{MARK}.{secrets.token_hex(8)}"
        path = self._vault.folder / name
        try:
            self._vault.create()
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_hex(16).encode())
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.parent)
            enrolment.put(NOTE, json.dumps([name, *self._found(name)]).encode())
        except OSError as e:
            raise StorageError(f"cannot write {path}", why=str(e), fix="free disk space") from e

    def known(self) -> bool:
        """Whether the enrolment that the device stands by is where it was marked."""
        try:
            enrolment = self._vault.inner("enrolment")
            if enrolment.has(NOTE):
                name, *noted = json.loads(enrolment.get(NOTE))
                return bool(noted == self._found(str(name)))
            # Releases up to 0.2.0 had one mark for the whole state.
            return self._vault.has(NOTE) and bool(json.loads(self._vault.get(NOTE)) == self._found(MARK))
        except (OSError, ValueError):
            return False

    def forget_others(self) -> None:
        """Remove the marks of enrolments that were given up."""
        enrolment = self._vault.inner("enrolment")
        own = json.loads(enrolment.get(NOTE))[0] if enrolment.has(NOTE) else MARK
        for path in self._vault.folder.glob(f"{MARK}*"):
            if path.name != own:
                with suppress(OSError):
                    path.unlink()
        if own != MARK:
            self._vault.drop(NOTE)

    def _found(self, name: str) -> list[int | str]:
        path = self._vault.folder / name
        stat = path.stat()
        return [stat.st_ino, stat.st_ctime_ns, path.read_text()]
