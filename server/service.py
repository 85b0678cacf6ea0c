"""A federation, as the thing that lives: steps that can be called one by one, again and again, request after request.

What is finished is on disk in the work folder, and a step that finds it there does not do it again::

    provider/key.pem, key.pub     signs requests and receipts
    provider/registry.sqlite      clients, commitments, requests, proofs, receipts
    provider/run.json             what must not change as long as the federation lives
    provider/roster.json          who may be a client, see `zkapex.server.federation.admission`
    provider/manifest.json        what is proved about which model
    provider/global.npz           the model after federated training
    result.json                   what came of the last request, and of all, for people and machines

and, for every request, what `zkapex.server.requests.folder` lists. One process at a time works in it.

`Federation.carry_out` takes one request from training to receipts. `Federation.tick` is for a federation that lives for
months: it asks whoever is there for whatever is due, and ends; nothing is lost if it is killed, nothing is done twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flwr.serverapp import Grid
from torch import nn

from zkapex.errors import InputError, ProtocolError
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.ledger.log import Log
from zkapex.proofs.messages import EvaluateReply, ModelManifest
from zkapex.proofs.records.signing import load_or_create_private_key, save_public_key
from zkapex.server.events import EventLog
from zkapex.server.federation.admission import Admission
from zkapex.server.federation.barring import barred
from zkapex.server.federation.claim import claim
from zkapex.server.federation.lock import one_writer
from zkapex.server.federation.provider import Orders, Provider
from zkapex.server.federation.roster import Roster
from zkapex.server.federation.settings import RunSettings
from zkapex.server.federation.setup import check_provider, load_manifest, prepare
from zkapex.server.federation.training import train
from zkapex.server.requests.concluding import publish_enrolments
from zkapex.server.requests.coordinator import Coordinator
from zkapex.server.requests.deletion import Deletion, deletion_of
from zkapex.server.requests.due import Due, due
from zkapex.server.requests.folder import ADDRESSED, DELIVERED, PERSONALISED, Order
from zkapex.server.requests.keeping import Keeper
from zkapex.server.requests.past import SCORES, Past
from zkapex.server.requests.plan import StoredPlan, load_plan, provider_curvature, unlearn_global
from zkapex.server.requests.planning import plan_request, preview
from zkapex.server.requests.result import is_told, write_result
from zkapex.server.requests.tuning import tune
from zkapex.server.store.registry import Registry, utc_now
from zkapex.storage import load_arrays, load_json, save_arrays, save_text
from zkapex.transport.peers import Peers
from zkapex.unlearning.planning.trials import Plan

REGISTRY = "registry.sqlite"


class Federation:
    """The provider's side of one federation.

    Parameters
    ----------
    provider : Provider
    settings : RunSettings
    work_dir : Path
        Where all its state is.
    events : EventLog
    clock : callable
        Gives the time in UTC.
    registry : str
        URL of a PostgreSQL database; empty: the registry is a file in the folder.
    orders : Orders, optional
        What operators ordered: by when, and of which earlier request it is a repetition.

    As a context manager it is the only one that works in its folder.

    Raises
    ------
    ProtocolError
        From ``with``: another process works in the folder.
    InputError
        From ``with``: the folder holds another federation.
    StorageError
        From everything: the folder cannot be written, or is damaged.
    """

    def __init__(
        self,
        provider: Provider,
        settings: RunSettings,
        work_dir: Path,
        events: EventLog,
        clock: Callable[[], datetime] = utc_now,
        *,
        registry: str = "",
        orders: Orders | None = None,
    ) -> None:
        self.provider = provider
        self.settings = settings
        self.work_dir = work_dir
        self.order = Order(work_dir)
        self.past = Past(provider, work_dir, self.order)
        self.admission = Admission(work_dir / "provider" / "roster.json", settings.admission)
        self._events = events
        self._orders = orders
        self._clock = clock
        self._location = registry or work_dir / "provider" / REGISTRY
        self._stack = ExitStack()
        self._registry: Registry | None = None
        self._engine: Engine | None = None
        self._session: tuple[Grid, Coordinator] | None = None

    def __enter__(self) -> Self:
        folder = self.work_dir / "provider"
        with ExitStack() as stack:
            stack.enter_context(one_writer(folder))
            claim(folder / "run.json", self.provider, self.settings)
            self._key = load_or_create_private_key(folder / "key.pem")
            if not (self.work_dir / "key.pub").exists():
                save_public_key(self._key.public_key(), self.work_dir / "key.pub")
            registry = Registry(self._location, self.provider.federation, clock=self._clock)
            self._registry = stack.enter_context(registry)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        self._stack.close()

    @property
    def registry(self) -> Registry:
        """Its memory."""
        if self._registry is None:
            raise InputError("a federation is used outside of its `with` block")
        return self._registry

    # -- one step at a time -------------------------------------------------------------------------------------------

    def train(self, grid: Grid, request_id: str | None = None) -> nn.Module:
        """Train the global model, once; with a request, go on training it before that request, if settings say so.

        Clients in quarantine, and those that wait for an operator, take no part.
        """
        settings = self.settings
        first = self.past.trained
        emit = self._events.emit
        if not first.exists():
            check_provider(self.provider, settings)
            train(
                grid, self.provider, first, settings.rounds, settings.timeout_s, settings.seed, emit,
                barred=self._barred(grid),
            )  # fmt: skip
        elif request_id is not None and self.past.between(request_id) and settings.rounds_between:
            folder = self.order.folder(request_id)
            state = self.past.state_before(request_id)
            train(
                grid, self.past.about(request_id), folder.trained, settings.rounds_between, settings.timeout_s,
                settings.seed, emit, start=state, held=self.past.held(request_id), barred=self._barred(grid),
            )  # fmt: skip
        return self.model(request_id)

    def join(self, grid: Grid) -> Roster:
        """Learn which nodes are which clients, anew."""
        if self._engine is None:
            self._events.emit("keys.started", profile=self.settings.profile)
            initial = self.past.loaded(load_arrays(self.past.trained))
            self._engine = prepare(self.provider, self.settings, initial, self.past.manifest)
            built = self._engine.circuit
            if built is None:
                self._events.emit("keys.done")
            else:
                self._events.emit("keys.done", rows=built.rows, log2_rows=built.spec.log2_rows)
        engine = self._engine
        roster = Roster(
            Peers(grid, self.settings.timeout_s), self.registry, self._key, engine, self._events.emit, self.admission,
        )  # fmt: skip
        roster.recognise()
        self._session = (
            grid,
            Coordinator(roster, self.settings.batch, self.settings.verify_workers, keeper=self._keeper()),
        )
        return roster

    def _keeper(self) -> Keeper:
        """What keeps the log, stamps and openings, in the provider's folder."""
        folder = self.work_dir / "provider"
        return Keeper(
            folder,
            Log.create(folder / "ledger", f"zkapex.example/{self.provider.federation}"),
            self.settings.tsa,
            lambda what, why: self._events.emit("evidence.missing", what=what, reason=why),
        )

    def personalise(self, grid: Grid, request_id: str | None = None) -> None:
        """Have devices make the global model their own: new ones, and all before a later request if settings say so."""
        roster, settings = self._coordinator(grid).roster, self.settings
        again: set[str] = set()
        if request_id is not None and settings.personalise_between and self.past.between(request_id):
            folder = self.order.folder(request_id)
            again = {client.client_id for client in self.registry.clients()} - (folder.clients(PERSONALISED) or set())
        self._events.emit("personalise.started", clients=len(roster.strangers()) + len(again))
        weights = {name: value.numpy(force=True) for name, value in self.model(request_id).state_dict().items()}
        done = roster.personalise(weights, settings.personal_epochs, settings.personal_lr, settings.seed, again)
        if done and request_id is not None:
            folder = self.order.folder(request_id)
            folder.keep_clients(PERSONALISED, (folder.clients(PERSONALISED) or set()) | done)

    def enrol(self, grid: Grid) -> None:
        """Have whoever must commit to its weights and curvature do so.

        Raises
        ------
        ProtocolError
            Nobody is a client after that.
        """
        self._events.emit("enrol.started")
        self._coordinator(grid).roster.enrol()

    def plan(self, grid: Grid, request_id: str) -> StoredPlan:
        """Choose mask, guard, steering and factors of a request, once; from here on it is one of the federation's."""
        coordinator = self._coordinator(grid)
        self.order.add(request_id)
        repeats = None if self._orders is None else self._orders.repeats(request_id)
        return plan_request(coordinator, self.past, request_id, repeats)

    def preview(self, request_id: str) -> tuple[ModelManifest, Plan]:
        """What a request that was not made yet would ask for; nothing of it is kept, and nobody is asked.

        Raises
        ------
        InputError
            A client would choose the mask.
        """
        manifest = load_manifest(self.past.manifest)
        return manifest, preview(self.past, manifest, request_id)

    def open(self, grid: Grid, request_id: str) -> None:
        """Sign the request to every client it is addressed to that has none yet, is here, and may be asked."""
        folder = self.order.folder(request_id)
        self._coordinator(grid).open(self._deletion(request_id), folder.clients(ADDRESSED))

    def distribute(self, grid: Grid, request_id: str) -> None:
        """Send the request to whoever has not answered it, and take the signed responses."""
        coordinator = self._coordinator(grid)
        coordinator.miss_absent(request_id)
        coordinator.distribute(request_id)

    def prove(self, grid: Grid, request_id: str) -> None:
        """Ask for proofs, verify them, and settle the requests of all whose proofs hold."""
        self._coordinator(grid).prove(request_id, self.past.costs(request_id))

    def evaluate(self, grid: Grid, request_id: str) -> dict[str, EvaluateReply]:
        """Clients' own tallies before and after a request, asked for once; by client id."""
        path = self.order.folder(request_id).own / SCORES
        known = self.past.scores(request_id)
        known |= self._coordinator(grid).evaluate(request_id, known)
        if known:
            text = {client_id: json.loads(reply.to_bytes()) for client_id, reply in known.items()}
            save_text(path, json.dumps(text))
        return known

    def conclude(self, grid: Grid, request_id: str) -> dict[str, Path]:
        """Issue the receipts of all whose part is over and deliver them; their folders by client id."""
        coordinator, folder = self._coordinator(grid), self.order.folder(request_id)
        written = coordinator.conclude(request_id, folder.receipts)
        publish_enrolments(self.registry, self.work_dir / "receipts", written)
        delivered = folder.clients(DELIVERED) or set()
        taken = coordinator.deliver({one: path for one, path in written.items() if one not in delivered})
        if taken:
            folder.keep_clients(DELIVERED, delivered | taken)
        return written

    def tune(self, grid: Grid, request_id: str) -> None:
        """Have clients that proved a request train on with what was deleted held, once, and enrol what comes of it.

        Only after requests that prescribe what the result is along directions, and if settings say so.
        """
        roster = self._coordinator(grid).roster
        wanted = {one.client_id for one in self.due() if (one.request_id, one.what) == (request_id, "tune")}
        if wanted:
            self._events.emit("tune.started", clients=len(wanted), request=request_id)
            tuned = tune(roster, self.past, self.settings, request_id, wanted)
            self.enrol(grid)
            publish_enrolments(self.registry, self.work_dir / "receipts", tuned)

    # -- many steps -------------------------------------------------------------------------------------------------

    def carry_out(self, grid: Grid, request_id: str) -> dict[str, Any]:
        """One request from training to receipts, with whoever is there; earlier ones that wait for somebody go on too.

        Returns
        -------
        dict
            As `result`.
        """
        self.train(grid, request_id)
        roster = self.join(grid)
        self._coordinator(grid).expire()
        earlier = [one for one in self.order.ids() if one != request_id]
        if earlier:
            self._settle_earlier(grid, earlier)
        self.personalise(grid, request_id)
        self.enrol(grid)
        self._settle_earlier(grid, [one for one in self._unopened() if one != request_id])
        self.plan(grid, request_id)
        self.open(grid, request_id)
        self._events.emit("unlearn.started", clients=len(roster.clients), request=request_id)
        self.distribute(grid, request_id)
        chunks = sum(len(request.touched) for request in self.registry.requests(request_id))
        self._events.emit("prove.started", chunks=chunks)
        self.prove(grid, request_id)
        self._events.emit("receipts.started")
        self._finish(grid, request_id)
        return self.result(request_id)

    def tick(self, grid: Grid) -> list[Due]:
        """Ask whoever is there for whatever is due, of all requests that were planned; returns what is left.

        A first call for a new federation trains it. A new request is made by `plan`, or by `carry_out`.
        """
        self.train(grid)
        self.join(grid)
        self._coordinator(grid).expire()
        ids = list(self.order.ids())
        self._settle_earlier(grid, ids)
        self.personalise(grid)
        self.enrol(grid)
        self._settle_earlier(grid, self._unopened())
        return self.due()

    def due(self) -> list[Due]:
        """What clients are still to be asked for, as far as the registry knows; nothing if all is done."""
        return due(self.registry, self.order, tunes=self.settings.tune_epochs > 0)

    # -- what there is ------------------------------------------------------------------------------------------------

    def model(self, request_id: str | None = None) -> nn.Module:
        """The global model: as a request starts from it, or, without one, as all requests have left it."""
        return self.past.loaded(self.past.state_before(request_id))

    def not_enrolled(self) -> dict[int, str]:
        """Nodes that are here and are no clients, and why; nothing before anybody has joined."""
        return {} if self._session is None else self._session[1].roster.not_enrolled()

    def result(self, request_id: str) -> dict[str, Any]:
        """What came of a request, as it was written when it was last worked on."""
        found: dict[str, Any] = load_json(self.order.folder(request_id).result)
        return found

    # -- inside -------------------------------------------------------------------------------------------------------

    def _coordinator(self, grid: Grid) -> Coordinator:
        if self._session is None or self._session[0] is not grid:
            self.join(grid)
        if self._session is None:
            raise ProtocolError("nobody has joined")
        return self._session[1]

    def _unopened(self) -> list[str]:
        """Requests that wait for a client to enrol, which it may have done now; the others were just gone on with."""
        opened = {one.request_id for one in self.due() if one.what == "open"}
        return [one for one in self.order.ids() if one in opened]

    def _settle_earlier(self, grid: Grid, ids: list[str]) -> None:
        """Go on with those that wait for somebody who is here, or for the server; what waits for others only, waits.

        So a device that left for good, and that no operator has retired, costs nothing at every later request.
        """
        here = set(self._coordinator(grid).roster.clients.values())
        moving = {one.request_id for one in self.due() if one.what == "conclude" or one.client_id in here}
        for request_id in ids:
            unfinished = request_id in moving or not is_told(self.order.folder(request_id), self.registry)
            if unfinished and load_plan(self.order.folder(request_id).own) is not None:
                self._go_on(grid, request_id)

    def _go_on(self, grid: Grid, request_id: str) -> None:
        """Whatever of a request can be done now."""
        self.open(grid, request_id)
        self.distribute(grid, request_id)
        self.prove(grid, request_id)
        self._finish(grid, request_id)

    def _finish(self, grid: Grid, request_id: str) -> None:
        """Scores, receipts, the global model and the result."""
        scores = self.evaluate(grid, request_id)
        receipts = self.conclude(grid, request_id)
        self.tune(grid, request_id)
        folder, provider = self.order.folder(request_id), self.past.about(request_id)
        before = self.model(request_id)
        if not folder.unlearned.exists():
            plan, manifest = self.past.plan_of(request_id), self._coordinator(grid).roster.manifest
            matrices = provider_curvature(provider, before, manifest)
            save_arrays(folder.unlearned, unlearn_global(before, manifest, matrices.__getitem__, plan))
        after = self.past.loaded(load_arrays(folder.unlearned))
        roster = self._coordinator(grid).roster
        facts = {
            "request_id": request_id,
            "forget_commitment": self._keeper().commitment(request_id, provider.forget_description()),
            "global": {name: dict(provider.evaluate(model)) for name, model in (("before", before), ("after", after))},
        }
        write_result(roster, self.past, facts, [scores, self.past.tuned(request_id)], receipts)

    def _deletion(self, request_id: str) -> Deletion:
        digest = self._keeper().commitment(request_id, self.past.about(request_id).forget_description())
        plan, lifetime = self.past.plan_of(request_id), self._lifetime(request_id)
        return deletion_of(request_id, plan, self._manifest(), self.settings, digest, lifetime)

    def _lifetime(self, request_id: str) -> timedelta:
        """How long clients may take: until the deadline, but never less than the settings give them."""
        least = timedelta(days=self.settings.lifetime_days)
        deadline = None if self._orders is None else self._orders.deadline(request_id)
        return least if deadline is None else max(least, deadline - self._clock())

    def _barred(self, grid: Grid) -> set[int]:
        return barred(Peers(grid, self.settings.timeout_s), self.registry, self.admission, self._events.emit)

    def _manifest(self) -> ModelManifest:
        if self._engine is None:
            raise ProtocolError("nobody has joined")
        return self._engine.manifest


def run(grid: Grid, provider: Provider, settings: RunSettings, work_dir: Path, events: EventLog) -> dict[str, Any]:
    """Carry out all requests of a run from beginning to end, or go on with them; the content of ``result.json``."""
    with Federation(provider, settings, work_dir, events) as federation:
        for request_id in settings.request_ids:
            federation.carry_out(grid, request_id)
    found: dict[str, Any] = load_json(work_dir / "result.json")
    return found
