"""``zkapex srs``: reference strings, of public ceremonies and of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Import, list and check reference strings of the proof system.", no_args_is_help=True, rich_markup_mode=None
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A ceremony's file, in halo2's layout (ezkl's kzg files).")],
    log2_rows: Annotated[
        int | None, typer.Option(help="Cut it down to this height; by default it is kept as it is.")
    ] = None,
    digest: Annotated[str | None, typer.Option(help="SHA-256 the file must have, as its publisher says.")] = None,
    as_json: Json = False,
) -> None:
    """Check a ceremony's file and keep it: the server's --srs and `zkapex verify` find it by its digest."""
    from zkapex.circuits.cache import sha256_file
    from zkapex.circuits.halo2.ceremony import height_of
    from zkapex.circuits.halo2.srs import import_file
    from zkapex.errors import VerificationError

    height = height_of(file)
    if digest is not None and sha256_file(file) != digest.lower():
        raise VerificationError(f"{file} does not have the digest it was announced with", why=sha256_file(file))
    kept = import_file(file, log2_rows)
    _show([(kept.digest, log2_rows or height, "imported")], as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the reference strings on this machine, with their digests and where they are from."""
    from zkapex.circuits.halo2.srs import kept_srs

    _show([(kept.digest, kept.log2_rows, kept.origin) for kept in kept_srs()], as_json)


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A file in halo2's layout.")],
    as_json: Json = False,
) -> None:
    """Check every point of a reference string; nobody can check that its trapdoor was forgotten."""
    from zkapex.circuits.cache import sha256_file
    from zkapex.circuits.halo2.ceremony import check_srs, height_of

    height = height_of(file)
    check_srs(file, height)
    _show([(sha256_file(file), height, "checked")], as_json)


def _show(rows: list[tuple[str, int, str]], as_json: bool) -> None:
    from zkapex.circuits.halo2.known import ceremony_of

    found = [{"sha256": d, "log2_rows": k, "origin": o, "ceremony": ceremony_of(d)} for d, k, o in rows]
    if as_json:
        print(json.dumps({"strings": found}))
        return
    for row in found:
        print(f"{row['sha256']}  2^{row['log2_rows']} rows  {row['origin']}  {row['ceremony'] or 'no known ceremony'}")
