"""``zkapex verify --chain``: the receipts of a folder, as one chain for every client."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


def verify_chains(path: Path, trust: Path | None, workers: int, *, as_json: bool) -> None:
    """Verify all receipts below a folder and print what they come to.

    Raises
    ------
    VerificationError
        The first thing that is wrong.
    """
    from zkapex.proofs.receipts.chain import verify_chain
    from zkapex.proofs.records.signing import load_public_key

    console = Console(stderr=True, quiet=as_json)
    trusted = None if trust is None else [load_public_key(trust)]
    columns = (TextColumn("verifying receipts"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        chains = verify_chain(path, trusted, show, workers)
    rows = [
        {
            "client_id": chain.client_id,
            "requests": [
                {"request_id": facts.request_id, "verdict": verified.bundle.receipt.outcome.verdict}
                for verified in chain.receipts
                for facts in (verified.bundle.receipt.facts,)
            ],
            "enrolments": chain.revisions,
            "weights_zero": chain.masked,
        }
        for chain in chains
    ]
    if as_json:
        print(json.dumps({"verified": True, "server_key_pinned": trusted is not None, "clients": rows}))
        return
    out = Console(highlight=False)
    out.print(f"All receipts are genuine, and those of each of {len(chains)} clients are one chain.", style="bold")
    for chain in chains:
        verdicts = ", ".join(
            f"{verified.bundle.receipt.facts.request_id} {verified.bundle.receipt.outcome.verdict}"
            for verified in chain.receipts
        )
        out.print(
            f"  client {chain.client_id[:16]}: {verdicts}; {chain.revisions} enrolments; "
            f"{chain.masked} weights zero from their receipt on"
        )
    if trusted is None:
        out.print(
            "Signatures were checked with the keys receipts name themselves. Add --trust KEY to make sure who issued "
            "them.",
            style="yellow",
        )
