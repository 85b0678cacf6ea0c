"""``zkapex verify``: check a receipt and its proofs offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from zkapex.cli import as_object, explain
from zkapex.errors import NotProvedError


def verify(
    path: Annotated[Path, typer.Argument(help="Folder of the receipt, the one that holds receipt.json.")],
    trust: Annotated[
        Path | None,
        typer.Option(
            help="The provider's public key (PEM), obtained independently of the receipt. Without it, anybody "
            "could have made the receipt up."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that verify proofs; more than one pays for many.")] = 1,
    chain: Annotated[
        bool,
        typer.Option(
            "--chain",
            help="PATH holds many receipts: verify all of them, and that those of each client make one chain in which "
            "nothing that was deleted can have come back.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Re-verify a receipt offline: signatures, digests, the chain of commitments, and every zero-knowledge proof.

    Exits 0 only if everything holds and the client proved what was asked. The first use of a circuit builds its keys
    (seconds), so that they need not be taken from whoever issued the receipt.
    """
    if chain:
        from zkapex.cli.chain import verify_chains

        verify_chains(path, trust, workers, as_json=as_json)
        return
    from zkapex.proofs.chunk.certificate import chunk_distances
    from zkapex.proofs.receipts.sentences import percent
    from zkapex.proofs.records.signing import load_public_key
    from zkapex.proofs.verify import verify_receipt

    console = Console(stderr=True, quiet=as_json)
    trusted = None if trust is None else [load_public_key(trust)]
    columns = (TextColumn("verifying proofs"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        verified = verify_receipt(path, trusted, show, workers)
    receipt = verified.bundle.receipt
    facts, outcome, predicate = receipt.facts, receipt.outcome, receipt.statement.predicate
    proved = sorted(verified.bundle.evidence.proofs)
    distances = chunk_distances(verified.bundle.dossier.instance, proved)
    error = None
    if outcome.verdict != "proved":
        error = NotProvedError(
            f"the receipt is genuine, but says that client {facts.client_id[:16]} did not prove the deletion",
            why="; ".join(outcome.reasons),
            fix="ask the client again, or exclude it",
        )
    if as_json:
        print(json.dumps({
            "verified": outcome.verdict == "proved",
            "verdict": outcome.verdict,
            "reasons": list(outcome.reasons),
            "request_id": facts.request_id,
            "client_id": facts.client_id,
            "chunks_touched": facts.chunks_touched,
            "audit": facts.audit_mode,
            "audit_cheating": facts.audit_cheating,
            "audit_detection": facts.audit_detection,
            "curvature_within": facts.curvature_within,
            "proofs_verified": verified.chunks,
            "verify_cpu_s": round(verified.cpu_s, 4),
            "certified_distance": outcome.certified_distance,
            "certified_distance_of_chunks": {str(chunk): d for chunk, d in (distances or {}).items()},
            "server_key_pinned": receipt.pinned,
            "shows": list(predicate.shows),
            "does_not_show": list(predicate.does_not_show),
            **(as_object(error) if error else {}),
        }))  # fmt: skip
    else:
        out = Console(highlight=False)
        out.print(f"The receipt is genuine. Verdict: {outcome.verdict}.", style="bold")
        issued = f"{outcome.issued_at:%Y-%m-%d %H:%M} UTC"
        out.print(f"  request {facts.request_id}, client {facts.client_id[:16]}, issued {issued}")
        out.print(
            f"  {verified.chunks} zero-knowledge proofs verified in {verified.cpu_s:.2f} CPU seconds, "
            f"{facts.chunks_touched} of {facts.chunks_total} chunks touched, audit: {facts.audit_mode}"
        )
        if facts.audit_cheating is not None and facts.audit_detection is not None:
            out.print(
                f"  {len(facts.chunks_drawn)} chunks drawn at random: "
                f"a client that left {percent(facts.audit_cheating)} of the touched ones undone would be found out "
                f"with probability {percent(facts.audit_detection)}"
            )
        if distances and outcome.certified_distance is not None:
            out.print(
                f"  certified distance from the exact change: {outcome.certified_distance:.3g} over all chunks proved, "
                f"at most {max(distances.values()):.3g} in one"
            )
        for title, sentences in (("It shows:", predicate.shows), ("It does not show:", predicate.does_not_show)):
            out.print(title)
            for sentence in sentences:
                out.print(f"  - {sentence}", soft_wrap=True)
        if not receipt.pinned:
            out.print(
                "Its signature was checked with the key it names itself. Add --trust KEY to make sure who issued it.",
                style="yellow",
            )
    if error:
        explain(error)
        raise typer.Exit(error.exit_code)
