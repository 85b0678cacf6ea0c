"""``zkapex verify --chain``: the receipts of a folder, as one chain for every client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

if TYPE_CHECKING:
    from zkapex.proofs.verify import Policy


def verify_chains(path: Path, policy: Policy, workers: int, *, as_json: bool) -> None:
    """Verify all receipts below a folder and print what they come to.

    Raises
    ------
    VerificationError
        The first thing that is wrong.
    """
    from zkapex.proofs.receipts.chain import verify_chain
    from zkapex.proofs.receipts.sayings import verdict_words

    console = Console(stderr=True, quiet=as_json)
    columns = (TextColumn("verifying receipts"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        chains = verify_chain(path, policy, show, workers)
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
            "targets_met": chain.along,
        }
        for chain in chains
    ]
    if as_json:
        print(
            json.dumps(
                {"verified": bool(policy.trust.keys), "server_key_pinned": bool(policy.trust.keys), "clients": rows}
            )
        )
        if policy.trust.keys:
            return
        chains[0].receipts[0].require_pinned()
    out = Console(highlight=False)
    out.print(f"All receipts are genuine, and those of each of {len(chains)} clients are one chain.", style="bold")
    for chain in chains:
        verdicts = ", ".join(
            f"{facts.request_id} {verdict_words(facts, verified.bundle.receipt.outcome.verdict)}"
            for verified in chain.receipts
            for facts in (verified.bundle.receipt.facts,)
        )
        out.print(
            f"  client {chain.client_id[:16]}: {verdicts}; {chain.revisions} enrolments; "
            f"{chain.masked} weights zero from their receipt on"
            + (f", {chain.along} targets met" if chain.along else "")
        )
    chains[0].receipts[0].require_pinned()
