"""``zkapex report``: one page about a request, for a data-protection officer, an auditor or a data subject."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zkapex.errors import InputError, NotPinnedError

if TYPE_CHECKING:
    from zkapex.proofs.verify import Policy


def report(
    request: Annotated[Path, typer.Argument(help="Folder of a request: its receipts' folders, and report.json.")],
    reader: Annotated[str, typer.Option("--for", help="Who is to read it: dpo, auditor or subject.")] = "dpo",
    format_: Annotated[str, typer.Option("--format", help="html, pdf or json.")] = "html",
    out: Annotated[Path | None, typer.Option(help="File to write; by default standard output (not for pdf).")] = None,
    trust: Annotated[
        list[Path] | None, typer.Option(help="The provider's public keys (PEM), as for `zkapex verify`.")
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Public keys that sign the provider's keyset; with --keyset, instead of --trust."),
    ] = None,
    keyset: Annotated[Path | None, typer.Option(help="The provider's keyset, signed by a --root.")] = None,
    tsa: Annotated[
        list[Path] | None,
        typer.Option(help="Root certificates (PEM) of timestamping authorities you trust, for keys that have ended."),
    ] = None,
    case: Annotated[
        Path | None,
        typer.Option(help="The controller's description of the case (JSON, docs/data-protection.md); with --key."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="The provider's private key: signs report.json anew from the receipts and --case."),
    ] = None,
    opening: Annotated[
        Path | None, typer.Option(help="For a subject: the opening of their own commitment (provider/openings/).")
    ] = None,
    opened: Annotated[
        list[Path] | None,
        typer.Option(help="Signed requests that were opened; a report that omits one is refused. May be repeated."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="The log's key, or a policy of logs and witnesses: every --opened must have been logged there."
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="Of the page: a file in proofs/receipts/texts.")] = "en",
) -> None:
    """Write a report about a request, from its signed receipts and the signed report beside them."""
    from zkapex.cli.verify import policy_of
    from zkapex.proofs.keys.trust import Trust
    from zkapex.proofs.ledger.files import put
    from zkapex.proofs.receipts.bundle import receipts_in
    from zkapex.proofs.receipts.page import READERS, content, page, pdf
    from zkapex.proofs.receipts.report import check_report, make_report, open_report, read_case
    from zkapex.proofs.records.signing import key_id, load_private_key, public_key_from_hex
    from zkapex.proofs.verify import read_trusted

    if reader not in READERS or format_ not in ("html", "pdf", "json"):
        raise InputError(f"there is no {format_} report for {reader!r}", fix="see `zkapex report --help`")
    signer = None if key is None else load_private_key(key)
    policy = policy_of(trust, root, keyset, ledger=ledger, tsa=tsa)
    own = () if signer is None else Trust.of([signer.public_key()]).keys
    policy = replace(policy, trust=Trust((*policy.trust.keys, *own)))
    if not policy.trust.keys:
        raise NotPinnedError(
            "nobody was named whose signatures the report could rest on",
            fix="name the provider's key with --trust, or --root and --keyset",
        )
    folders = receipts_in(request)
    if not folders:
        raise InputError(f"there are no receipts in {request}", fix="name the folder of a request")
    bundles = [read_trusted(folder, policy) for folder in folders]
    signed = request / "report.json"
    if signer is not None:
        if case is None:
            raise InputError("a report is signed with a description of its case", fix="add --case FILE")
        put(signed, make_report(bundles, read_case(_bytes(case)), signer, datetime.now(UTC)))
    if not signed.is_file():
        raise InputError(f"{signed} does not exist", fix="the provider makes it, with --case and --key")
    found = open_report(_bytes(signed), policy.trust.public)
    policy.trust.find(key_id(public_key_from_hex(found.server_key))).check(found.issued_at, None, policy.now)
    check_report(found, bundles, _opened(opened or [], policy, found.request_id))
    values = content(found, bundles, reader, _opening(opening, found.request_id, bundles), language)
    if format_ == "json":
        _write(out, json.dumps(values, indent=1).encode() + b"\n")
    elif format_ == "html":
        _write(out, page(values, language).encode())
    elif out is None:
        raise InputError("a PDF is written to a file", fix="add --out FILE")
    else:
        put(out, pdf(page(values, language)))


def _opened(paths: list[Path], policy: Policy, request_id: str) -> dict[str, bytes]:
    """Signed requests of this id, each shown by the proof beside it to have been logged, if a log is relied on."""
    from zkapex.proofs.ledger.proof import LogProof
    from zkapex.proofs.messages import UnlearnRequest
    from zkapex.proofs.records.envelope import peek
    from zkapex.proofs.records.record import sha256_hex
    from zkapex.proofs.records.sealed import unseal

    found = {}
    for path in paths:
        envelope = _bytes(path)
        if unseal(UnlearnRequest, envelope, policy.trust.public).record.request_id != request_id:
            raise InputError(f"{path} is of another request than the report")
        if policy.logs is not None:
            proof = LogProof.from_bytes(_bytes(path.with_name("opened.tlog-proof")))
            proof.verify(sha256_hex(peek(envelope)), policy.logs)
        found[str(path)] = envelope
    return found


def _opening(path: Path | None, request_id: str, bundles: list[Any]) -> dict[str, str] | None:
    """A data subject's opening, once it is that of the request's own commitment."""
    from zkapex.proofs.receipts.evidence import forget_commitment

    if path is None:
        return None
    try:
        kept = json.loads(_bytes(path))
        found = {"description": str(kept["description"]), "random": str(kept["random"])}
        mine = forget_commitment(bytes.fromhex(found["random"]), found["description"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no opening", why=str(error)) from error
    if any(bundle.dossier.facts.forget_commitment != mine for bundle in bundles):
        raise InputError(f"{path} does not open the commitment of {request_id}")
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} could not be read", why=error.strerror or str(error)) from error


def _write(out: Path | None, data: bytes) -> None:
    from zkapex.proofs.ledger.files import put

    if out is None:
        sys.stdout.write(data.decode())
    else:
        put(out, data)
