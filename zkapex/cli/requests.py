"""``zkapex server requests``: what is to be forgotten, from order to receipts."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zkapex.server.deployment.progress import Progress

app = typer.Typer(help="What is to be forgotten, from order to receipts.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Id = Annotated[str, typer.Argument(help="Id of the request.")]
Days = Annotated[int, typer.Option(help="Days until it has to be done.", min=1, max=365)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("create")
def create(
    folder: Folder,
    request_id: Id,
    about: Annotated[list[str], typer.Option(help="name=value of what is to be forgotten; may be repeated.")],
    legal_basis: Annotated[
        str,
        typer.Option(help="gdpr-17-erasure, gdpr-7-withdrawal, gdpr-21-objection, ccpa-deletion, contract or other."),
    ] = "gdpr-17-erasure",
    days: Days = 30,
    note: Annotated[str, typer.Option(help="For your own records.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would cost each client, and who would be asked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Order a deletion; the next campaign begins with it.

    A dry run searches for the mask as a campaign would, which takes as long, and measures once what a proof costs on
    this machine.
    """
    from zkapex.host.values import parsed_options
    from zkapex.server.deployment.ordering import create as order_deletion
    from zkapex.server.deployment.requests import Order, OrderBook, utc_text
    from zkapex.server.deployment.settings import Place, load

    settings, place, now = load(folder), Place(folder.resolve()), datetime.now(UTC)
    order = Order(
        request_id, parsed_options(about), legal_basis, note, utc_text(now), utc_text(now + timedelta(days=days))
    )
    if dry_run:
        from zkapex.cli.dryrun import show_costs

        OrderBook(place.requests).check(order)
        show_costs(place, settings, order, as_json)
        return
    what = order_deletion(place, settings, order)
    if as_json:
        print(json.dumps({"request": request_id, "forgets": what, "due": order.due_at}))
    else:
        print(f"Request {request_id} is to forget {what}, and is due by {order.due_at}.")


@app.command("list")
def list_requests(folder: Folder, as_json: Json = False) -> None:
    """All requests, and how far each is."""
    from zkapex.cli.console import show
    from zkapex.server.deployment.progress import progress
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    show("requests", [_row(one) for one in progress(Place(folder.resolve()), datetime.now(UTC))], as_json)


@app.command("show")
def show_request(folder: Folder, request_id: Id, as_json: Json = False) -> None:
    """One request, client by client, with what each device said."""
    from zkapex.cli.console import show
    from zkapex.server.deployment.progress import progress_of
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    found = progress_of(Place(folder.resolve()), request_id, datetime.now(UTC))
    rows: list[dict[str, Any]] = [
        {
            "client": part.client_id,
            "status": part.status,
            "chunks": None if part.facts is None else part.facts.touched,
            "proofs": None if part.facts is None else part.facts.proofs,
            "missing": None if part.facts is None else part.facts.missing,
            "verdict": part.verdict,
            "expires": None if part.facts is None else part.facts.expires_at.isoformat(timespec="seconds"),
            "reason": None if part.facts is None else part.facts.reason or None,
        }
        for part in found.parts
    ]
    facts = {**_row(found), "clients": rows}
    if as_json:
        print(json.dumps(facts))
        return
    show("facts", [{"what": name, "is": value} for name, value in facts.items() if name != "clients"], False)
    show("clients", rows, False)


@app.command("cancel")
def cancel(
    folder: Folder,
    request_id: Id,
    reason: Annotated[str, typer.Option(help="Why; goes into the audit trail.")],
    as_json: Json = False,
) -> None:
    """Take a request back that no device was asked to follow yet."""
    from zkapex.server.deployment.ordering import cancel as take_back
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    take_back(place, request_id, reason)
    print(json.dumps({"request": request_id}) if as_json else f"Request {request_id} is cancelled.")


@app.command("retry")
def retry(folder: Folder, request_id: Id, days: Days = 30, as_json: Json = False) -> None:
    """Try again at once what could not be planned, or ask those again who did not prove a request.

    The latter is a request of its own, with the same plan: it gets the next free id, and its own receipts.
    """
    from zkapex.server.deployment.acts import record
    from zkapex.server.deployment.ordering import repetition
    from zkapex.server.deployment.outcomes import forget_setback
    from zkapex.server.deployment.progress import NEW, progress_of
    from zkapex.server.deployment.requests import OrderBook, utc_text
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place, now = Place(folder.resolve()), datetime.now(UTC)
    found = progress_of(place, request_id, now)
    if found.state == NEW:
        forget_setback(place, f"request:{request_id}")
        record(place, "request.retried", request_id, found.problem, now)
        print(json.dumps({"request": request_id}) if as_json else f"Request {request_id} is tried again.")
        return
    again = repetition(place, request_id, found.unproved, utc_text(now), utc_text(now + timedelta(days=days)))
    OrderBook(place.requests).create(again)
    record(place, "request.repeated", request_id, f"as {again.request_id}, for {len(again.clients)} clients", now)
    if as_json:
        print(json.dumps({"request": again.request_id, "clients": list(again.clients)}))
    else:
        print(f"Request {again.request_id} asks {len(again.clients)} clients again.")


@app.command("watch")
def watch(
    folder: Folder,
    request_id: Id,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most; 0: as long as it takes.", min=0)] = 0.0,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 5.0,
    as_json: Json = False,
) -> None:
    """Wait until everybody's part in a request is over; campaigns have to run beside it.

    Exits 0 if all have proved it, 25 if somebody has not, 50 if the time was over before.
    """
    from zkapex.errors import NotProvedError, RuntimeFailure
    from zkapex.server.deployment.progress import CANCELLED, DONE, progress_of
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place, end, last = Place(folder.resolve()), time.monotonic() + timeout, ""
    while True:
        found = progress_of(place, request_id, datetime.now(UTC))
        line = json.dumps(_row(found)) if as_json else _line(found)
        if line != last:
            print(line, flush=True)
            last = line
        if found.state == CANCELLED or (found.state == DONE and found.unproved):
            raise NotProvedError(
                f"request {request_id} is over, and not everybody has proved it",
                why=f"it is {found.state}; without proof: {len(found.unproved)} clients",
                fix=f"zkapex server requests show {folder} {request_id}, then retry",
            )
        if found.state == DONE:
            return
        if timeout and time.monotonic() >= end:
            raise RuntimeFailure(
                f"request {request_id} was not over within {timeout:g} s", fix="do campaigns run? zkapex server tick"
            )
        time.sleep(every)


def _row(found: Progress) -> dict[str, Any]:
    order = found.order
    return {
        "request": order.request_id,
        "state": found.state,
        "about": ", ".join(f"{name}={value}" for name, value in order.about.items()),
        "basis": order.legal_basis,
        "created": order.created_at,
        "due": order.due_at,
        "overdue": found.overdue,
        "asked": len(found.parts),
        "proved": found.proved,
        "unproved": len(found.unproved),
        "repeats": order.repeats or None,
        "note": order.note or None,
        "problem": found.problem or None,
    }


def _line(found: Progress) -> str:
    counts = f"{found.proved} of {len(found.parts)} proved, {len(found.unproved)} not"
    problem = f"; {found.problem}" if found.problem else ""
    return f"{found.order.request_id}: {found.state}, {counts}{', overdue' if found.overdue else ''}{problem}"
