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
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from flwr.serverapp import Grid
from torch import nn

from zkapex.circuits.operators import declared
from zkapex.errors import Error, InputError, ProtocolError
from zkapex.proofs.messages import EvaluateReply
from zkapex.proofs.receipts.chain import ENROLMENTS
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import load_or_create_private_key, save_public_key
from zkapex.server.events import EventLog
from zkapex.server.federation.admission import Admission
from zkapex.server.federation.claim import claim
from zkapex.server.federation.identity import Identity, identify
from zkapex.server.federation.lock import one_writer
from zkapex.server.federation.provider import Delegating, ManyRequests, Provider
from zkapex.server.federation.roster import Roster
from zkapex.server.federation.settings import RunSettings
from zkapex.server.federation.setup import Setup, check_provider, prepare
from zkapex.server.federation.training import train
from zkapex.server.protocol.states import UNDER_WAY, ClientStatus, RequestStatus
from zkapex.server.requests.coordinator import Coordinator
from zkapex.server.requests.costs import CostBook
from zkapex.server.requests.delegation import delegated_plan, proposal_facts
from zkapex.server.requests.deletion import Deletion
from zkapex.server.requests.folder import ADDRESSED, DELIVERED, PERSONALISED, Order, RequestFolder
from zkapex.server.requests.plan import StoredPlan, keep_zeros, load_plan, save_plan, unlearn_global
from zkapex.server.requests.result import client_result
from zkapex.server.store.registry import Registry, utc_now
from zkapex.storage import load_arrays, load_json, save_arrays, save_text
from zkapex.transport.peers import Peers
from zkapex.unlearning.curvature.factor import CurvatureEncoding, curvature_of
from zkapex.unlearning.operators import operator
from zkapex.unlearning.planning.steps import seldom

SCORES = "scores.json"


@dataclass(frozen=True)
class Due:
    """Something that a client is still to be asked for.

    Attributes
    ----------
    request_id, client_id : str
    what : str
        ``open``, ``unlearn``, ``prove``, ``conclude`` or ``deliver``; ``enrol`` belongs to no request.
    """

    request_id: str
    client_id: str
    what: str


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
    ) -> None:
        self.provider = provider
        self.settings = settings
        self.work_dir = work_dir
        self.order = Order(work_dir)
        self.admission = Admission(work_dir / "provider" / "roster.json", settings.admission)
        self._events = events
        self._clock = clock
        self._stack = ExitStack()
        self._registry: Registry | None = None
        self._setup: Setup | None = None
        self._session: tuple[Grid, Coordinator] | None = None

    def __enter__(self) -> Self:
        folder = self.work_dir / "provider"
        with ExitStack() as stack:
            stack.enter_context(one_writer(folder))
            claim(folder / "run.json", self.provider, self.settings)
            self._key = load_or_create_private_key(folder / "key.pem")
            if not (self.work_dir / "key.pub").exists():
                save_public_key(self._key.public_key(), self.work_dir / "key.pub")
            registry = Registry(folder / "registry.sqlite", self.provider.federation, clock=self._clock)
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
        first = self.work_dir / "provider" / "global.npz"
        emit = self._events.emit
        if not first.exists():
            check_provider(self.provider, settings)
            train(
                grid, self.provider, first, settings.rounds, settings.timeout_s, settings.seed, emit,
                barred=self._barred(grid),
            )  # fmt: skip
        elif request_id is not None and self._between(request_id) and settings.rounds_between:
            folder = self.order.folder(request_id)
            state = self._state_before(request_id)
            train(
                grid, self._about(request_id), folder.trained, settings.rounds_between, settings.timeout_s,
                settings.seed, emit, start=state, held=self._held(request_id), barred=self._barred(grid),
            )  # fmt: skip
        return self.model(request_id)

    def join(self, grid: Grid) -> Roster:
        """Learn which nodes are which clients, anew."""
        if self._setup is None:
            self._events.emit("keys.started", profile=self.settings.profile)
            manifest = self.work_dir / "provider" / "manifest.json"
            self._setup = prepare(self.provider, self.settings, self._initial(), manifest)
            rows, height = self._setup.circuit.rows, self._setup.circuit.spec.log2_rows
            self._events.emit("keys.done", rows=rows, log2_rows=height)
        setup = self._setup
        roster = Roster(
            Peers(grid, self.settings.timeout_s), self.registry, self._key, setup.circuit, setup.manifest,
            self._events.emit, setup.check, self.admission,
        )  # fmt: skip
        roster.recognise()
        self._session = grid, Coordinator(roster, self.settings.batch, self.settings.verify_workers)
        return roster

    def personalise(self, grid: Grid, request_id: str | None = None) -> None:
        """Have devices make the global model their own: new ones, and all before a later request if settings say so."""
        roster, settings = self._coordinator(grid).roster, self.settings
        again: set[str] = set()
        if request_id is not None and settings.personalise_between and self._between(request_id):
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
        roster, folder, provider = coordinator.roster, self.order.folder(request_id), self._about(request_id)
        self.order.add(request_id)
        roster.emit("search.started", request=request_id)
        plan = load_plan(folder.own)
        if plan is None:
            model, statement = self.model(request_id), roster.manifest.statement
            delegation = provider.delegate(model, statement) if isinstance(provider, Delegating) else None
            if delegation is None:
                on_step = seldom(lambda step: roster.emit("search.step", doing=step.words()))
                found = provider.plan(model, statement, on_step)
            else:
                found = delegated_plan(coordinator, delegation, model, request_id, folder.own)
            plan = save_plan(folder.own, keep_zeros(found, self._held(request_id), roster.manifest))
        if folder.clients(ADDRESSED) is None:
            folder.keep_clients(ADDRESSED, {client.client_id for client in self.registry.clients()})
        roster.emit("search.done", **plan.chosen)
        return plan

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
        self._coordinator(grid).prove(request_id, self._costs(request_id))

    def evaluate(self, grid: Grid, request_id: str) -> dict[str, EvaluateReply]:
        """Clients' own tallies before and after a request, asked for once; by client id."""
        path = self.order.folder(request_id).own / SCORES
        known = self._scores(request_id)
        known |= self._coordinator(grid).evaluate(request_id, known)
        if known:
            text = {client_id: json.loads(reply.to_bytes()) for client_id, reply in known.items()}
            save_text(path, json.dumps(text))
        return known

    def conclude(self, grid: Grid, request_id: str) -> dict[str, Path]:
        """Issue the receipts of all whose part is over and deliver them; their folders by client id."""
        coordinator, folder = self._coordinator(grid), self.order.folder(request_id)
        written = coordinator.conclude(request_id, folder.receipts)
        self._publish_enrolments(written)
        delivered = folder.clients(DELIVERED) or set()
        taken = coordinator.deliver({one: path for one, path in written.items() if one not in delivered})
        if taken:
            folder.keep_clients(DELIVERED, delivered | taken)
        return written

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
        if earlier:
            self._settle_earlier(grid, earlier)
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
        ids = [one for one in self.order.ids() if load_plan(self.order.folder(one).own) is not None]
        for request_id in ids:
            self._go_on(grid, request_id)
        self.personalise(grid)
        self.enrol(grid)
        for request_id in ids:
            self._go_on(grid, request_id)
        return self.due()

    def due(self) -> list[Due]:
        """What clients are still to be asked for, as far as the registry knows; nothing if all is done."""
        found = []
        for one in self.registry.clients():
            quarantined = one.status is ClientStatus.QUARANTINED
            if one.active is None and (one.readmitted if quarantined else bool(one.stale)):
                found.append(Due("", one.client_id, "enrol"))
        waiting = {RequestStatus.OPEN: "unlearn", RequestStatus.DISTRIBUTED: "unlearn"}
        for request_id in self.order.ids():
            folder = self.order.folder(request_id)
            delivered = folder.clients(DELIVERED) or set()
            requests = {request.client_id: request for request in self.registry.requests(request_id)}
            for client_id in sorted((folder.clients(ADDRESSED) or set()) | requests.keys()):
                request, client = requests.get(client_id), self.registry.client(client_id)
                if request is None:
                    if client is not None and client.status is not ClientStatus.QUARANTINED:
                        found.append(Due(request_id, client_id, "open"))
                elif request.status in UNDER_WAY:
                    found.append(Due(request_id, client_id, waiting.get(request.status, "prove")))
                elif request.status is not RequestStatus.RECEIPTED:
                    found.append(Due(request_id, client_id, "conclude"))
                elif client_id not in delivered and request.response is not None:
                    found.append(Due(request_id, client_id, "deliver"))
        return found

    # -- what there is ------------------------------------------------------------------------------------------------

    def model(self, request_id: str | None = None) -> nn.Module:
        """The global model: as a request starts from it, or, without one, as all requests have left it."""
        return self._loaded(self._state_before(request_id))

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

    def _settle_earlier(self, grid: Grid, ids: list[str]) -> None:
        due = {one.request_id for one in self.due()}
        for request_id in ids:
            if request_id in due and load_plan(self.order.folder(request_id).own) is not None:
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
        folder, provider = self.order.folder(request_id), self._about(request_id)
        before = self.model(request_id)
        if not folder.unlearned.exists():
            plan, manifest = self._plan_of(request_id), self._coordinator(grid).roster.manifest
            matrices = self._curvature(provider, before, grid)
            save_arrays(folder.unlearned, unlearn_global(before, manifest, matrices.__getitem__, plan))
        after = self._loaded(load_arrays(folder.unlearned))
        self._write_result(grid, folder, provider, (before, after), scores, receipts)

    def _write_result(
        self,
        grid: Grid,
        folder: RequestFolder,
        provider: Provider,
        models: tuple[nn.Module, nn.Module],
        scores: dict[str, EvaluateReply],
        receipts: dict[str, Path],
    ) -> None:
        plan, costs, roster = self._plan_of(folder.request_id), self._costs(folder.request_id), None
        roster = self._coordinator(grid).roster
        requests = sorted(self.registry.requests(folder.request_id), key=lambda request: request.client_id)
        result = {
            "request_id": folder.request_id,
            "forget_digest": sha256_hex(provider.forget_description().encode()),
            "manifest": json.loads(roster.manifest.to_bytes()),
            "plan": plan.chosen,
            "curve": plan.curve,
            "proposal": proposal_facts(folder.own),
            "global": {
                name: dict(provider.evaluate(model)) for name, model in zip(("before", "after"), models, strict=True)
            },
            "clients": [
                client_result(
                    roster.client(one.client_id), one, costs, scores, receipts.get(one.client_id), self.work_dir
                )
                for one in requests
            ],
            "not_enrolled": [{"node": str(node), "reason": reason} for node, reason in roster.not_enrolled().items()],
        }
        folder.result.parent.mkdir(exist_ok=True)
        save_text(folder.result, json.dumps(result, indent=1))
        ids = [one for one in self.order.ids() if self.order.folder(one).result.exists()]
        last = self.result(ids[-1])
        save_text(
            self.work_dir / "result.json", json.dumps({**last, "requests": [self.result(one) for one in ids]}, indent=1)
        )

    def _publish_enrolments(self, clients: Collection[str]) -> None:
        """Put clients' enrolments beside their receipts: those that no receipt rests on are links of the chain too."""
        for client_id in clients:
            folder = self.work_dir / "receipts" / ENROLMENTS / client_id[:16]
            folder.mkdir(parents=True, exist_ok=True)
            for revision, envelope in self.registry.enrolments(client_id).items():
                path = folder / f"{revision}.json"
                if not path.exists():
                    save_text(path, envelope.decode())

    def _about(self, request_id: str) -> Provider:
        return self.provider.for_request(request_id) if isinstance(self.provider, ManyRequests) else self.provider

    def _between(self, request_id: str) -> bool:
        """Whether there are earlier requests, and this one is not planned yet."""
        return bool(self.order.before(request_id)) and load_plan(self.order.folder(request_id).own) is None

    def _initial(self) -> nn.Module:
        return self._loaded(load_arrays(self.work_dir / "provider" / "global.npz"))

    def _loaded(self, state: dict[str, npt.NDArray[np.generic]]) -> nn.Module:
        model = self.provider.initial_model()
        model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        return model.eval()

    def _state_before(self, request_id: str | None) -> dict[str, npt.NDArray[np.generic]]:
        """The last of: the trained model, what earlier requests have left, what was trained on before this one."""
        paths = [self.work_dir / "provider" / "global.npz"]
        ids = self.order.ids() if request_id is None else self.order.before(request_id)
        for one in ids:
            paths += [self.order.folder(one).trained, self.order.folder(one).unlearned]
        if request_id is not None:
            paths.append(self.order.folder(request_id).trained)
        return load_arrays([path for path in paths if path.exists()][-1])

    def _held(self, request_id: str) -> dict[str, npt.NDArray[np.bool_]]:
        """Weights that earlier requests have made zero, by layer."""
        held: dict[str, npt.NDArray[np.bool_]] = {}
        if not declared(self.settings.operator).zeroes:
            return held
        for one in self.order.before(request_id):
            plan = load_plan(self.order.folder(one).own)
            for name, mask in ({} if plan is None else plan.zeroed).items():
                held[name] = held[name] | mask if name in held else mask
        return held

    def _plan_of(self, request_id: str) -> StoredPlan:
        plan = load_plan(self.order.folder(request_id).own)
        if plan is None:
            raise ProtocolError(f"request {request_id} is not planned yet")
        return plan

    def _deletion(self, request_id: str) -> Deletion:
        plan, settings = self._plan_of(request_id), self.settings
        if self._setup is None:
            raise ProtocolError("nobody has joined")
        statement = self._setup.manifest.statement
        tau_s, tau_g = operator(statement.kind).tolerances(statement)
        return Deletion(
            request_id=request_id,
            masks=plan.masks,
            guards=plan.guard_map(),
            operator=statement.kind,
            tau_s=tau_s,
            tau_g=tau_g,
            forget_digest=sha256_hex(self._about(request_id).forget_description().encode()),
            lifetime=timedelta(days=settings.lifetime_days),
            cheating=settings.audit_cheating if settings.audit == "sampled" else None,
            detect=settings.audit_detect,
            factors=plan.factors or None,
            steering=plan.steering_map(statement.guard_limit),
        )

    def _costs(self, request_id: str) -> CostBook:
        return CostBook(self.order.folder(request_id).own / "costs.json")

    def _scores(self, request_id: str) -> dict[str, EvaluateReply]:
        path = self.order.folder(request_id).own / SCORES
        found = load_json(path) if path.exists() else {}
        return {one: EvaluateReply.model_validate_json(json.dumps(reply)) for one, reply in found.items()}

    def _curvature(self, provider: Provider, model: nn.Module, grid: Grid) -> dict[str, list[npt.NDArray[np.int64]]]:
        """The curvature matrices of the provider's own model, by layer; empty if the operator looks at none."""
        manifest = self._coordinator(grid).roster.manifest
        if manifest.statement.curvature == "none":
            return {}
        names = [layer.name for layer in manifest.layers]
        encoded = curvature_of(model, names, provider.curvature_inputs(), CurvatureEncoding.of(manifest.statement))
        return {name: [block.matrix for block in blocks] for name, blocks in encoded.items()}

    def _barred(self, grid: Grid) -> set[int]:
        """Nodes that take no part in training: clients in quarantine, and devices that wait for an operator."""
        quarantined = {c.client_id for c in self.registry.clients() if c.status is ClientStatus.QUARANTINED}
        if not quarantined and self.settings.admission == "open":
            return set()
        barred = self.admission.barred(quarantined)
        for node, found in identify(Peers(grid, self.settings.timeout_s)).items():
            if not isinstance(found, Identity):
                continue
            if found.client_id in quarantined:
                barred.add(node)
            try:
                self.admission.check(found.client_id, node)
            except Error as e:
                self._events.emit("client.waiting", node=str(node), client=found.client_id, reason=e.what)
                barred.add(node)
        return barred


def run(grid: Grid, provider: Provider, settings: RunSettings, work_dir: Path, events: EventLog) -> dict[str, Any]:
    """Carry out all requests of a run from beginning to end, or go on with them; the content of ``result.json``."""
    with Federation(provider, settings, work_dir, events) as federation:
        for request_id in settings.request_ids:
            federation.carry_out(grid, request_id)
    found: dict[str, Any] = load_json(work_dir / "result.json")
    return found
