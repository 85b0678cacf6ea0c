"""``zkapex server clients`` and ``nodes``: who may take part, and where each stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from zkapex.server.deployment.decisions import Decision

app = typer.Typer(help="Who may take part, and where each stands.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Name = Annotated[str, typer.Argument(help="The client's id, or the beginning of it.")]
Reason = Annotated[str, typer.Option(help="Why; goes into the audit trail.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("admit")
def admit(
    folder: Folder,
    device: Annotated[
        str, typer.Argument(help="The device's node.pub; or the id of a client that waits to be admitted.")
    ],
    name: Annotated[str, typer.Option(help="What you call the device.")] = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Let a device in, or a client that waits because its device shows another key or is on no list."""
    from zkapex.cli.console import link_of
    from zkapex.server.deployment.decisions import admit_client, admit_device
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place, key = Place(folder.resolve()), Path(device)
    if key.is_file():
        with link_of(folder) as link:
            done = admit_device(place, link, key, name or key.resolve().parent.name)
    else:
        done = admit_client(place, device, reason or name)
    _tell(done, "may come in", as_json)


@app.command("quarantine")
def quarantine(folder: Folder, client: Name, reason: Reason, as_json: Json = False) -> None:
    """Have a client take no part any more, until it is readmitted."""
    from zkapex.server.deployment.decisions import quarantine as decide
    from zkapex.server.deployment.settings import Place, load

    _tell(decide(Place(folder.resolve()), load(folder), client, reason), "takes no part any more", as_json)


@app.command("readmit")
def readmit(folder: Folder, client: Name, reason: Reason, as_json: Json = False) -> None:
    """Let a quarantined client enrol again, by proof that all it was asked to delete is zero."""
    from zkapex.server.deployment.decisions import readmit as decide
    from zkapex.server.deployment.settings import Place, load

    _tell(decide(Place(folder.resolve()), load(folder), client, reason), "may enrol again", as_json)


@app.command("retire")
def retire(
    folder: Folder,
    device: Annotated[str, typer.Argument(help="Number of its node, or its client's id or the beginning of it.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Let a device in no more, ever: its key cannot be registered again."""
    from zkapex.cli.console import link_of
    from zkapex.server.deployment.decisions import retire as decide
    from zkapex.server.deployment.settings import Place, load

    settings = load(folder)
    with link_of(folder) as link:
        done = decide(Place(folder.resolve()), settings, link, device, reason)
    _tell(done, "does not come in any more", as_json)


@app.command("list")
def list_clients(folder: Folder, as_json: Json = False) -> None:
    """All clients of the federation, where each stands, and who waits to be admitted."""
    from zkapex.cli.console import show
    from zkapex.server.deployment.decisions import admission_of
    from zkapex.server.deployment.reading import snapshot
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    entries = admission_of(place).entries()
    nodes = {client: node for node, client in entries.nodes.items()}
    rows: list[dict[str, Any]] = [
        {
            "client": one.client_id,
            "node": nodes.get(one.client_id),
            "status": str(one.status),
            "revision": one.revision,
            "request": one.active,
            "reason": one.reason or None,
        }
        for one in snapshot(place).clients
    ]
    known = {row["client"] for row in rows}
    rows += [
        {"client": client, "node": None, "status": "waiting", "revision": None, "request": None, "reason": why}
        for client, why in sorted(entries.waiting.items())
        if client not in known
    ]
    show("clients", rows, as_json)


@app.command("show")
def show_client(folder: Folder, client: Name, as_json: Json = False) -> None:
    """One client, with its requests and everything that happened to it."""
    from zkapex.server.deployment.decisions import client_called
    from zkapex.server.deployment.reading import clients_by_node, registry_of, snapshot
    from zkapex.server.deployment.settings import Place, load

    settings = load(folder)
    place = Place(folder.resolve())
    with registry_of(place, settings) as registry:
        one = client_called(registry, client)
        trail = registry.transitions(one.client_id)
    facts: dict[str, Any] = {
        "client": one.client_id,
        "node": next((node for node, found in clients_by_node(place).items() if found == one.client_id), None),
        "status": str(one.status),
        "revision": one.revision,
        "readmitted": one.readmitted,
        "stale": one.stale or None,
        "reason": one.reason or None,
        "requests": [
            {"request": r.request_id, "status": str(r.status), "verdict": r.verdict, "reason": r.reason or None}
            for r in snapshot(place).requests
            if r.client_id == one.client_id
        ],
        "trail": [
            {"at": t.at.isoformat(), "event": t.event, "request": t.request_id, "detail": t.detail} for t in trail
        ],
    }
    if as_json:
        print(json.dumps(facts))
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{one.client_id}: {one.status}{f', {one.reason}' if one.reason else ''}")
    table = Table("at", "what", "request", "details")
    for line in facts["trail"]:
        table.add_row(line["at"], line["event"], line["request"], line["detail"])
    console.print(table)


def nodes(folder: Folder, as_json: Json = False) -> None:
    """Which of Flower's nodes is which client, and which are online."""
    from zkapex.cli.console import link_of, show
    from zkapex.server.deployment.reading import clients_by_node
    from zkapex.server.deployment.settings import Place

    with link_of(folder) as link:
        found = link.nodes()
    clients = clients_by_node(Place(folder.resolve()))
    rows = [
        {
            "node": str(one.node_id),
            "name": one.name,
            "status": one.status,
            "client": clients.get(str(one.node_id)),
            "since": one.since or None,
        }
        for one in found
    ]
    show("nodes", rows, as_json)


def _tell(done: Decision, what: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"client": done.client, "node": None if done.node is None else str(done.node)}))
    else:
        who = f"Client {done.client[:16]}" if done.client else f"Node {done.node}"
        print(f"{who} {what}.")
