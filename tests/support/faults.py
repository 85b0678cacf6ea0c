"""A federation that faults happen to: `kills` and `weather` are what may, `invariants` what must hold all the same.

The federation is the product's, over the in-process transport: real registry, real encrypted device folders, real small
circuits. A campaign that is to be killed runs in a process of its own, and so does every message of a device that is to
be; they get SIGKILL at one of their durable writes, which are numbered.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from federation import Federation
from flwr.app import RecordDict
from kills import Kill, Points
from life import MASKS, LivingProvider
from weather import FaultyGrid, Weather, from_bytes, to_bytes

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent
from zkapex.client.state.cipher import Cipher, open_state
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.place import Place
from zkapex.client.state.vault import Vault
from zkapex.proofs.messages import Delivery, ModelManifest
from zkapex.proofs.records.envelope import peek
from zkapex.server.events import EventLog
from zkapex.server.federation.settings import RunSettings
from zkapex.server.service import Due
from zkapex.server.service import Federation as Service
from zkapex.server.store.registry import Registry
from zkapex.simulation.federation.adversaries import CHEATS
from zkapex.transport.peers import opened

SECRET = b"the devices of the tests"
FIRST, SECOND, THIRD = MASKS
SETTINGS = {"operator": "mask-only", "personal-epochs": 1, "batch": 8}
Weights = Mapping[str, np.ndarray]


class Gone(Exception):
    """A device's process ended in the middle of a message."""


@dataclass
class Site:
    """A server and its devices below a folder, each device with an encrypted state.

    Attributes
    ----------
    folder : Path
    clients : int
    cheats : dict of int to str
        Devices that cheat, and how.
    trusted : tuple of str
        Requests for which cheats were honest.
    late_s : float
        By how much the devices' clocks are ahead of the real time.
    server_late_s : float
    settings : dict
    """

    folder: Path
    clients: int = 3
    cheats: dict[int, str] = field(default_factory=dict)
    trusted: tuple[str, ...] = ()
    late_s: float = 0.0
    server_late_s: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    kills: tuple[Kill, ...] = ()
    asked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.died = False
        self.killed: Counter[Kill] = Counter()
        self.points = Points(self.folder)
        self.device_points: dict[str, list[str]] = {}
        """Durable writes of the last isolated message, by step."""
        self.sent: list[tuple[int, str, bytes]] = []
        self.federation = Federation(
            self.folder, clients=self.clients, provider=LivingProvider(), epochs=3,
            settings={**SETTINGS, **self.settings},
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return Site, tuple(getattr(self, one.name) for one in fields(self))

    def copy(self, to: Path, **changes: Any) -> Site:
        """The same site somewhere else."""
        changes["settings"] = {**self.settings, **changes.get("settings", {})}
        made = replace(self, folder=to, **changes)
        shutil.copytree(self.folder, to)
        shutil.copytree(self.kept, made.kept)
        for index in range(self.clients):
            made.moved(index)
        return made

    def moved(self, index: int) -> None:
        """Say of a device's state that it is no copy, which it would take itself for: a test has only moved it."""
        vault = self.vault(index)
        Place(vault).mark(vault.inner("enrolment"))

    @property
    def kept(self) -> Path:
        """Beside the site, where no search for traces looks: weights from before requests, by request and device."""
        return self.folder.with_name(f"{self.folder.name}.kept")

    # -- devices

    def state(self, index: int) -> Path:
        return self.federation.state(index)

    def vault(self, index: int) -> Vault:
        folder = self.state(index)
        return Vault(folder, cipher_of(folder))

    def agent(self, index: int) -> DeviceAgent:
        """The device, honest or not, in this process."""
        folder = self.state(index)
        kind = CHEATS[self.cheats[index]] if index in self.cheats else DeviceAgent
        task = self.federation.tasks[index]
        return kind(folder, task, 1, clock=lambda: now(self.late_s), cipher=cipher_of(folder))

    def watched(self, index: int) -> Agent:
        """What the grid hands messages to."""
        return _Watched(self, index)

    def honest(self) -> list[int]:
        return [index for index in range(self.clients) if index not in self.cheats]

    def client_id(self, index: int) -> str:
        return self.agent(index).client_id

    # -- the server

    def registry(self) -> Registry:
        return Registry(self.federation.folder / "provider" / "registry.sqlite", "small")

    @contextmanager
    def service(self, events: bool = True) -> Iterator[Service]:
        """The server, in this process."""
        settings = RunSettings.from_config(self.federation.config)
        clock = lambda: now(self.server_late_s)  # noqa: E731
        with (
            EventLog(self.folder) as log,
            Service(self.federation.provider, settings, self.folder, log, clock=clock) as service,
        ):
            yield service

    def grid(self, weather: Weather | None = None) -> FaultyGrid:
        """All devices, in this process or in one of their own."""
        return FaultyGrid(self, weather or Weather())

    def campaign(self, *request_ids: str, weather: Weather | None = None) -> list[Due]:
        """Make these requests and go on with what is due; what is left. Errors are raised."""
        grid = self.grid(weather)
        self.asked = tuple(dict.fromkeys((*self.asked, *request_ids)))
        try:
            with self.service() as service:
                for request_id in request_ids:
                    service.carry_out(grid, request_id)
                return service.tick(grid) if not request_ids else service.due()
        finally:
            grid.calm()

    def remember(self, index: int, content: RecordDict) -> None:
        """Keep what a device holds before it carries out a request: afterwards it must be nowhere."""
        _, blobs = opened(content, Delivery)
        request_id = str(json.loads(peek(blobs["envelope"]))["request_id"])
        path = self.kept / request_id / f"{index}.pickle"
        if not path.exists() and not self.vault(index).inner("requests", request_id).has("request.json"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps((self.deployed(index), self.committed(index))))

    def deployed(self, index: int) -> Weights:
        """The weights a device serves, floats."""
        arrays = self.vault(index).get_arrays("model.npz")
        return {name: arrays[f"{name}.weight"] for name in ("fc1", "fc2")}

    def committed(self, index: int) -> Weights:
        """The weights a device stands by, integers."""
        vault = self.vault(index).inner("enrolment")
        manifest = ModelManifest.from_bytes(vault.get("manifest.json"))
        return dict(Holdings.load(manifest, vault).weights)

    # -- in a process of its own

    def spawned(self, *request_ids: str, kills: tuple[Kill, ...] = (), weather: Weather | None = None) -> Outcome:
        """`campaign` in a process that may be killed."""
        self.asked = tuple(dict.fromkeys((*self.asked, *request_ids)))
        return _spawn(_campaign, replace(self, kills=kills), request_ids, weather)


@dataclass(frozen=True)
class Outcome:
    """How a process ended: killed, with an error, or with what it returned."""

    killed: bool
    error: str
    value: Any

    def points(self, who: str = "server") -> list[str]:
        """Durable writes of the server, or of the last device at a step that was on its own."""
        assert not self.killed
        assert not self.error, self.error
        points: list[str] = self.value[who]
        return points


@dataclass
class _Watched:
    """One device, in this process or, if it is to be killed, in one of its own for every message."""

    site: Site
    index: int

    def train(self, content: RecordDict) -> RecordDict:
        with self.site.points.pause():
            return self.site.agent(self.index).train(content)

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        site = self.site
        with site.points.pause():
            if query == "unlearn" and self.index not in site.cheats:
                site.remember(self.index, content)
            fatal = [kill for kill in site.kills if (kill.who, kill.client, kill.step) == ("device", self.index, query)]
            if not fatal:
                return site.agent(self.index).answer(query, content)
            at = fatal[0].at if site.killed[fatal[0]] < fatal[0].times else None
            done = _spawn(_message, replace(site, kills=()), self.index, query, to_bytes(content), at)
            if done.killed:
                site.killed[fatal[0]] += 1
                site.died = True
                raise Gone
            if done.error:
                raise RuntimeError(done.error)
            site.device_points[query] = done.value["points"]
            return from_bytes(done.value["reply"])


def _campaign(site: Site, request_ids: tuple[str, ...], weather: Weather | None) -> dict[str, Any]:
    torch.set_num_threads(1)
    fatal = [kill.at for kill in site.kills if kill.who == "server"]
    site.points = Points(site.folder, fatal[0] if fatal else None)
    site.points.watch()
    due = site.campaign(*request_ids, weather=weather)
    return {"server": site.points.seen, **site.device_points, "due": due, "killed": dict(site.killed)}


def _message(site: Site, index: int, query: str, content: bytes, at: int | None) -> dict[str, Any]:
    torch.set_num_threads(1)
    agent = site.agent(index)
    site.points = Points(site.folder, at)
    site.points.watch()
    reply = agent.answer(query, from_bytes(content))
    return {"points": site.points.seen, "reply": to_bytes(reply)}


def _process(pipe: Connection, data: bytes) -> None:
    work, arguments = pickle.loads(data)
    try:
        pipe.send(("", work(*arguments)))
    except BaseException as error:
        pipe.send((f"{type(error).__name__}: {getattr(error, 'why', '')} {traceback.format_exc()}", None))


def _spawn(work: Callable[..., Any], *arguments: Any) -> Outcome:
    """Run a function of this module in a process forked from one that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    os.environ["PYTHONPATH"] = os.pathsep.join([*here, os.environ.get("PYTHONPATH", "")])
    context.set_forkserver_preload(["faults"])
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_process, args=(theirs, pickle.dumps((work, arguments))))
    process.start()
    theirs.close()
    try:
        error, value = mine.recv()
    except EOFError:
        error, value = "", None
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return Outcome(True, "", None)
    assert process.exitcode == 0, process.exitcode
    return Outcome(False, error, value)


def now(ahead_s: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=ahead_s)


@lru_cache(maxsize=256)
def _cipher(folder: Path, salt: bytes) -> Cipher:
    return open_state(folder, SECRET)


def cipher_of(folder: Path) -> Cipher:
    """The cipher of a device of the tests; deriving its key is slow on purpose, and done once."""
    path = folder / "format.json"
    return _cipher(folder, path.read_bytes() if path.exists() else b"")
