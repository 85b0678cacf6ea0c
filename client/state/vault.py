"""What a device keeps on disk, so that it can be killed at any moment and continue.

``key.pem``                the device's signing key
``model.npz``              every parameter of the personalised model, float32
``held-zero.npz``          the masks of all requests answered so far
``revision``               number of the next enrolment, once there was a first; only grows
``server.pub``             the provider's key, pinned by the first request carried out (or put there beforehand)
``openings.log``           how often each committed vector was opened, see :mod:`zkapex.client.state.salts`
``.openings.mark.*``       where the enrolment was made, see :mod:`zkapex.client.state.place`
``answered/``              requests to personalise (with the answer) and to enrol that must not be carried out again
``proposals/<nonce>``      the proposal that answered a request for one, signed
``retrained``              the enrolment since which the model was changed otherwise than by a request, by digest
``enrolment/``             manifest.json, enrolment.json, secrets.npz + salts.json: committed weights and curvature
``enrolling/``             the same, while it is put together; it takes the other's place when it is complete
``requests/<id>/``         request.json, response.json, ``jobs/<chunk>/`` proofs, scores.json, receipt.json; and, until
                           the request is ``settled``, secrets.npz + salts.json: the change

When a request is settled, by its receipt, by the end of its time or by a new enrolment, the change becomes what is
enrolled and its own files go: weights that were deleted are nowhere then.

Salts are what hides the weights behind their commitments: they are written with owner-only permissions, before the
commitment they belong to leaves the device.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zkapex.client.state.cipher import Cipher
from zkapex.errors import StorageError
from zkapex.host.files import sync_folder

Arrays = Mapping[str, npt.NDArray[np.generic]]
Salts = dict[str, tuple[int, ...]]
DAMAGE = (OSError, ValueError, EOFError, LookupError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)
"""What reading a damaged archive can end with."""


class Vault:
    """A folder of the device, readable by its owner only, in which files appear whole or not at all.

    Parameters
    ----------
    folder : Path
    cipher : Cipher, optional
        Encrypts every file; without one they are plain, as in simulations.
    root : Path, optional
        Folder of the whole state, below which files have their names; `folder` itself by default.

    Raises
    ------
    StorageError
        From every method, if the disk is full or a file is damaged.
    """

    def __init__(self, folder: Path, cipher: Cipher | None = None, root: Path | None = None) -> None:
        self.folder = folder
        self.cipher = cipher
        self._root = root or folder

    def create(self) -> None:
        """Make the folder, and every missing one above it, private. Writing does so by itself; asking does not."""
        try:
            for path in (*reversed(self.folder.parents), self.folder):
                if not path.is_dir():
                    path.mkdir(mode=0o700, exist_ok=True)
        except OSError as e:
            raise StorageError(f"cannot create {self.folder}", why=str(e), fix="check the device's state folder") from e

    def inner(self, *names: str) -> Vault:
        """A vault inside this one."""
        return Vault(self.folder.joinpath(*names), self.cipher, self._root)

    def full_name(self, name: str) -> str:
        """The name that a file is bound to: its path below the device's state."""
        return (self.folder / name).relative_to(self._root).as_posix()

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.folder / name).exists()

    def put(self, name: str, data: bytes) -> None:
        """Write a file atomically and durably."""
        self.create()
        partial = self.folder / f".{name}.partial"
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as f:
                f.write(data if self.cipher is None else self.cipher.seal(self.full_name(name), data))
                f.flush()
                os.fsync(f.fileno())
            partial.rename(self.folder / name)
            sync_folder(self.folder)
        except OSError as e:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise StorageError(f"cannot write {self.folder / name}", why=str(e), fix="free disk space") from e

    def get(self, name: str) -> bytes:
        """Read a file."""
        try:
            data = (self.folder / name).read_bytes()
        except OSError as e:
            raise StorageError(f"cannot read {self.folder / name}", why=str(e)) from e
        return data if self.cipher is None else self.cipher.open(self.full_name(name), data)

    def put_arrays(self, name: str, arrays: Arrays) -> None:
        """Write named arrays atomically and durably."""
        memory = io.BytesIO()
        np.savez(memory, **arrays)  # type: ignore[arg-type]
        self.put(name, memory.getvalue())

    def get_arrays(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Read named arrays; nothing is unpickled."""
        try:
            with np.load(io.BytesIO(self.get(name)), allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except DAMAGE as e:
            raise StorageError(f"{self.folder / name} is missing or damaged", why=str(e), fix="enrol again") from e

    def put_salts(self, name: str, salts: Mapping[str, tuple[int, ...]]) -> None:
        """Write salts by name, as decimal strings."""
        self.put(name, json.dumps({key: [str(s) for s in values] for key, values in salts.items()}).encode())

    def get_salts(self, name: str) -> Salts:
        """Read salts."""
        try:
            return {key: tuple(int(s) for s in values) for key, values in json.loads(self.get(name)).items()}
        except (ValueError, TypeError, AttributeError) as e:
            raise StorageError(f"{self.folder / name} is damaged", why=str(e), fix="enrol again") from e

    def drop(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as e:
            raise StorageError(f"cannot delete {self.folder / name}", why=str(e)) from e

    def clear(self) -> None:
        """Delete everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
