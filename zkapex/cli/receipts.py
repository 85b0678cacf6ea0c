"""``zkapex receipts``: what can be done with receipts after they were issued: list, stamp, withdraw, export."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from zkapex.errors import InputError

app = typer.Typer(help="List, stamp, withdraw and export receipts.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="Folder of the receipt, the one that holds receipt.json.")]


@app.command("list")
def list_(
    path: Annotated[Path, typer.Argument(help="A folder with receipts in it, at any depth.")],
    trust: Annotated[
        list[Path] | None, typer.Option(help="The provider's public keys (PEM); others' receipts are refused.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """List receipts: request, client, verdict, when, and what is beside them. Only signatures are checked here."""
    from zkapex.proofs.keys.trust import read_public_keys
    from zkapex.proofs.receipts.bundle import COMPANIONS, RECEIPT_FILE, open_signed
    from zkapex.proofs.records.signing import MAX_ENVELOPE_BYTES

    keys = [key for file in trust or () for key in read_public_keys(file)]
    rows: list[dict[str, Any]] = []
    for file in sorted(path.glob(f"**/{RECEIPT_FILE}")):
        with file.open("rb") as opened:
            receipt = open_signed({RECEIPT_FILE: opened.read(MAX_ENVELOPE_BYTES + 1)}, keys or None)
        facts, outcome = receipt.facts, receipt.outcome
        rows.append(
            {
                "receipt": file.parent.relative_to(path).as_posix(),
                "request_id": facts.request_id,
                "client_id": facts.client_id,
                "verdict": outcome.verdict,
                "issued_at": outcome.issued_at.isoformat(),
                "version": receipt.version,
                "payload_sha256": receipt.payload_digest,
                "beside_it": sorted(COMPANIONS & {one.name for one in file.parent.iterdir()}),
                "server_key_pinned": receipt.pinned,
            }
        )
    if not rows:
        raise InputError(f"there are no receipts in {path}")
    if as_json:
        print(json.dumps({"receipts": rows}))
        return
    for row in rows:
        beside = f"  with {', '.join(row['beside_it'])}" if row["beside_it"] else ""
        print(
            f"{row['receipt']}  {row['verdict']}  {row['issued_at'][:16]} UTC  "
            f"client {row['client_id'][:16]}  sha256 {row['payload_sha256'][:16]}{beside}"
        )
    if not keys:
        print("No key was named: anybody could have made these up. Name the provider's with --trust.")


@app.command("stamp")
def stamp(
    path: Folder,
    authority: Annotated[str, typer.Option(help="Address of a timestamping authority (RFC 3161).")],
) -> None:
    """Have an authority stamp a receipt: receipt.tsr, beside it, shows by when it existed."""
    from zkapex.proofs.receipts.bundle import RECEIPT_FILE, put_companion, read_files
    from zkapex.proofs.receipts.timestamp import request_stamp
    from zkapex.proofs.records.envelope import peek

    put_companion(path, "receipt.tsr", request_stamp(peek(read_files(path)[RECEIPT_FILE]), authority))
    print(path / "receipt.tsr")


@app.command("status")
def status(
    path: Folder,
    word: Annotated[str, typer.Argument(help="superseded, withdrawn or disputed.")],
    key: Annotated[Path, typer.Option(help="The issuer's private key (PEM).")],
    reason: Annotated[str, typer.Option(help="Why, in one line.")],
    out: Annotated[Path | None, typer.Option(help="Where it goes; default: status.json beside the receipt.")] = None,
) -> None:
    """Sign that a receipt no longer holds; whoever verifies with that at hand is told so."""
    from zkapex.proofs.ledger.files import put
    from zkapex.proofs.receipts.bundle import open_signed, put_companion, read_files
    from zkapex.proofs.receipts.status import make_status
    from zkapex.proofs.records.signing import load_private_key

    if word not in ("superseded", "withdrawn", "disputed"):
        raise InputError(f"{word!r} is no status", fix="choose superseded, withdrawn or disputed")
    issuer = load_private_key(key)
    receipt = open_signed(read_files(path), [issuer.public_key()])
    signed = make_status(receipt.payload_digest, word, reason, issuer, datetime.now(UTC))  # type: ignore[arg-type]
    if out is None:
        put_companion(path, "status.json", signed)
    else:
        put(out, signed)
    print(out or path / "status.json")


@app.command("export")
def export(
    path: Folder,
    out: Annotated[Path, typer.Argument(help="What to write: ends in .zip, .sigstore.json or .cose.")],
    key: Annotated[
        Path | None, typer.Option(help="For .cose, the issuer's private key (PEM): COSE is signed anew.")
    ] = None,
) -> None:
    """Write a receipt as one .zip, as a sigstore bundle, or as a COSE statement of SCITT (needs the extra `scitt`)."""
    from zkapex.proofs.ledger.files import put
    from zkapex.proofs.receipts.archive import pack_archive
    from zkapex.proofs.receipts.bundle import RECEIPT_FILE, read_files
    from zkapex.proofs.receipts.export import cose_statement, sigstore_bundle
    from zkapex.proofs.records.signing import load_private_key

    files = read_files(path)
    if out.name.endswith(".zip"):
        data = pack_archive(files)
    elif out.name.endswith(".sigstore.json"):
        data = sigstore_bundle(files[RECEIPT_FILE])
    elif out.name.endswith(".cose"):
        if key is None:
            raise InputError("a COSE statement is signed anew", fix="name the issuer's private key with --key")
        data = cose_statement(files[RECEIPT_FILE], load_private_key(key))
    else:
        raise InputError(f"{out} has no known ending", fix="use .zip, .sigstore.json or .cose")
    put(out, data)
    print(out)
