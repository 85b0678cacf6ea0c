"""Where what the console shows is: in a server's folder, or in one that a demo or a simulation has left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zkapex.errors import InputError
from zkapex.server.deployment.reading import registry_of
from zkapex.server.deployment.requests import OrderBook
from zkapex.server.deployment.settings import CONFIGURATION, Place
from zkapex.server.requests.folder import Order, RequestFolder
from zkapex.server.store.registry import Registry

TOKENS: Final = "console.toml"


@dataclass(frozen=True)
class FederationFolder:
    """The places of one federation.

    Attributes
    ----------
    root : Path
        As an operator names it.
    deployed : bool
        Whether it is a server's folder, in which operators can order deletions.
    """

    root: Path
    deployed: bool

    @classmethod
    def of(cls, root: Path) -> FederationFolder:
        """Look what a folder is.

        Raises
        ------
        InputError
            There is neither a server nor a federation in it.
        """
        if (root / CONFIGURATION).exists():
            return cls(root.resolve(), True)
        if (root / "provider" / "run.json").exists():
            return cls(root.resolve(), False)
        raise InputError(
            f"there is no federation in {root}", fix="name the folder of a server, or one that zkapex demo has left"
        )

    @property
    def work(self) -> Path:
        """The federation's work folder, see `zkapex.server.service`."""
        return Place(self.root).federation if self.deployed else self.root

    @property
    def tokens(self) -> Path:
        """The file of who may use the console."""
        return (Place(self.root).operator if self.deployed else self.root) / TOKENS

    @property
    def place(self) -> Place:
        """The server's places; of a demo's folder, that of operators' acts alone is one."""
        return Place(self.root)

    @property
    def orders(self) -> OrderBook | None:
        """What operators ordered; None where nobody can."""
        return OrderBook(Place(self.root).requests) if self.deployed else None

    @property
    def federation(self) -> str:
        """Its name; of a server whose federation has not begun, the folder's."""
        claimed = self.work / "provider" / "run.json"
        if not claimed.exists():
            return self.root.name
        return str(json.loads(claimed.read_text(encoding="utf-8"))["federation"])

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        """The registry.

        Raises
        ------
        InputError
            The federation has not begun.
        """
        if self.deployed:
            with registry_of(Place(self.root)) as registry:
                yield registry
        else:
            with Registry(self.work / "provider" / "registry.sqlite", self.federation) as registry:
                yield registry

    @property
    def order(self) -> Order:
        """The requests that were planned, in order."""
        return Order(self.work)

    def request(self, request_id: str) -> RequestFolder:
        """Where one request's files are."""
        return RequestFolder(self.work, request_id)

    @property
    def ledger(self) -> Path:
        """The log of what was issued."""
        return self.work / "provider" / "ledger"

    @property
    def manifest(self) -> Path:
        """What is proved about which model."""
        return self.work / "provider" / "manifest.json"
