"""Where a request's files are: everything about one request is kept under its id.

::

    provider/requests/order.json      ids of the requests, in the order they were made
    provider/requests/<id>/           plan, request to a holder and its answer, costs, scores, whom it is addressed to
    global-<id>.npz                   the global model after the request
    receipts/<id>/<client>/           one folder per client
    results/<id>.json                 what came of it, for people and machines
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from zkapex.errors import IllegalTransitionError, StorageError
from zkapex.storage import load_json, save_text

ADDRESSED, PERSONALISED, DELIVERED = "addressed.json", "personalised.json", "delivered.json"
PLANNED = "plan.json"
"""Written last of a plan's files."""


@dataclass(frozen=True)
class RequestFolder:
    """The places of one request.

    Attributes
    ----------
    work_dir : Path
        Of the federation.
    request_id : str
    """

    work_dir: Path
    request_id: str

    @property
    def own(self) -> Path:
        """What only the provider sees; made if it is missing."""
        path = self.provided
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def provided(self) -> Path:
        """The same, whether it is there or not."""
        return self.work_dir / "provider" / "requests" / self.request_id

    @property
    def trained(self) -> Path:
        """The global model that was trained on before this request, if it was."""
        return self.own / "trained.npz"

    @property
    def unlearned(self) -> Path:
        """The global model after this request."""
        return self.work_dir / f"global-{self.request_id}.npz"

    @property
    def receipts(self) -> Path:
        """Folder of its receipts, one folder per client."""
        return self.work_dir / "receipts" / self.request_id

    @property
    def result(self) -> Path:
        """What came of it."""
        return self.work_dir / "results" / f"{self.request_id}.json"

    def clients(self, name: str) -> set[str] | None:
        """A set of client ids that was kept under `name`; None if none was."""
        path = self.own / name
        return set(_names(path)) if path.exists() else None

    def keep_clients(self, name: str, ids: set[str]) -> None:
        """Keep a set of client ids."""
        save_text(self.own / name, json.dumps(sorted(ids)))


@dataclass(frozen=True)
class Order:
    """The requests of a federation, in the order they were made.

    Attributes
    ----------
    work_dir : Path
    """

    work_dir: Path

    def ids(self) -> tuple[str, ...]:
        """All ids, oldest first."""
        return tuple(_names(self._path)) if self._path.exists() else ()

    def add(self, request_id: str) -> None:
        """Put a request at the end, unless it is there already."""
        ids = self.ids()
        if request_id not in ids:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_text(self._path, json.dumps([*ids, request_id]))

    def withdraw(self, request_id: str) -> None:
        """Take out a request that nobody was asked to follow, with everything that was planned for it.

        Raises
        ------
        IllegalTransitionError
            A later request was planned upon what it leaves.
        """
        ids, folder = self.ids(), self.folder(request_id)
        if request_id not in ids:
            return
        if ids[-1] != request_id:
            raise IllegalTransitionError(
                f"request {request_id} can no longer be taken out", why=f"request {ids[-1]} was planned upon it"
            )
        save_text(self._path, json.dumps(list(ids[:-1])))
        for path in (folder.unlearned, folder.result):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder.provided, ignore_errors=True)

    def before(self, request_id: str) -> tuple[str, ...]:
        """The requests made before one; all of them if it was not made yet."""
        ids = self.ids()
        return ids[: ids.index(request_id)] if request_id in ids else ids

    def folder(self, request_id: str) -> RequestFolder:
        """The places of a request."""
        return RequestFolder(self.work_dir, request_id)

    @property
    def _path(self) -> Path:
        return self.work_dir / "provider" / "requests" / "order.json"


def _names(path: Path) -> list[str]:
    found = load_json(path)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise StorageError(f"{path} is damaged", fix="restore it from a backup")
    return found
