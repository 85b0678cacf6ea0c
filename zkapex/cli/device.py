"""``zkapex device``: install a device, look whether it can take part, run it, and delete it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Install and run a device of a federation.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="The device's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("init")
def init(
    folder: Folder,
    server: Annotated[str, typer.Option(help="Where the server's gate is, host:port.")],
    ca: Annotated[Path, typer.Option(help="Certificate of the authority the server's is by.")],
    provider_key: Annotated[Path, typer.Option(help="The provider's public key, obtained from somebody you trust.")],
    task: Annotated[str, typer.Option(help="Model and data of this device, as module:factory.")],
    option: Annotated[list[str] | None, typer.Option(help="name=value for that factory; may be repeated.")] = None,
    key_file: Annotated[str, typer.Option(help="File that keys the state; default: a credential, or a new file.")] = "",
    port: Annotated[int, typer.Option(help="Port on the loopback interface for the device's own processes.")] = 9095,
    health_port: Annotated[int, typer.Option(help="Port on the loopback interface that says whether it runs.")] = 9096,
    max_cpu: Annotated[int, typer.Option(help="Cores that are worked on at most; 0 for all.")] = 0,
    max_memory: Annotated[int, typer.Option(help="MiB of memory a process may take at most; 0 for any.")] = 0,
    window: Annotated[list[str] | None, typer.Option(help="HH:MM-HH:MM in which it works; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Make a device's folder: its keys, its encrypted state, and the guard against foreign bundles."""
    from zkapex.client.deployment.init import create_device
    from zkapex.client.deployment.settings import checked

    settings = checked(
        {
            "server": server, "task": task, "options": _options(option or []), "key_file": key_file, "port": port,
            "health_port": health_port, "max_cpu": max_cpu, "max_memory_mb": max_memory, "windows": window or [],
        },
        "the command line",
    )  # fmt: skip
    place = create_device(folder, settings, ca, provider_key)
    public = place.node_key.with_suffix(".pub")
    if as_json:
        print(json.dumps({"folder": str(place.root), "node_key": str(public)}))
    else:
        print(f"Made {place.root}. On the server: zkapex server clients admit DIR {public} --name NAME")


@app.command("check")
def check(folder: Folder, as_json: Json = False) -> None:
    """Look at everything that may keep the device from taking part; exits 12 if something does."""
    from zkapex.client.deployment.check import check_device
    from zkapex.client.deployment.settings import Place, load
    from zkapex.errors import StorageError

    settings = load(folder)
    findings = check_device(Place(folder.resolve()), settings)
    if as_json:
        print(json.dumps({"findings": [finding.__dict__ for finding in findings]}))
    else:
        table = Table("", "what", "found", "to mend it")
        for one in findings:
            table.add_row("ok" if one.good else "WRONG", one.what, one.found, one.fix)
        Console(soft_wrap=True).print(table)
    if not all(finding.good for finding in findings):
        raise typer.Exit(StorageError.exit_code)


@app.command("run")
def run(folder: Folder) -> None:
    """Run the device until it is stopped; whatever ends is started again."""
    from zkapex.client.deployment.init import renew_guard
    from zkapex.client.deployment.programs import programs
    from zkapex.client.deployment.settings import Place, load
    from zkapex.host.supervise import Supervisor

    settings, place = load(folder), Place(folder.resolve())
    renew_guard(place, settings)
    supervisor = Supervisor(programs(place, settings), _event)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()


@app.command("status")
def status(folder: Folder, as_json: Json = False) -> None:
    """What the device holds and whether its processes answer; nothing private is printed."""
    from zkapex.client.deployment.settings import Place, load
    from zkapex.client.deployment.status import device_status

    found = device_status(Place(folder.resolve()), load(folder))
    if as_json:
        print(json.dumps(found))
        return
    table = Table("what", "is", show_header=False)
    for name, value in found.items():
        table.add_row(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    Console(soft_wrap=True).print(table)


@app.command("trust")
def trust(
    folder: Folder,
    provider_key: Annotated[Path, typer.Argument(help="The provider's new public key, from somebody you trust.")],
    as_json: Json = False,
) -> None:
    """Follow another key of the provider from now on, as after `zkapex server rotate-key`."""
    from zkapex.client.deployment.init import trust_key
    from zkapex.client.deployment.settings import Place, load

    settings = load(folder)
    digest = trust_key(Place(folder.resolve()), settings, provider_key)
    print(json.dumps({"provider_key": digest}) if as_json else f"This device follows {digest[:16]} from now on.")


@app.command("renew-key")
def renew_key(folder: Folder, as_json: Json = False) -> None:
    """Make a new key of its node; the server has to admit it, and should retire the old one. Not while it runs."""
    from zkapex.client.deployment.init import renew_node_key
    from zkapex.client.deployment.settings import Place, load

    load(folder)
    public = renew_node_key(Place(folder.resolve()))
    print(
        json.dumps({"node_key": str(public)}) if as_json else f"On the server: zkapex server clients admit DIR {public}"
    )


@app.command("wipe")
def wipe(folder: Folder, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete the device: its keys first, so that nothing of the rest can be read anywhere."""
    from zkapex.client.deployment.init import wipe_device

    if not yes:
        typer.confirm(f"Delete everything in {folder}?", abort=True)
    wipe_device(folder)


def _event(what: str, **details: object) -> None:
    from zkapex.host.journal import line

    print(line(what, **details), flush=True)


def _options(parts: list[str]) -> dict[str, str | int | float | bool]:
    from zkapex.host.values import parsed_options

    return parsed_options(parts)
