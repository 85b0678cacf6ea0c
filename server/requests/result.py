"""What came of a request, for people and machines: ``results/<id>.json``, and ``result.json`` for all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zkapex.proofs.messages import EvaluateReply, TuneReply
from zkapex.server.federation.roster import Roster
from zkapex.server.protocol.states import UNDER_WAY, Client, ClientStatus, Request
from zkapex.server.requests.costs import CostBook
from zkapex.server.requests.delegation import proposal_facts
from zkapex.server.requests.folder import RequestFolder
from zkapex.server.requests.past import Past
from zkapex.server.store.registry import Registry
from zkapex.storage import load_json, save_text


def verdict_of(client: Client, request: Request) -> str:
    """How a request stands with its client, in one word: of a finished one what it came to, else where it is."""
    if request.verdict == "proved":
        return "proved"
    if request.verdict is not None:
        blamed = client.status is ClientStatus.QUARANTINED and client.reason == request.reason
        return "quarantined" if blamed else request.verdict
    return "unreachable" if client.status is ClientStatus.UNREACHABLE else "pending"


def is_told(folder: RequestFolder, registry: Registry) -> bool:
    """Whether the result of a request, as it was last written, says of every client what the registry knows."""
    if not folder.result.exists():
        return False
    told = {row["client_id"]: row["verdict"] for row in load_json(folder.result)["clients"]}
    clients = {client.client_id: client for client in registry.clients()}
    asked = registry.requests(folder.request_id)
    return all(told.get(one.client_id) == verdict_of(clients[one.client_id], one) for one in asked)


def client_result(
    client: Client,
    request: Request,
    costs: CostBook,
    scores: Sequence[EvaluateReply | TuneReply],
    receipt: Path | None,
    work_dir: Path,
) -> dict[str, Any]:
    """One client's part in a request.

    Parameters
    ----------
    scores : sequence of EvaluateReply or TuneReply
        What the client says of its models.
    receipt : Path or None
        Folder of its receipt, if it was issued.
    work_dir : Path
        Of the federation; paths are given from there.
    """
    table: dict[str, dict[str, float]] = {}
    for reply in scores:
        for score in reply.scores:
            table.setdefault(score.model, {})[score.data] = score.correct / score.total
    reason = client.reason if request.status in UNDER_WAY else request.reason
    return {
        "id": client.client_id[:16],
        "client_id": client.client_id,
        "verdict": verdict_of(client, request),
        "reason": reason or None,
        "revision": client.revision,
        "chunks": len(request.touched),
        "chunks_proved": len(request.proofs),
        "audit": request.sealed.record.audit.model_dump(include={"mode", "count", "cheating", "detection"}),
        "attempts": request.sealed.record.attempts,
        **asdict(costs.of(client.client_id)),
        "accuracy": table,
        "receipt": str(receipt.relative_to(work_dir)) if receipt else None,
    }


def write_result(
    roster: Roster,
    past: Past,
    facts: Mapping[str, Any],
    tables: Sequence[Mapping[str, EvaluateReply | TuneReply]],
    receipts: Mapping[str, Path],
) -> None:
    """Write what came of a request so far.

    Parameters
    ----------
    roster : Roster
    past : Past
    facts : mapping of str to Any
        What the provider says: ``request_id``, ``forget_commitment``, and ``global``, its own model's accuracy.
    tables : sequence of mapping of str to EvaluateReply or TuneReply
        What clients say of their models, by client id.
    receipts : mapping of str to Path
        Folders of those issued, by client id.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    request_id = facts["request_id"]
    folder, plan, costs = past.order.folder(request_id), past.plan_of(request_id), past.costs(request_id)
    requests = sorted(roster.registry.requests(request_id), key=lambda request: request.client_id)
    result = {
        **facts,
        "manifest": json.loads(roster.manifest.to_bytes()),
        "plan": plan.chosen,
        "curve": plan.curve,
        "proposal": proposal_facts(folder.own),
        "clients": [
            client_result(
                roster.client(one.client_id),
                one,
                costs,
                [table[one.client_id] for table in tables if one.client_id in table],
                receipts.get(one.client_id),
                past.work_dir,
            )
            for one in requests
        ],
        "not_enrolled": [{"node": str(node), "reason": reason} for node, reason in roster.not_enrolled().items()],
    }
    folder.result.parent.mkdir(exist_ok=True)
    save_text(folder.result, json.dumps(result, indent=1))
    paths = [path for one in past.order.ids() if (path := past.order.folder(one).result).exists()]
    last: dict[str, Any] = load_json(paths[-1])
    save_text(past.work_dir / "result.json", json.dumps({**last, "requests": list(map(load_json, paths))}, indent=1))
