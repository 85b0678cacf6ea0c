"""``zkapex server``: install a server, keep it running, and operate the federation on it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from zkapex.cli import backups, campaigns, clients, issued, requests, web
from zkapex.cli.example import example

app = typer.Typer(
    help="Install, run and operate a server of a federation.", no_args_is_help=True, rich_markup_mode=None
)

app.add_typer(clients.app, name="clients")
app.add_typer(requests.app, name="requests")
app.add_typer(issued.app, name="receipts")
app.command("nodes")(clients.nodes)
app.command("tick")(campaigns.tick)
app.command("campaign")(campaigns.campaign)
app.command("backup")(backups.backup)
app.command("restore")(backups.restore)
app.command("confirm-restore")(backups.confirm_restore)
app.command("console")(web.console)
app.command("console-token")(web.console_token)
app.command("example")(example)

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
    srs: Annotated[
        str, typer.Option(help="A ceremony's file, or the digest that `zkapex srs import` printed; `local`: made here.")
    ] = "local",
    listen: Annotated[str, typer.Option(help="Address the gate listens on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(help="Port devices reach.")] = 9092,
    link_port: Annotated[int, typer.Option(help="Port of the SuperLink on the loopback interface.")] = 9091,
    health_port: Annotated[int, typer.Option(help="Port of its health service there.")] = 9093,
    metrics_port: Annotated[int, typer.Option(help="Port of metrics and readiness there.")] = 9094,
    database: Annotated[
        str, typer.Option(help="postgresql://USER@HOST/DATABASE for the registry, not a file. Passwords: ~/.pgpass.")
    ] = "",
    devices: Annotated[int, typer.Option(help="Devices that have to be online before the model is trained.")] = 1,
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
            "run": {**parsed_options(run or []), **({} if srs == "local" else {"srs": srs})},
            "gate": {"listen": listen, "port": port},
            "link": {"port": link_port, "health_port": health_port},
            "observe": {"port": metrics_port},
            "database": database,
            "campaigns": {"devices": devices},
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
def status(
    folder: Folder,
    wait: Annotated[float, typer.Option(help="Seconds to wait until the SuperLink serves.", min=0)] = 0.0,
    online: Annotated[int, typer.Option(help="With --wait: and until so many devices are online.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Whether the server serves, who is online, and what is under way. With --wait, exits 50 if it took too long."""
    import time

    from zkapex.cli.console import show
    from zkapex.errors import RuntimeFailure

    end = time.monotonic() + wait
    while True:
        facts = _facts(folder)
        good = facts["link"] == "serving" and int(str(facts.get("online", 0))) >= online
        if good or not wait:
            break
        if time.monotonic() >= end:
            raise RuntimeFailure(
                f"the server did not get so far within {wait:g} s",
                why=f"the SuperLink is {facts['link']}, and {facts.get('online', 0)} devices are online",
                fix="see its logs/, and zkapex device check on the devices",
            )
        time.sleep(1)
    if as_json:
        print(json.dumps(facts))
    else:
        show("facts", [{"what": name, "is": value} for name, value in facts.items()], False)


def _facts(folder: Path) -> dict[str, object]:
    from datetime import UTC, datetime

    from zkapex.cli.console import link_of
    from zkapex.errors import RuntimeFailure
    from zkapex.host.health import serving
    from zkapex.server.deployment.progress import progress
    from zkapex.server.deployment.reading import snapshot
    from zkapex.server.deployment.restored import unconfirmed
    from zkapex.server.deployment.settings import Place, load

    settings, place = load(folder), Place(folder.resolve())
    found, orders = snapshot(place), progress(place, datetime.now(UTC))
    facts: dict[str, object] = {"link": "serving" if serving(settings.link.health_port) else "down"}
    try:
        with link_of(folder) as link:
            nodes = link.nodes()
        facts |= {"nodes": len(nodes), "online": sum(node.status == "online" for node in nodes)}
    except RuntimeFailure as error:
        facts["link"] = error.what
    facts |= {"clients": len(found.clients), "quarantined": sum(c.status == "quarantined" for c in found.clients)}
    facts |= {"orders": len(orders), "overdue": sum(one.overdue for one in orders)}
    facts |= {"without_receipt": sum(r.status != "receipted" for r in found.requests)}
    facts |= {"unconfirmed_restore": unconfirmed(place) is not None}
    return facts


@app.command("audit-trail")
def audit_trail(
    folder: Folder,
    client: Annotated[str, typer.Option(help="Only of the client whose id begins so.")] = "",
    head: Annotated[bool, typer.Option("--head", help="Only where both trails end: keep that elsewhere.")] = False,
    as_json: Json = False,
) -> None:
    """Everything that operators did and that happened to clients and requests, oldest first; its chains are checked.

    Exits 20 if a line of it was changed or removed.
    """
    from zkapex.cli.console import show
    from zkapex.server.deployment.settings import Place, load
    from zkapex.server.deployment.trails import entries, heads

    load(folder)
    place = Place(folder.resolve())
    if head:
        show("heads", [one.__dict__ for one in heads(place)], as_json)
    else:
        show("events", [one.__dict__ for one in entries(place, client)], as_json)


@app.command("renew-certificate")
def renew_certificate(folder: Folder, as_json: Json = False) -> None:
    """Make a new key and certificate of the server under the same authority; restart the server to use it."""
    from zkapex.server.deployment.acts import record
    from zkapex.server.deployment.init import renew_certificate as renew
    from zkapex.server.deployment.settings import Place, load

    settings, place = load(folder), Place(folder.resolve())
    renew(place, settings)
    record(place, "certificate.renewed", settings.host)
    made = place.gate / "server.pem"
    print(json.dumps({"certificate": str(made)}) if as_json else f"Made {made}. Restart the server to use it.")


@app.command("rotate-key")
def rotate_key(
    folder: Folder, reason: Annotated[str, typer.Option(help="Why; goes into the audit trail.")], as_json: Json = False
) -> None:
    """Sign with a new key of the provider from now on; only while no request is under way.

    Give the new public key to every device (`zkapex device trust`) before the next campaign.
    """
    from zkapex.server.deployment.acts import record
    from zkapex.server.deployment.keys import rotate_key as rotate
    from zkapex.server.deployment.settings import Place, load

    settings, place = load(folder), Place(folder.resolve())
    public = rotate(place, settings)
    record(place, "key.rotated", public.name, reason)
    print(json.dumps({"provider_key": str(public)}) if as_json else f"Devices need {public} before the next campaign.")


def _event(what: str, **details: object) -> None:
    from zkapex.host.journal import line

    print(line(what, **details), flush=True)
