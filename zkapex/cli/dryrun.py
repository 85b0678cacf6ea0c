"""``zkapex server requests create --dry-run``: what an order would cost each client, and who would be asked."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from zkapex.cli.console import show

if TYPE_CHECKING:
    from zkapex.server.deployment.requests import Order
    from zkapex.server.deployment.settings import Place, ServerSettings


def show_costs(place: Place, settings: ServerSettings, order: Order, as_json: bool) -> None:
    """Print what an order would come to; nothing of it is kept."""
    from zkapex.costs import bench
    from zkapex.costs.estimate import Question, estimate
    from zkapex.costs.shapes import model_shapes
    from zkapex.server.deployment.ordering import addressees, preview
    from zkapex.server.deployment.settings import run_settings

    console = Console(stderr=True, highlight=False)
    console.print("Searching for the mask ...")
    start = time.monotonic()
    found = preview(place, settings, order)
    search_s = time.monotonic() - start
    shapes = model_shapes(str(place.federation / "provider" / "manifest.json"))
    run, chunks = run_settings(settings), found.manifest.n_chunks
    rates = bench.rates(
        found.manifest.statement, on_start=lambda: console.print("Measuring what a proof costs on this machine ...")
    )
    question = Question(
        density=max(found.masked, 1) / shapes.weights,
        touched=max(found.touched, 1) / chunks,
        audit=run.audit,
        cheated=run.audit_cheating,
        detection=min(run.audit_detect, 0.999999),
        workers=1,
    )
    each = estimate(shapes, found.manifest.statement, rates, question)
    asked = [
        {"client": one.client_id, "status": str(one.status), "not_at_once": why or None}
        for one, why in addressees(place)
    ]
    costs: dict[str, Any] = {
        "forgets": found.what,
        "masked_weights": found.masked,
        "chunks_touched": found.touched,
        "chunks": chunks,
        "audit": run.audit,
        "chunks_proved": each["chunks_proved"],
        "client_cpu_s": float(each["prove_cpu_s"]) + float(each["commit_cpu_s"]),
        "client_wall_s": float(each["prove_wall_s"]) + float(each["commit_cpu_s"]),
        "client_memory_mb": each["prover_memory_mb"],
        "client_sends_bytes": each["proof_bytes"],
        "server_search_s": search_s,
        "server_verify_cpu_s": float(each["verify_cpu_s"]) * len(asked),
        "due": order.due_at,
    }
    if as_json:
        print(json.dumps({"request": order.request_id, "costs": costs, "asked": asked}))
        return
    rows = [
        {"what": name, "is": f"{value:.3g}" if isinstance(value, float) else value} for name, value in costs.items()
    ]
    show("costs", rows, False)
    show("clients", asked, False)
    print("Times are of this machine, one prover at a time. Nothing was ordered.")
