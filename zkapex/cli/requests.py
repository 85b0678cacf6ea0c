"""``zkapex server requests``: what is to be forgotten, from order to receipts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="What is to be forgotten, from order to receipts.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Id = Annotated[str, typer.Argument(help="Id of the request.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("create")
def create(
    folder: Folder,
    request_id: Id,
    about: Annotated[list[str], typer.Option(help="name=value of what is to be forgotten; may be repeated.")],
    legal_basis: Annotated[str, typer.Option(help="Why, as your records of processing call it.")] = "gdpr-17-erasure",
    days: Annotated[int, typer.Option(help="Days until it has to be done.", min=1, max=365)] = 30,
    note: Annotated[str, typer.Option(help="For your own records.")] = "",
    as_json: Json = False,
) -> None:
    """Order a deletion; the next campaign begins with it."""
    from zkapex.host.values import parsed_options
    from zkapex.server.deployment.requests import Order, OrderBook, utc_text
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    now = datetime.now(UTC)
    order = Order(
        request_id, parsed_options(about), legal_basis, note, utc_text(now), utc_text(now + timedelta(days=days))
    )
    OrderBook(Place(folder.resolve()).requests).create(order)
    print(json.dumps({"request": request_id}) if as_json else f"Request {request_id} is due by {order.due_at}.")


@app.command("list")
def list_requests(folder: Folder, as_json: Json = False) -> None:
    """All requests, and how far each is."""
    from zkapex.cli.console import show
    from zkapex.server.deployment.reading import snapshot
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    found = snapshot(Place(folder.resolve()))
    rows = []
    for order in found.orders:
        of_it = [one for one in found.requests if one.request_id == order.request_id]
        done = sum(1 for one in of_it if one.verdict == "proved")
        rows.append(
            {
                "request": order.request_id,
                "status": order.status,
                "about": ", ".join(f"{name}={value}" for name, value in order.about.items()),
                "basis": order.legal_basis,
                "due": order.due_at,
                "clients": len(of_it),
                "proved": done,
            }
        )
    show("requests", rows, as_json)


@app.command("show")
def show_request(folder: Folder, request_id: Id, as_json: Json = False) -> None:
    """One request, client by client."""
    from zkapex.cli.console import show
    from zkapex.server.deployment.reading import snapshot
    from zkapex.server.deployment.requests import OrderBook
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    order = OrderBook(place.requests).get(request_id)
    rows: list[dict[str, Any]] = [
        {
            "client": one.client_id,
            "status": str(one.status),
            "chunks": one.touched,
            "proofs": one.proofs,
            "missing": one.missing,
            "verdict": one.verdict,
            "expires": one.expires_at.isoformat(),
            "reason": one.reason or None,
        }
        for one in snapshot(place).requests
        if one.request_id == request_id
    ]
    if as_json:
        about = {"request": request_id, "status": order.status, "about": dict(order.about), "due": order.due_at}
        print(json.dumps({**about, "clients": rows}))
    else:
        show("clients", rows, as_json)


@app.command("cancel")
def cancel(folder: Folder, request_id: Id, as_json: Json = False) -> None:
    """Take a request back that no device was asked to follow yet."""
    from zkapex.server.deployment.reading import snapshot
    from zkapex.server.deployment.requests import OrderBook
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    sent = any(one.request_id == request_id for one in snapshot(place).requests)
    OrderBook(place.requests).cancel(request_id, sent)
    print(json.dumps({"request": request_id}) if as_json else f"Request {request_id} is cancelled.")
