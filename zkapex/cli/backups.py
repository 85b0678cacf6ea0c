"""``zkapex server backup``, ``restore`` and ``confirm-restore``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Passphrase = Annotated[
    Path | None, typer.Option(help="File with the passphrase that the archive is encrypted with, 16 bytes or more.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def backup(
    folder: Folder,
    archive: Annotated[Path, typer.Argument(help="What to write; it must not exist.")],
    wait: Annotated[float, typer.Option(help="Seconds to wait for a campaign that is under way.", min=0)] = 600.0,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Write everything of the server into one archive. It holds all its private keys: encrypt it.

    With --passphrase-file it is encrypted here (AES-256-GCM); keep that file elsewhere, without it nobody can restore.
    """
    from zkapex.server.deployment.backup import back_up
    from zkapex.server.deployment.settings import Place, load

    facts = back_up(Place(folder.resolve()), load(folder), archive, wait, _passphrase(passphrase_file))
    if as_json:
        told = {name: facts[name] for name in ("made_at", "release", "trail")}
        encrypted = passphrase_file is not None
        print(json.dumps({"archive": str(archive), "files": len(facts["files"]), "encrypted": encrypted, **told}))
    elif passphrase_file is not None:
        print(f"{archive}: {len(facts['files'])} files, encrypted. Nobody can restore it without {passphrase_file}.")
    else:
        print(f"{archive}: {len(facts['files'])} files, readable by you only. It holds every private key: encrypt it.")


def restore(
    folder: Folder,
    archive: Annotated[Path, typer.Argument(help="What `zkapex server backup` has written.")],
    replace: Annotated[bool, typer.Option("--replace", help="Set aside the server that is there.")] = False,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Put a backup in the place of a server whose processes have ended; campaigns wait for `confirm-restore`.

    Requests that were under way are given up, every client has to enrol again by proof, and what operators did since
    the backup is listed, as far as the folder that is replaced knows it.
    """
    from zkapex.server.deployment.restore import restore as put_back

    done = put_back(archive, folder, replace, _passphrase(passphrase_file))
    if as_json:
        print(
            json.dumps(
                {
                    "made_at": done.made_at,
                    "given_up": list(done.given_up),
                    "orders_since": [json.loads(one) for one in done.orders],
                    "acts_since": list(done.acts),
                    "set_aside": None if done.set_aside is None else str(done.set_aside),
                    "new_log": done.new_log,
                }
            )
        )
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"Restored to {done.made_at}.")
    for title, lines in (("Given up:", done.given_up), ("Ordered since:", done.orders), ("Done since:", done.acts)):
        if lines:
            console.print(title)
            for line in lines:
                console.print(f"  {line}")
    if done.set_aside is not None:
        console.print(f"The server before is in {done.set_aside}.")
    if done.new_log:
        console.print("The log begins anew, under another key: publish provider/federation/provider/ledger/log.vkey.")
    console.print("Order again, under new ids, whatever was ordered since; quarantine and retire again whom you had.")
    console.print(f"Then: zkapex server confirm-restore {folder} --reason ...")


def confirm_restore(
    folder: Folder,
    reason: Annotated[str, typer.Option(help="How you know that nothing is missing; goes into the audit trail.")],
    as_json: Json = False,
) -> None:
    """Say that everything since the backup was ordered and decided again, and let campaigns run."""
    from zkapex.server.deployment.acts import record
    from zkapex.server.deployment.restored import confirm, unconfirmed
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    made_at = str((unconfirmed(place) or {}).get("made_at", ""))
    confirm(place)
    record(place, "server.restore-confirmed", made_at, reason)
    print(json.dumps({"made_at": made_at}) if as_json else "Campaigns may run.")


def _passphrase(path: Path | None) -> bytes | None:
    from zkapex.server.deployment.sealing import read_passphrase

    return None if path is None else read_passphrase(path)
