"""``zkapex keys``: keys, and keysets that an offline root signs."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zkapex.errors import InputError

if TYPE_CHECKING:
    from zkapex.proofs.keys.keyset import KeyEntry, KeysetPredicate

app = typer.Typer(help="Make keys; sign, change and show keysets.", no_args_is_help=True, rich_markup_mode=None)

KeysetFile = Annotated[Path, typer.Argument(help="The keyset, a signed file; made when missing.")]
RootKey = Annotated[Path, typer.Option(help="Private key (PEM) of the offline root.")]


@app.command("create")
def create(
    path: Annotated[Path, typer.Argument(help="Where the private key goes (PEM).")],
    public: Annotated[
        Path | None, typer.Option(help="Where the public key goes; by default beside it, as .pub.")
    ] = None,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Encrypt it with a passphrase, asked for or in ZKAPEX_KEY_PASSPHRASE.")
    ] = False,
) -> None:
    """Make a new Ed25519 key. Nothing is ever replaced."""
    from zkapex.proofs.records.signing import PASSPHRASE, create_private_key, key_id, save_public_key

    passphrase = None
    if encrypt:
        passphrase = os.environ.get(PASSPHRASE) or typer.prompt("passphrase", hide_input=True, confirmation_prompt=True)
    key = create_private_key(path, passphrase.encode() if passphrase else None)
    save_public_key(key.public_key(), public or path.with_suffix(".pub"))
    print(key_id(key.public_key()))


@app.command("add")
def add(
    keyset: KeysetFile,
    root: RootKey,
    key: Annotated[list[Path], typer.Option(help="Public keys (PEM) to add; may be repeated.")],
    owner: Annotated[str, typer.Option(help="Whose keys they are; needed for a new keyset.")] = "",
    valid_from: Annotated[str, typer.Option(help="From when (2026-01-31 or with a time, UTC); default: now.")] = "",
    valid_until: Annotated[str, typer.Option(help="Until when; default: no end.")] = "",
) -> None:
    """Add keys to a keyset. Let the new key be valid before the old one ends: both count in between."""
    from zkapex.proofs.keys.keyset import entry_of
    from zkapex.proofs.keys.trust import read_public_keys

    old = _read(keyset, root) if keyset.exists() else None
    if old is None and not owner:
        raise InputError("a new keyset needs an owner", fix="add --owner NAME")
    start = _time(valid_from) if valid_from else datetime.now(UTC)
    end = _time(valid_until) if valid_until else None
    new = [entry_of(one, start, end) for path in key for one in read_public_keys(path)]
    _write(keyset, root, owner or (old.owner if old else ""), old, [*(old.keys if old else ()), *new])


@app.command("revoke")
def revoke_(
    keyset: KeysetFile,
    root: RootKey,
    key: Annotated[str, typer.Option(help="Its id, or the first 8 digits of it or more.")],
    reason: Annotated[str, typer.Option(help="superseded, compromised or ceased.")],
    at: Annotated[str, typer.Option(help="Signatures made from then on count for nothing; default: now.")] = "",
) -> None:
    """Revoke a key. What it had signed before stays valid, where a timestamp or the log's witnesses show the time."""
    from zkapex.proofs.keys.keyset import revoke

    if reason not in ("superseded", "compromised", "ceased"):
        raise InputError(f"{reason!r} is no reason", fix="choose superseded, compromised or ceased")
    old = _read(keyset, root)
    when = _time(at) if at else datetime.now(UTC)
    _write(keyset, root, old.owner, old, list(revoke(old, key, when, reason)))  # type: ignore[arg-type]


@app.command("show")
def show(
    keyset: KeysetFile,
    root: Annotated[Path, typer.Option(help="Public key (PEM) of the root.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Show a keyset, once it is verified."""
    from zkapex.proofs.keys.keyset import open_keyset
    from zkapex.proofs.keys.trust import read_public_keys

    found = open_keyset(_bytes(keyset), read_public_keys(root))
    if as_json:
        print(json.dumps(found.model_dump(mode="json")))
        return
    print(f"{found.owner}, keyset {found.sequence} of {found.issued_at:%Y-%m-%d %H:%M} UTC")
    for entry in found.keys:
        until = f" until {entry.valid_until:%Y-%m-%d}" if entry.valid_until else ""
        gone = f", revoked {entry.revoked_at:%Y-%m-%d %H:%M} UTC ({entry.reason})" if entry.revoked_at else ""
        print(f"{entry.key_id}  from {entry.valid_from:%Y-%m-%d}{until}{gone}")


def _read(keyset: Path, root: Path) -> KeysetPredicate:
    from zkapex.proofs.keys.keyset import open_keyset
    from zkapex.proofs.records.signing import load_private_key

    return open_keyset(_bytes(keyset), [load_private_key(root).public_key()])


def _write(keyset: Path, root: Path, owner: str, old: KeysetPredicate | None, keys: list[KeyEntry]) -> None:
    from zkapex.proofs.keys.keyset import make_keyset
    from zkapex.proofs.ledger.files import put
    from zkapex.proofs.records.signing import load_private_key

    sequence = 0 if old is None else old.sequence + 1
    put(keyset, make_keyset(owner, sequence, keys, load_private_key(root), datetime.now(UTC)))
    print(f"{keyset}: keyset {sequence} of {owner}, {len(keys)} keys")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} could not be read", why=error.strerror or str(error)) from error


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no time", fix="write it like 2026-01-31 or 2026-01-31T12:00:00") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
