"""Who may become a client: any, or those an operator has listed; and which device is which client.

A quarantine is worth nothing if a device can delete its key and come back as somebody new. So every node (of Flower,
which knows a SuperNode by its authenticated key) is tied to the client that first enrolled there: another key on the
same node waits for the operator, whatever the policy. ``provider/roster.json`` holds both, and what waits.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock

from zkapex.errors import ProtocolError, StorageError
from zkapex.storage import load_json, save_text

Policy = Literal["open", "listed"]
"""``open``: whoever comes is enrolled. ``listed``: only clients and nodes that an operator has admitted."""


class NotAdmittedError(ProtocolError):
    """A device waits for the operator's decision."""


@dataclass(frozen=True)
class Entries:
    """What ``roster.json`` holds.

    Attributes
    ----------
    admitted : dict of str to str
        Client ids, or node ids of devices that have not enrolled yet, and the operator's note on each.
    nodes : dict of str to str
        Client id by node.
    waiting : dict of str to str
        Client ids that were turned away until an operator decides, and why.
    """

    admitted: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)


class Admission:
    """The list of who may be a client.

    Parameters
    ----------
    path : Path
        Of ``roster.json``; need not exist.
    policy : str
        See `Policy`.

    Raises
    ------
    StorageError
        The file is damaged or cannot be written; so may every method.
    """

    def __init__(self, path: Path, policy: str = "open") -> None:
        self._path = path
        self.policy = policy

    def entries(self) -> Entries:
        """Everything, as it is on disk now: an operator may have changed it."""
        if not self._path.exists():
            return Entries()
        try:
            return Entries(**load_json(self._path))
        except TypeError as e:
            raise StorageError(f"{self._path} is damaged", why=str(e), fix="restore it from a backup") from e

    def admit(self, who: str, note: str = "") -> None:
        """Let a client, or the device at a node, enrol: the operator's decision."""
        with self._locked():
            found = self.entries()
            found.admitted[who] = note
            found.waiting.pop(who, None)
            self._save(found)

    def check(self, client_id: str, node: int) -> None:
        """Return only if the device at a node may enrol as a client; else it waits for the operator.

        Raises
        ------
        NotAdmittedError
            It may not, and is on the list of those that wait.
        """
        found = self.entries()
        if client_id in found.admitted:
            return
        tied = found.nodes.get(str(node))
        if tied not in (None, client_id):
            why = f"its node is client {str(tied)[:16]}... and now shows another key"
        elif tied is None and self.policy == "listed" and str(node) not in found.admitted:
            why = "it is not on the list of this federation"
        else:
            return
        if found.waiting.get(client_id) != why:
            with self._locked():
                found = self.entries()
                found.waiting[client_id] = why
                self._save(found)
        raise NotAdmittedError(f"client {client_id[:16]}... waits for an operator to admit it", why=why)

    def tie(self, client_id: str, node: int) -> None:
        """Remember that a node is a client."""
        if self.entries().nodes.get(str(node)) != client_id:
            with self._locked():
                found = self.entries()
                found.nodes[str(node)] = client_id
                self._save(found)

    def barred(self, quarantined: Collection[str]) -> set[int]:
        """Nodes that are clients of these ids."""
        return {int(node) for node, client_id in self.entries().nodes.items() if client_id in quarantined}

    def _locked(self) -> FileLock:
        """Whoever changes the file: an operator may admit somebody while a campaign goes on."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._path.with_suffix(".lock"), mode=0o600)

    def _save(self, entries: Entries) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        save_text(self._path, json.dumps(asdict(entries), indent=1, sort_keys=True))
