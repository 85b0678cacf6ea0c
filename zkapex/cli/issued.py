"""``zkapex server receipts``: what a server has issued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The receipts that a server has issued.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Request = Annotated[str, typer.Argument(help="Id of the request.")]
Client = Annotated[str, typer.Argument(help="The client's id, or the beginning of it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("list")
def list_receipts(
    folder: Folder,
    request: Annotated[str, typer.Option(help="Only of this request.")] = "",
    client: Annotated[str, typer.Option(help="Only of the client whose id begins so.")] = "",
    as_json: Json = False,
) -> None:
    """All receipts, in the order in which requests were opened."""
    from zkapex.cli.console import show
    from zkapex.server.deployment.receipts import receipts
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    rows = [
        {
            "request": one.request_id,
            "client": one.client_id,
            "verdict": one.verdict,
            "reason": one.reason or None,
            "folder": str(one.folder),
        }
        for one in receipts(Place(folder.resolve()), request, client)
    ]
    show("receipts", rows, as_json)


@app.command("show")
def show_receipt(folder: Folder, request: Request, client: Client, as_json: Json = False) -> None:
    """Verify one receipt with the server's own key, and say what it shows; exits as `zkapex verify`."""
    from zkapex.cli.verify import verify
    from zkapex.server.deployment.receipts import own_string, receipt
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    own = own_string(place.federation)
    verify(receipt(place, request, client).folder, trust=_keys(place), srs=own, as_json=as_json)


@app.command("export")
def export(
    folder: Folder,
    request: Request,
    client: Client,
    out: Annotated[Path, typer.Argument(help="What to write: ends in .zip, .sigstore.json or .cose.")],
    as_json: Json = False,
) -> None:
    """Write one receipt as a file that can be given away; a .cose is signed with the server's key."""
    from zkapex.cli.receipts import export as write
    from zkapex.server.deployment.receipts import receipt
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    found = receipt(place, request, client)
    if as_json:
        from contextlib import redirect_stdout
        from io import StringIO

        with redirect_stdout(StringIO()):
            write(found.folder, out, place.federation / "provider" / "key.pem")
        print(json.dumps({"file": str(out)}))
    else:
        write(found.folder, out, place.federation / "provider" / "key.pem")


@app.command("verify")
def verify_receipts(folder: Folder, as_json: Json = False) -> None:
    """Verify each receipt that was issued, and those of each client as one chain; exits as `zkapex verify`."""
    from zkapex.cli.chain import verify_chains
    from zkapex.cli.verify import policy_of
    from zkapex.server.deployment.receipts import own_string
    from zkapex.server.deployment.settings import Place, load

    load(folder)
    place = Place(folder.resolve())
    verify_chains(
        place.federation / "receipts", policy_of(_keys(place), srs=own_string(place.federation)), 1, as_json=as_json
    )


def _keys(place: object) -> list[Path]:
    """The provider's public keys: that of today, and those it had before."""
    from zkapex.server.deployment.keys import public_keys
    from zkapex.server.deployment.settings import Place

    assert isinstance(place, Place)  # noqa: S101 - typer knows no such parameter
    return public_keys(place)
