"""``zkapex server``: install a server, keep it running, and operate the federation on it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from zkapex.cli import clients, requests

app = typer.Typer(
    help="Install, run and operate a server of a federation.", no_args_is_help=True, rich_markup_mode=None
)

app.add_typer(clients.app, name="clients")
app.add_typer(requests.app, name="requests")
app.command("nodes")(clients.nodes)

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("init")
def init(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Name or address under which devices reach it.")],
    provider: Annotated[str, typer.Option(help="The provider, as module:factory.")],
    option: Annotated[list[str] | None, typer.Option(help="name=value for that factory; may be repeated.")] = None,
    run: Annotated[
        list[str] | None, typer.Option(help="name=value of a setting of the federation; repeatable.")
    ] = None,
    listen: Annotated[str, typer.Option(help="Address the gate listens on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(help="Port devices reach.")] = 9092,
    link_port: Annotated[int, typer.Option(help="Port of the SuperLink on the loopback interface.")] = 9091,
    health_port: Annotated[int, typer.Option(help="Port of its health service there.")] = 9093,
    metrics_port: Annotated[int, typer.Option(help="Port of metrics and readiness there.")] = 9094,
    certificate: Annotated[Path | None, typer.Option(help="Your own certificate instead of a new one.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the authority it is by.")] = None,
    as_json: Json = False,
) -> None:
    """Make a server's folder: certificates, the provider's key, the guard, and a configuration."""
    from zkapex.errors import InputError
    from zkapex.host.values import parsed_options
    from zkapex.server.deployment.init import OwnCertificate, create_server
    from zkapex.server.deployment.settings import checked

    own = None
    if certificate is not None or key is not None or ca is not None:
        if certificate is None or key is None or ca is None:
            raise InputError("a certificate of your own comes with its key and its authority")
        own = OwnCertificate(certificate, key, ca)
    settings = checked(
        {
            "host": host,
            "provider": provider,
            "options": parsed_options(option or []),
            "run": parsed_options(run or []),
            "gate": {"listen": listen, "port": port},
            "link": {"port": link_port, "health_port": health_port},
            "observe": {"port": metrics_port},
        },
        "the command line",
    )
    place = create_server(folder, settings, own)
    made = {"folder": place.root, "ca": place.link / "ca.pem", "provider_key": place.federation / "key.pub"}
    if as_json:
        print(json.dumps({name: str(path) for name, path in made.items()}))
    else:
        print(f"Made {made['folder']}. Devices need {made['ca']} and {made['provider_key']}.")


@app.command("run")
def run_server(
    folder: Folder,
    only: Annotated[
        list[str] | None, typer.Option(help="link, superexec, gate or observe, under users of their own; repeatable.")
    ] = None,
) -> None:
    """Keep the server's processes running until it is stopped."""
    from zkapex.host.supervise import Supervisor
    from zkapex.server.deployment.init import renew_guard
    from zkapex.server.deployment.programs import PARTS, programs
    from zkapex.server.deployment.settings import Place, load

    settings, place = load(folder), Place(folder.resolve())
    parts = tuple(only) if only else PARTS
    if "superexec" in parts:
        renew_guard(place, settings)
    supervisor = Supervisor(programs(place, settings, parts), _event)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()


@app.command("status")
def status(folder: Folder, as_json: Json = False) -> None:
    """Whether the server serves, who is online, and what is under way."""
    from zkapex.cli.console import link_of, show
    from zkapex.errors import RuntimeFailure
    from zkapex.host.health import serving
    from zkapex.server.deployment.reading import snapshot
    from zkapex.server.deployment.settings import Place, load

    settings, place = load(folder), Place(folder.resolve())
    found = snapshot(place)
    facts: dict[str, object] = {"link": "serving" if serving(settings.link.health_port) else "down"}
    try:
        with link_of(folder) as link:
            nodes = link.nodes()
        facts |= {"nodes": len(nodes), "online": sum(node.status == "online" for node in nodes)}
    except RuntimeFailure as error:
        facts["link"] = error.what
    facts |= {"clients": len(found.clients), "quarantined": sum(c.status == "quarantined" for c in found.clients)}
    facts |= {"orders": len(found.orders), "without_receipt": sum(r.status != "receipted" for r in found.requests)}
    if as_json:
        print(json.dumps(facts))
    else:
        show("facts", [{"what": name, "is": value} for name, value in facts.items()], False)


@app.command("audit-trail")
def audit_trail(folder: Folder, as_json: Json = False) -> None:
    """Everything that happened to clients and requests, oldest first."""
    from zkapex.cli.console import show
    from zkapex.server.deployment.reading import registry_of
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    with registry_of(Place(folder.resolve())) as registry:
        rows = [
            {
                "at": one.at.isoformat(),
                "event": one.event,
                "client": one.client_id[:16],
                "request": one.request_id,
                "detail": one.detail,
            }
            for one in registry.transitions()
        ]
    show("events", rows, as_json)


def _event(what: str, **details: object) -> None:
    print(json.dumps({"event": what, **details}), flush=True)
