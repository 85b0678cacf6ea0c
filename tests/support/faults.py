"""Faults anywhere in a federation, and the one checker of what must hold whatever happened.

The federation is the product's, over the in-process transport: real registry, real encrypted device folders, real small
circuits. A campaign that is to be killed runs in a process of its own, and so does every message of a device that is to
be; they get SIGKILL at one of their durable writes (a rename, a deletion, a commit), which are numbered.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy.event
import torch
from federation import Federation, step_of
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from life import MASKS, LivingProvider, left
from sqlalchemy.engine import Engine

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent, make_client_app
from zkapex.client.state.cipher import Cipher, is_sealed, open_state
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.vault import Vault
from zkapex.proofs.messages import Delivery, ModelManifest
from zkapex.proofs.receipts.bundle import RECEIPT_FILE
from zkapex.proofs.receipts.chain import find_receipts, verify_chain
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import load_public_key
from zkapex.server.events import EventLog
from zkapex.server.federation.settings import RunSettings
from zkapex.server.protocol.states import ClientStatus, RequestStatus
from zkapex.server.requests.folder import DELIVERED
from zkapex.server.service import Due
from zkapex.server.service import Federation as Service
from zkapex.server.store.registry import Registry
from zkapex.simulation.federation.adversaries import CHEATS
from zkapex.transport.grid import InProcessGrid, reliable
from zkapex.transport.peers import opened

SECRET = b"the devices of the tests"
FIRST, SECOND, THIRD = MASKS
SETTINGS = {"operator": "mask-only", "personal-epochs": 1, "batch": 8}
Weights = Mapping[str, np.ndarray]


# -- where a process can be killed ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """SIGKILL at a durable write.

    Attributes
    ----------
    who : str
        ``server``, or ``device``.
    at : int
        Number of the write, from 0; see `Points`.
    step : str
        Of a device: the step it is at.
    client : int
        Which device.
    times : int
        How many of that device's processes are killed so.
    """

    who: str
    at: int
    step: str = ""
    client: int = 0
    times: int = 1


class Points:
    """Counts the durable writes of this process in a folder, and kills it right before one of them.

    Right after one is right before the next, as far as a disk knows. What changes nothing is not counted: a commit of
    a transaction that only read, a file that is deleted if it is there, and is not, and whatever is elsewhere.

    Parameters
    ----------
    root : Path
    at : int, optional
        Number of the write, from 0, that is never done.
    """

    def __init__(self, root: Path, at: int | None = None) -> None:
        self.root, self.at = root, at
        self.seen: list[str] = []
        self.paused = 0

    def reach(self, what: str) -> None:
        if self.paused:
            return
        self.seen.append(what)
        if self.at == len(self.seen) - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Another party is at work in this process."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    def watch(self) -> None:
        """From now on until the end of the process."""
        for name in ("rename", "replace", "unlink", "rmdir"):
            setattr(os, name, self._before(name, getattr(os, name)))
        sqlalchemy.event.listen(Engine, "commit", self._commit)

    def _commit(self, connection: sqlalchemy.Connection) -> None:
        database: Any = connection.connection.dbapi_connection
        before, connection.info["changes"] = connection.info.get("changes", 0), database.total_changes
        if connection.info["changes"] != before:
            self.reach("commit")

    def _before(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = Path(os.fspath(args[-1]))
            if kwargs.get("dir_fd") is not None:
                path = Path(f"/proc/self/fd/{kwargs['dir_fd']}").resolve() / path
            there = name in ("rename", "replace") or os.path.lexists(path)
            if there and path.is_relative_to(self.root):
                self.reach(f"{name} {path.relative_to(self.root)}")
            return real(*args, **kwargs)

        return call


# -- what can happen to messages --------------------------------------------------------------------------------------

KINDS = ("lost", "reply lost", "twice", "late", "out of order", "garbage", "old")


@dataclass
class Weather:
    """What becomes of messages: one of `kinds` happens to each with probability `rate`.

    Attributes
    ----------
    seed : int
    rate : float
    kinds : tuple of str
    old : list
        Messages of earlier campaigns, (device, type, content), that a link may deliver again.
    spared : tuple of str
        Steps to which nothing happens.
    """

    seed: int = 0
    rate: float = 0.0
    kinds: tuple[str, ...] = KINDS
    old: list[tuple[int, str, bytes]] = field(default_factory=list)
    spared: tuple[str, ...] = ()
    happened: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def over(self, message: Message) -> str:
        """What happens to a message; empty: it arrives, and so does its answer."""
        if step_of(message) in self.spared or self.rng.random() >= self.rate:
            return ""
        what = self.rng.choice(self.kinds)
        self.happened.append((what, step_of(message)))
        return what


class FaultyGrid(InProcessGrid):
    """A grid in some weather."""

    def __init__(self, site: Site, weather: Weather) -> None:
        self.weather, self.site = weather, site
        self.waiting: list[tuple[Message, bool]] = []
        """Messages that were held back, and whether they come after the next one."""
        app = make_client_app(lambda context: site.watched(int(context.node_config["partition-id"])))
        super().__init__(app, site.clients, site.federation.config, reliable)

    def _deliver(self, message: Message) -> Message | None:
        self.site.sent.append((self._partition(message), message.metadata.message_type, to_bytes(message.content)))
        after = [held for held, later in self.waiting if later]
        for held, later in self.waiting:
            if not later:
                super()._deliver(held)  # and whoever asked has long given up
        self.waiting = []
        what = self.weather.over(message)
        reply: Message | None = None
        if what in ("late", "out of order"):
            self.waiting.append((message, what == "out of order"))
        elif what == "old" and self.weather.old:
            mine = [one for one in self.weather.old if one[0] == self._partition(message)]
            _, kind, content = self.weather.rng.choice(mine)
            super()._deliver(self._message(message, kind, content))
            reply = self._answer(message)
        elif what != "lost":
            reply = self._answer(message)
            if what == "twice":
                reply = self.weather.rng.choice([reply, self._answer(message)])
            if what == "garbage" and reply is not None:
                reply = garbage(message, reply, self.weather.rng)
        for held in after:
            super()._deliver(held)
        return None if what == "reply lost" else reply

    def calm(self) -> None:
        """What is still on its way arrives."""
        for held, _ in self.waiting:
            super()._deliver(held)
        self.waiting = []

    def _answer(self, message: Message) -> Message | None:
        self.site.died = False
        reply = super()._deliver(message)
        return None if self.site.died else reply

    def _partition(self, message: Message) -> int:
        return list(self._contexts).index(message.metadata.dst_node_id)

    def _message(self, like: Message, kind: str, content: bytes) -> Message:
        return Message(from_bytes(content), like.metadata.dst_node_id, kind)


def garbage(message: Message, reply: Message, rng: random.Random) -> Message:
    """An answer that nobody can read, in one of the ways there are."""
    content = RecordDict() if not reply.has_content() else from_bytes(to_bytes(reply.content))
    way = rng.randrange(5)
    if way == 0:
        content = RecordDict()
    elif way == 1:
        content["zkapex.record"] = ConfigRecord({"wire": 1, "kind": "delivery", "body": rng.randbytes(300)})
    elif way == 2:
        content["zkapex.record"] = ConfigRecord({"wire": 99, "kind": "delivery", "body": b"{}"})
    elif way == 3:
        content["more"] = ConfigRecord({"x": rng.randbytes(30)})
    else:
        return Message(Error(2, "ClientAppException:<'" + "\x00\u202e" * 30 + "'>"), reply_to=message)
    reply.content = content
    return reply


def to_bytes(content: RecordDict) -> bytes:
    return recorddict_to_proto(content).SerializeToString(deterministic=True)


def from_bytes(data: bytes) -> RecordDict:
    proto = Proto()
    proto.ParseFromString(data)
    return recorddict_from_proto(proto)


# -- a federation that faults happen to -------------------------------------------------------------------------------


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
        made = replace(self, folder=to, **changes)
        shutil.copytree(self.folder, to)
        shutil.copytree(self.kept, made.kept)
        return made

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


# -- what must hold ---------------------------------------------------------------------------------------------------


def check(site: Site, *, over: bool, may_fail: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """Raise AssertionError unless everything holds that must, whatever happened to the site.

    Always: the audit trail is whole; commitments chain; no receipt is without verified proofs; nothing is done that is
    not; what was deleted is gone from every device, and from its disk once the request is settled there; no honest
    client is quarantined; no cheat is proved.

    Parameters
    ----------
    over : bool
        The faults are over and what was due has been done. Then no request is lost: every honest client has a receipt
        for every request that was made, and has taken it, and nothing is due.
    may_fail : iterable of str
        Requests that may have ended without proof, though not without a receipt that says so.

    Returns
    -------
    dict
        Verdicts by request and client.
    """
    honest = {site.client_id(index): index for index in site.honest()}
    cheats = {site.client_id(index) for index in site.cheats}
    issued: dict[tuple[str, str], str] = {}
    verdicts: dict[str, dict[str, str]] = {}
    with site.registry() as registry:
        registry.verify_trail()
        for client in registry.clients():
            if client.client_id in honest:
                assert client.status is not ClientStatus.QUARANTINED, f"an honest client: {client.reason}"
        for request in registry.requests():
            if request.verdict is not None:
                verdicts.setdefault(request.request_id, {})[request.client_id] = request.verdict
            if request.verdict == "proved":
                assert request.client_id not in cheats or request.request_id in site.trusted, "a cheat was proved"
                assert not request.missing, "proved without all proofs"
                assert request.drawn, "proved without any proof"
            envelope = registry.receipt(request.client_id, request.request_id)
            assert (envelope is not None) == (request.status is RequestStatus.RECEIPTED)
            if envelope is not None:
                issued[request.request_id, request.client_id] = sha256_hex(envelope)
    on_disk = _check_receipts(site, issued)
    for path in sorted(site.kept.glob("*/*.pickle")):
        if int(path.stem) in site.honest():
            _check_deleted(site, path.parent.name, int(path.stem), *pickle.loads(path.read_bytes()), over=over)
    if over:
        _check_all_done(site, honest, verdicts, set(may_fail), on_disk)
    return verdicts


def _check_receipts(site: Site, issued: Mapping[tuple[str, str], str]) -> set[tuple[str, str]]:
    folder = site.folder / "receipts"
    if not any(folder.glob(f"**/{RECEIPT_FILE}")):
        return set()
    found = set()
    key = load_public_key(site.folder / "key.pub")
    for chain in verify_chain(folder, [key]):  # every receipt with its proofs, and every link
        for verified in chain.receipts:
            receipt = verified.bundle.receipt
            name = receipt.facts.request_id, receipt.facts.client_id
            assert sha256_hex(receipt.envelope) == issued[name], "a receipt that the registry does not know"
            found.add(name)
    assert len(found) == len(find_receipts(folder))
    return found


def _check_deleted(site: Site, request_id: str, index: int, floats: Weights, integers: Weights, *, over: bool) -> None:
    vault, masks = site.vault(index), MASKS[request_id]
    own = vault.inner("requests", request_id)
    if not own.has("response.json"):
        return
    assert left(site.deployed(index), masks) == 0, f"device {index} serves what {request_id} deleted"
    if own.has("settled") and vault.inner("enrolment").has("enrolment.json"):
        assert left(site.committed(index), masks) == 0, f"device {index} stands by what {request_id} deleted"
    if over:
        assert own.has("settled")
        for before in (floats, integers):
            found = traces(site, index, before, masks)
            assert not found, f"weights from before {request_id} lie in {found}"


def _check_all_done(
    site: Site,
    honest: Mapping[str, int],
    verdicts: Mapping[str, Mapping[str, str]],
    may_fail: set[str],
    on_disk: set[tuple[str, str]],
) -> None:
    with site.service() as service:
        assert service.due() == []
        assert set(site.asked) <= set(service.order.ids()), "a request is lost"
        for request_id in site.asked:
            delivered = service.order.folder(request_id).clients(DELIVERED) or set()
            why = {one.client_id: one.reason for one in service.registry.requests(request_id)}
            for client_id, index in honest.items():
                verdict = verdicts.get(request_id, {}).get(client_id)
                known = (request_id, index, verdict, why.get(client_id))
                assert verdict == "proved" or (verdict and request_id in may_fail), known
                assert (request_id, client_id) in on_disk, f"no receipt of {request_id} for device {index}"
                if verdict == "proved":
                    assert client_id in delivered
                    own = site.vault(index).inner("requests", request_id)
                    assert own.has("receipt.json"), f"device {index} has no receipt of {request_id}"


def traces(site: Site, index: int, before: Weights, masks: Weights) -> list[str]:
    """Files below the site that hold deleted weights with their neighbours, encrypted or not, in any layout."""
    needles = set()
    for name, mask in masks.items():
        rows, columns = np.nonzero(mask)
        for row, column in zip(rows, columns, strict=True):
            start = min(max(0, column - 1), mask.shape[1] - 4)
            window = before[name][row, start : start + 4]
            if np.count_nonzero(window) < 3 or before[name][row, column] == 0:
                continue
            kinds = (np.float32, np.float64) if window.dtype.kind == "f" else (np.int64, np.int32, np.int16)
            needles |= {np.ascontiguousarray(window.astype(kind)).tobytes() for kind in kinds}
    assert needles
    return [
        str(path.relative_to(site.folder))
        for path, content in contents(site, index)
        if any(needle in content for needle in needles)
    ]


def contents(site: Site, index: int) -> Iterator[tuple[Path, bytes]]:
    """All files below a device's state, decrypted where they are encrypted; half-written ones, too."""
    folder, cipher = site.state(index), cipher_of(site.state(index))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if is_sealed(data):
                own = path.with_name(path.name.removeprefix(".").removesuffix(".partial"))
                named = own if path.name.endswith(".partial") else path
                data = cipher.open(named.relative_to(folder).as_posix(), data)
            yield path, data
