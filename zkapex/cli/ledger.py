"""``zkapex ledger``: a log of what was issued, which can be published, checked and witnessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from zkapex.proofs.ledger.log import Cosign
    from zkapex.proofs.ledger.note import Note

app = typer.Typer(help="Keep, check and witness a log of receipts.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(help="Folder of the log.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("create")
def create(
    folder: Folder,
    origin: Annotated[str, typer.Option(help="Its name, best the address it is published at, without https://.")],
) -> None:
    """Make an empty log, and the key it signs its checkpoints with."""
    from zkapex.proofs.ledger.log import Log

    log = Log.create(folder, origin)
    print(log.verifier)


@app.command("append")
def append(
    folder: Folder,
    files: Annotated[list[Path], typer.Argument(help="Signed files: receipts, reports, keysets.")],
    as_json: Json = False,
) -> None:
    """Log signed files, and write the proof of each beside it, as FILE with the ending .tlog-proof.

    Witnesses named in the log's file `policy` are asked for their signatures. A file that was logged before, and has
    its proof beside it, is not logged again; its proof is made anew for the latest checkpoint.
    """
    from zkapex.proofs.ledger.entry import entry
    from zkapex.proofs.ledger.files import put
    from zkapex.proofs.ledger.keeper import nonce_of, payload_digest
    from zkapex.proofs.ledger.log import Log
    from zkapex.proofs.receipts.bundle import RECEIPT_FILE, put_companion

    log = Log.open(folder)
    names = {file: file.with_suffix(".tlog-proof") for file in files}
    digests = {file: payload_digest(file) for file in files}
    nonces = {file: nonce_of(names[file]) for file in files}
    places = log.append([entry(nonces[file], digests[file]) for file in files], _witnesses(folder))
    for file in files:
        proof = log.prove(entry(nonces[file], digests[file]), nonces[file]).to_bytes()
        if file.name == RECEIPT_FILE:
            put_companion(file.parent, names[file].name, proof)
        else:
            put(names[file], proof)
    if as_json:
        print(json.dumps({"size": log.checkpoint().size, "places": dict(zip(map(str, files), places, strict=True))}))
    else:
        for file, place in zip(files, places, strict=True):
            print(f"{file}: entry {place}, proof in {names[file]}")


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="The log, what it publishes, or a copy of that.")],
    key: Annotated[
        Path | None,
        typer.Option(help="Its key, or a policy that names it; by default the one in the log's own folder."),
    ] = None,
    earlier: Annotated[
        list[Path] | None, typer.Option(help="A checkpoint of it that you have kept; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a log whole: entries, tiles, its signed checkpoint, and that it continues the states you have kept."""
    from zkapex.errors import InputError, LedgerError
    from zkapex.proofs.ledger.checkpoint import Checkpoint
    from zkapex.proofs.ledger.log import check_log
    from zkapex.proofs.ledger.policy import LogPolicy

    published = folder / "www" if (folder / "www").is_dir() else folder
    own = folder / "log.vkey"
    if key is None and not own.is_file():
        raise InputError("the log's key is needed", fix="name it with --key, as its owner published it")
    policy = LogPolicy.read(key or own)
    note = _note(published / "checkpoint")
    origin = Checkpoint.of(note).origin
    verifier = next((log for log in policy.logs if log.name == origin), None)
    if verifier is None:
        raise LedgerError(f"the log {origin[:100]!r} is none that is relied on")
    found = check_log(published, verifier, [_note(path) for path in earlier or []])
    _, witnesses, _ = policy.check(note)
    if as_json:
        row = {"origin": found.origin, "size": found.size, "root": found.root.hex(), "witnesses": list(witnesses)}
        print(json.dumps(row))
    else:
        signed = f", witnessed by {', '.join(witnesses)}" if witnesses else ""
        print(f"The log {found.origin} holds: {found.size} entries, root {found.root.hex()}{signed}.")


@app.command("cosign")
def cosign(folder: Folder) -> None:
    """Ask the witnesses in the log's file `policy` for their signatures on its latest checkpoint."""
    from zkapex.proofs.ledger.log import Log

    log = Log.open(folder)
    asked = _witnesses(folder)
    if asked is not None:
        log.cosign(asked)
    print(log.note().to_bytes().decode(), end="")


@app.command("witness")
def witness(
    folder: Annotated[Path, typer.Argument(help="Folder of the witness: its key, and what it has signed.")],
    name: Annotated[str, typer.Option(help="What it signs as, best an address of its owner, without https://.")],
    logs: Annotated[Path, typer.Option(help="Keys of the logs it watches: a policy file, or one key.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8470,
) -> None:
    """Serve as a witness: sign checkpoints of logs that only ever grow. Run it on another machine than the log's."""
    from zkapex.proofs.ledger.policy import LogPolicy
    from zkapex.proofs.ledger.witness import Witness, serve

    here = Witness(folder, name, LogPolicy.read(logs).logs)
    server = serve(here, host, port)
    print(f"{here.verifier}\nlistening on http://{host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def _note(path: Path) -> Note:
    from zkapex.errors import InputError
    from zkapex.proofs.ledger.note import MAX_NOTE_BYTES, Note

    try:
        with path.open("rb") as file:
            return Note.from_bytes(file.read(MAX_NOTE_BYTES + 1))
    except OSError as error:
        raise InputError(f"there is no checkpoint {path}", why=error.strerror or str(error)) from error


def _witnesses(folder: Path) -> Cosign | None:
    from zkapex.proofs.ledger.policy import LogPolicy
    from zkapex.proofs.ledger.witness import ask_witnesses

    if not (folder / "policy").is_file():
        return None
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def failed(name: str, why: str) -> None:
        console.print(f"zkapex: witness {name} did not sign: {why}", markup=False)

    return ask_witnesses(LogPolicy.read(folder / "policy"), failed)
