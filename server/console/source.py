"""What the console shows of a federation's folder, and does in it: through the functions that commands call, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from zkapex.errors import InputError
from zkapex.host.values import parsed_options
from zkapex.proofs.keys.trust import Trust
from zkapex.proofs.ledger.files import put
from zkapex.proofs.ledger.log import Log, check_log
from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.receipts.bundle import Bundle, read_bundle, receipts_in
from zkapex.proofs.receipts.page import READERS, content, page
from zkapex.proofs.receipts.receipt import sayings_of
from zkapex.proofs.receipts.report import check_report, make_report, open_report, read_case
from zkapex.proofs.records.signing import load_private_key, load_public_key
from zkapex.proofs.verify import Policy, verify_receipt
from zkapex.server.console.folder import FederationFolder
from zkapex.server.console.views import Answer, ClientView, Draft, Entry, LedgerView, PlanView, RequestView
from zkapex.server.deployment.acts import acts, record, said
from zkapex.server.deployment.decisions import readmit_in
from zkapex.server.deployment.ordering import cancel as take_back
from zkapex.server.deployment.ordering import create as order_deletion
from zkapex.server.deployment.ordering import understood
from zkapex.server.deployment.receipts import own_string
from zkapex.server.deployment.requests import Order, OrderBook, utc_text
from zkapex.server.deployment.settings import load
from zkapex.server.protocol.states import Client, Request
from zkapex.server.requests.plan import load_plan
from zkapex.server.store.registry import Registry
from zkapex.storage import load_json

Estimator = Callable[[Path, float], Mapping[str, str | int | float]]
"""What a request costs: from a federation's manifest, and the share of weights a mask has (`zkapex.costs.estimate`)."""

REPORT: Final = "report.json"
T = TypeVar("T")
U = TypeVar("U")


class FolderSource:
    """A `zkapex.server.console.views.Source` over a folder.

    Parameters
    ----------
    folder : FederationFolder
    estimator : callable, optional
        See `Estimator`; without one no cost can be said.
    """

    def __init__(self, folder: FederationFolder, estimator: Estimator | None = None) -> None:
        self._folder = folder
        self._estimator = estimator
        self.can_order = folder.deployed

    @property
    def federation(self) -> str:
        """Its name."""
        return self._folder.federation

    # -- requests and clients -----------------------------------------------------------------------------------------

    def requests(self) -> Sequence[RequestView]:
        """See `Source`."""
        found: dict[str, list[Request]] = {}
        for request in self._read(lambda registry: registry.requests(), ()):
            found.setdefault(request.request_id, []).append(request)
        orders = {order.request_id: order for order in self._orders()}
        views = [_view(each, orders.get(name)) for name, each in found.items()]
        waiting = dict.fromkeys((*orders, *self._folder.order.ids()))
        views += [_unsent(name, orders.get(name)) for name in waiting if name not in found]
        return sorted(views, key=_when, reverse=True)

    def request(self, request_id: str) -> RequestView | None:
        """See `Source`."""
        order = next((order for order in self._orders() if order.request_id == request_id), None)
        found = self._read(lambda registry: registry.requests(request_id), ())
        if found:
            return _view(found, order)
        known = order is not None or request_id in self._folder.order.ids()
        return _unsent(request_id, order) if known else None

    def clients(self) -> Sequence[ClientView]:
        """See `Source`."""
        return [_client(client, ()) for client in self._read(lambda registry: registry.clients(), ())]

    def client(self, client_id: str) -> ClientView | None:
        """See `Source`."""

        def read(registry: Registry) -> ClientView | None:
            found = registry.client(client_id)
            if found is None:
                return None
            return _client(found, [_answer(one) for one in registry.requests() if one.client_id == client_id])

        return self._read(read, None)

    def trail(self, limit: int) -> Sequence[Entry]:
        """See `Source`; what clients' requests came to, and what operators did, together."""
        found = [
            Entry(line.at, line.event, line.client_id, line.request_id, line.detail)
            for line in self._read(lambda registry: registry.transitions(), ())
        ]
        for act in acts(self._folder.place):
            of_client = act.what.startswith("client.")
            client, request = (act.subject, None) if of_client else ("", act.subject)
            found.append(Entry(datetime.fromisoformat(act.at), act.what, client, request, act.reason, act.who))
        return sorted(found, key=lambda entry: entry.at)[-limit:][::-1]

    def plan(self, request_id: str) -> PlanView | None:
        """See `Source`."""
        found = load_plan(self._request(request_id)) if self._request(request_id).is_dir() else None
        return None if found is None else PlanView(found.chosen, found.curve)

    def outcome(self, request_id: str) -> Mapping[str, Any] | None:
        """See `Source`."""
        path = self._folder.request(request_id).result
        found: Mapping[str, Any] | None = load_json(path) if path.exists() else None
        return found

    def readmit(self, client_id: str, reason: str, operator: str) -> None:
        """See `Source`."""
        with self._folder.registry() as registry:
            readmit_in(registry, self._folder.place, client_id, reason, _by(operator))

    # -- orders -------------------------------------------------------------------------------------------------------

    def estimate(self, draft: Draft) -> Mapping[str, str | int | float] | None:
        """See `Source`."""
        order, place = _order_of(draft, datetime.now(UTC)), self._folder.place
        if self._folder.deployed:  # a mistake is said before anything is measured
            OrderBook(place.requests).check(order)
            understood(place, load(place.root), order)
        if self._estimator is None or not self._folder.manifest.exists():
            return None
        return self._estimator(self._folder.manifest, _number(draft.density, "the share of weights"))

    def create(self, draft: Draft, operator: str) -> None:
        """See `Source`."""
        if not self._folder.deployed:
            raise InputError("nobody orders deletions in a demo's folder", fix="zkapex demo --requests, or a server")
        place = self._folder.place
        order_deletion(place, load(place.root), _order_of(draft, datetime.now(UTC)), _by(operator))

    def cancel(self, request_id: str, operator: str) -> None:
        """See `Source`."""
        if not self._folder.deployed:
            raise InputError("nobody orders deletions in a demo's folder")
        take_back(self._folder.place, request_id, "", _by(operator))

    # -- evidence -----------------------------------------------------------------------------------------------------

    def summary(self, request_id: str, client_id: str) -> Mapping[str, Any]:
        """See `Source`."""
        bundle = self._bundle(self._receipt(request_id, client_id))
        facts, outcome = bundle.dossier.facts, bundle.receipt.outcome
        shows, does_not_show = sayings_of(bundle.receipt, facts)
        return {
            "verdict": outcome.verdict,
            "reasons": list(outcome.reasons),
            "issued_at": outcome.issued_at,
            "payload_sha256": bundle.receipt.payload_digest,
            "operator": facts.operator,
            "audit": facts.audit_mode,
            "chunks_touched": facts.chunks_touched,
            "srs_origin": facts.srs_origin,
            "shows": [saying.words() for saying in shows],
            "does_not_show": [saying.words() for saying in does_not_show],
        }

    def verify(self, request_id: str, client_id: str) -> Mapping[str, Any]:
        """See `Source`."""
        verified = verify_receipt(self._receipt(request_id, client_id), self._policy())
        return {
            "depths": [{"name": d.name, "result": d.result, "note": d.note} for d in verified.depths],
            "proofs_verified": verified.chunks,
            "verify_cpu_s": round(verified.cpu_s, 2),
        }

    def ledger(self) -> LedgerView | None:
        """See `Source`."""
        if not (self._folder.ledger / "log.json").exists():
            return None
        log = Log.open(self._folder.ledger)
        checkpoint = log.checkpoint()
        return LedgerView(log.origin, checkpoint.size, checkpoint.root.hex(), str(log.verifier), self._witnesses(log))

    def check_ledger(self) -> LedgerView:
        """See `Source`."""
        log = Log.open(self._folder.ledger)
        found = check_log(log.www, log.verifier)
        return LedgerView(found.origin, found.size, found.root.hex(), str(log.verifier), self._witnesses(log))

    def report(self, request_id: str, reader: str) -> str | None:
        """See `Source`."""
        folder = self._receipts(request_id)
        if reader not in READERS or not (folder / REPORT).is_file():
            return None
        bundles = self._bundles(request_id)
        found = open_report((folder / REPORT).read_bytes(), [self._key()])
        check_report(found, bundles)
        return page(content(found, bundles, reader))

    def make_report(self, request_id: str, case: Mapping[str, Any], operator: str) -> None:
        """See `Source`."""
        bundles = self._bundles(request_id)
        key = load_private_key(self._folder.work / "provider" / "key.pem")
        told = read_case(json.dumps(case).encode())
        put(self._receipts(request_id) / REPORT, make_report(bundles, told, key, datetime.now(UTC)))
        record(self._folder.place, "request.reported", request_id, said(_by(operator), told.reference))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _read(self, action: Callable[[Registry], T], otherwise: U) -> T | U:
        """What the registry says; `otherwise` as long as there is none."""
        if not (self._folder.work / "provider" / "run.json").exists():
            return otherwise
        with self._folder.registry() as registry:
            return action(registry)

    def _orders(self) -> list[Order]:
        return [] if self._folder.orders is None else self._folder.orders.all()

    def _request(self, request_id: str) -> Path:
        """Where a request's plan is; only ids that are known come here, so that no path is made of what was typed."""
        return self._folder.work / "provider" / "requests" / request_id

    def _receipts(self, request_id: str) -> Path:
        if not self._read(lambda registry: registry.requests(request_id), ()):
            raise InputError("there is no such request", fix="choose one from the list of requests")
        return self._folder.request(request_id).receipts

    def _receipt(self, request_id: str, client_id: str) -> Path:
        if self._read(lambda registry: registry.receipt(client_id, request_id), None) is None:
            raise InputError("there is no such receipt", fix="choose one from the page of a request")
        return self._receipts(request_id) / client_id[:16]

    def _bundle(self, folder: Path) -> Bundle:
        return read_bundle(folder, [self._key()])

    def _bundles(self, request_id: str) -> list[Bundle]:
        folders = receipts_in(self._receipts(request_id))
        if not folders:
            raise InputError(f"there are no receipts of {request_id} yet", fix="wait until its clients have answered")
        return [self._bundle(folder) for folder in folders]

    def _key(self) -> Any:
        return load_public_key(self._folder.work / "key.pub")

    def _policy(self) -> Policy:
        """The provider's own key, log and reference string: what the operator of this folder relies on."""
        own = self._folder.ledger / "log.vkey"
        logs = LogPolicy.read(own) if own.is_file() else None
        return Policy(trust=Trust.of([self._key()]), srs=own_string(self._folder.work), logs=logs)

    def _witnesses(self, log: Log) -> Sequence[str]:
        policy = log.folder / "policy"
        return LogPolicy.read(policy).check(log.note())[1] if policy.is_file() else ()


def _by(operator: str) -> str:
    """Who did something, in the trail of operators: the user of this machine is the console's own."""
    return f"{operator}, in the console"


def _order_of(draft: Draft, now: datetime) -> Order:
    about = parsed_options([line.strip() for line in draft.about.splitlines() if line.strip()])
    if not about:
        raise InputError("nothing is said about what is to be forgotten", fix="give lines such as forget-class=3")
    days = _number(draft.days, "the number of days")
    if not 1 <= days <= 365:
        raise InputError(f"a request is due in {draft.days} days", fix="give a number from 1 to 365")
    due = utc_text(now + timedelta(days=days))
    return Order(draft.request_id, about, draft.legal_basis, draft.note, utc_text(now), due)


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{what} is {text!r}", fix="give a number") from None


def _when(view: RequestView) -> str:
    if view.opened_at is not None:
        return view.opened_at.isoformat()
    return view.order.created_at if view.order is not None else ""


def _unsent(request_id: str, order: Order | None) -> RequestView:
    return RequestView(request_id, (), None, None, "", order)


def _view(requests: Sequence[Request], order: Order | None) -> RequestView:
    asked = requests[0].sealed.record
    return RequestView(
        request_id=asked.request_id,
        answers=tuple(_answer(request) for request in requests),
        opened_at=min(request.sealed.record.issued_at for request in requests),
        expires_at=max(request.sealed.record.expires_at for request in requests),
        operator=asked.operator,
        order=order,
    )


def _answer(request: Request) -> Answer:
    return Answer(
        request_id=request.request_id,
        client_id=request.client_id,
        status=str(request.status),
        verdict=request.verdict,
        reason=request.reason,
        touched=len(request.touched),
        drawn=len(request.drawn),
        proved=len(request.proofs),
        receipt=request.receipt_digest is not None,
    )


def _client(client: Client, answers: Sequence[Answer]) -> ClientView:
    return ClientView(
        client_id=client.client_id,
        status=str(client.status),
        revision=client.revision,
        reason=client.reason,
        active=client.active,
        readmitted=client.readmitted,
        requests=tuple(answers),
    )
