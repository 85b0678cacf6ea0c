"""What came of a request, for people and machines: ``results/<id>.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zkapex.proofs.messages import EvaluateReply, TuneReply
from zkapex.server.protocol.states import UNDER_WAY, Client, ClientStatus, Request
from zkapex.server.requests.costs import CostBook


def verdict_of(client: Client, request: Request) -> str:
    """How a request stands with its client, in one word: of a finished one what it came to, else where it is."""
    if request.verdict == "proved":
        return "proved"
    if request.verdict is not None:
        blamed = client.status is ClientStatus.QUARANTINED and client.reason == request.reason
        return "quarantined" if blamed else request.verdict
    return "unreachable" if client.status is ClientStatus.UNREACHABLE else "pending"


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
