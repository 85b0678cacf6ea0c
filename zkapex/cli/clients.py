"""``zkapex server clients`` and ``nodes``: who may take part, and where each stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Who may take part, and where each stands.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("admit")
def admit(
    folder: Folder,
    key: Annotated[Path, typer.Argument(help="The device's node.pub.")],
    name: Annotated[str, typer.Option(help="What you call it.")] = "",
    as_json: Json = False,
) -> None:
    """Let a device in."""
    from zkapex.cli.console import link_of

    with link_of(folder) as link:
        node = link.register(key, name or key.parent.name)
    print(json.dumps({"node": str(node)}) if as_json else f"Node {node} may come in.")


@app.command("retire")
def retire(
    folder: Folder, node: Annotated[int, typer.Argument(help="Number of its node.")], as_json: Json = False
) -> None:
    """Let a device in no more, ever: its key cannot be registered again."""
    from zkapex.cli.console import link_of

    with link_of(folder) as link:
        link.retire(node)
    print(json.dumps({"node": str(node)}) if as_json else f"Node {node} does not come in any more.")


@app.command("list")
def list_clients(folder: Folder, as_json: Json = False) -> None:
    """All clients of the federation, and where each stands."""
    from zkapex.cli.console import show
    from zkapex.server.deployment.reading import snapshot
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    rows = [
        {
            "client": one.client_id,
            "status": str(one.status),
            "revision": one.revision,
            "request": one.active,
            "reason": one.reason or None,
        }
        for one in snapshot(Place(folder.resolve())).clients
    ]
    show("clients", rows, as_json)


@app.command("show")
def show_client(
    folder: Folder,
    client: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    as_json: Json = False,
) -> None:
    """One client, with its requests and everything that happened to it."""
    from zkapex.errors import InputError
    from zkapex.server.deployment.reading import registry_of, snapshot
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    found = snapshot(place)
    matching = [one for one in found.clients if one.client_id.startswith(client)]
    if len(matching) != 1:
        raise InputError(f"{len(matching)} clients are called {client}", fix="zkapex server clients list")
    one = matching[0]
    with registry_of(place) as registry:
        trail = registry.transitions(one.client_id)
    facts: dict[str, Any] = {
        "client": one.client_id,
        "status": str(one.status),
        "reason": one.reason or None,
        "requests": [
            {"request": r.request_id, "status": str(r.status), "verdict": r.verdict, "reason": r.reason or None}
            for r in found.requests
            if r.client_id == one.client_id
        ],
        "trail": [{"at": t.at.isoformat(), "event": t.event, "detail": t.detail} for t in trail],
    }
    if as_json:
        print(json.dumps(facts))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{one.client_id}: {one.status} {one.reason}")
    table = Table("at", "what", "details")
    for line in facts["trail"]:
        table.add_row(line["at"], line["event"], line["detail"])
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
