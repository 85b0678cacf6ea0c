"""``zkapex verify``: check a receipt and its proofs offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from zkapex.cli import as_object, explain
from zkapex.errors import Error, InputError, NotPinnedError, NotProvedError

if TYPE_CHECKING:
    from zkapex.proofs.verify import Depth, Policy, Verified

Paths = list[Path] | None


def verify(
    path: Annotated[Path, typer.Argument(help="Folder of the receipt, the one that holds receipt.json, or its .zip.")],
    trust: Annotated[
        Paths,
        typer.Option(
            help="Public keys of the provider (PEM, one or more in a file), obtained independently of the receipt; may "
            "be repeated. Without a key, anybody could have made the receipt up, and the exit code says so."
        ),
    ] = None,
    root: Annotated[
        Paths, typer.Option(help="Public keys that sign the provider's keyset; with --keyset, instead of --trust.")
    ] = None,
    keyset: Annotated[Path | None, typer.Option(help="The provider's keyset, signed by a --root.")] = None,
    srs: Annotated[
        str | None,
        typer.Option(help="SHA-256 of the reference string you trust, or its file; another one is refused."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(help="Key of the log you rely on, or a policy of logs and witnesses (C2SP)."),
    ] = None,
    tsa: Annotated[Paths, typer.Option(help="Root certificates (PEM) of timestamping authorities you trust.")] = None,
    client_key: Annotated[
        Paths, typer.Option(help="Public keys (PEM) of clients you know; a receipt about another client is refused.")
    ] = None,
    status: Annotated[
        Paths, typer.Option(help="A signed word of the provider's about receipts: withdrawn, superseded, disputed.")
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

    Says how far it got: signature, evidence, proofs, time, ledger. Exits 0 only if a key you named has signed,
    everything holds, and the client proved what was asked. The first use of a circuit builds its verification key
    (seconds), so that it need not be taken from whoever issued the receipt.
    """
    from zkapex.proofs.verify import verify_receipt

    policy = policy_of(trust, root, keyset, srs, ledger, tsa, client_key, status, workers)
    if chain:
        from zkapex.cli.chain import verify_chains

        verify_chains(path, policy, workers, as_json=as_json)
        return
    console = Console(stderr=True, quiet=as_json)
    columns = (TextColumn("verifying proofs"), BarColumn(), MofNCompleteColumn())
    depths: list[Depth] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        try:
            verified = verify_receipt(path, policy, show, depths=depths)
        except Error:
            progress.stop()
            if not as_json:
                _print_depths(Console(highlight=False), depths)
            raise
    error = _judge(verified)
    if as_json:
        print(json.dumps({**_as_json(verified), **(as_object(error) if error else {})}))
    else:
        _print(verified)
    if error:
        explain(error)
        raise typer.Exit(error.exit_code)


def policy_of(
    trust: Paths,
    root: Paths = None,
    keyset: Path | None = None,
    srs: str | None = None,
    ledger: Path | None = None,
    tsa: Paths = None,
    client_key: Paths = None,
    status: Paths = None,
    workers: int = 1,
) -> Policy:
    """What the options say a verifier relies on.

    Raises
    ------
    InputError
        A file is missing or malformed, or options do not go together.
    SignatureError
        The keyset is not signed by a root that was named.
    """
    import re

    from zkapex.circuits.cache import sha256_file
    from zkapex.proofs.keys.trust import Trust, read_public_keys
    from zkapex.proofs.ledger.policy import LogPolicy
    from zkapex.proofs.receipts.timestamp import Authorities
    from zkapex.proofs.records.signing import key_id
    from zkapex.proofs.verify import Policy

    if bool(root) != bool(keyset):
        raise InputError("--root and --keyset belong together", fix="give both, or name keys with --trust")
    keys = [key for file in trust or () for key in read_public_keys(file)]
    found = Trust.of(keys)
    if keyset is not None:
        roots = [key for file in root or () for key in read_public_keys(file)]
        found = Trust((*found.keys, *Trust.from_keyset(_bytes(keyset), roots).keys))
    digest, file = srs, None
    if srs is not None and not re.fullmatch(r"[0-9a-f]{64}", srs):
        file = Path(srs)
        if not file.is_file():
            raise InputError(f"{srs} is neither the SHA-256 of a reference string nor a file")
        digest = sha256_file(file)
    clients = None
    if client_key:
        clients = frozenset(key_id(key) for file_ in client_key for key in read_public_keys(file_))
    return Policy(
        trust=found,
        srs=digest,
        srs_file=file,
        logs=None if ledger is None else LogPolicy.read(ledger),
        authorities=Authorities.read(tsa) if tsa else None,
        clients=clients,
        workers=workers,
        statuses=tuple(_bytes(path) for path in status or ()),
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} could not be read", why=error.strerror or str(error)) from error


def _judge(verified: Verified) -> Error | None:
    facts, outcome = verified.bundle.dossier.facts, verified.bundle.receipt.outcome
    try:
        verified.require_pinned()
    except NotPinnedError as error:
        return error
    if outcome.verdict == "proved":
        return None
    return NotProvedError(
        f"the receipt is genuine, but says that client {facts.client_id[:16]} did not prove the deletion",
        why="; ".join(outcome.reasons),
        fix="ask the client again, or exclude it",
    )


def _as_json(verified: Verified) -> dict[str, Any]:
    from zkapex.proofs.chunk.certificate import chunk_distances
    from zkapex.proofs.receipts.receipt import Outcome, sayings_of

    bundle, receipt = verified.bundle, verified.bundle.receipt
    facts, outcome = bundle.dossier.facts, receipt.outcome
    shows, does_not_show = sayings_of(receipt, facts)
    distances = chunk_distances(bundle.dossier.instance, sorted(bundle.evidence.proofs))
    return {
        "verified": outcome.verdict == "proved" and receipt.pinned,
        "verdict": outcome.verdict,
        "backend": facts.backend,
        "review": facts.review,
        "reasons": list(outcome.reasons),
        "depths": {depth.name: {"result": depth.result, "note": depth.note} for depth in verified.depths},
        "version": receipt.version,
        "payload_sha256": receipt.payload_digest,
        "request_id": facts.request_id,
        "client_id": facts.client_id,
        "client_ref": outcome.client_ref if isinstance(outcome, Outcome) else None,
        "enrolment_sha256": facts.enrolment_digest,
        "enrolment_revision": facts.enrolment_revision,
        "chunks_touched": facts.chunks_touched,
        "audit": facts.audit_mode,
        "audit_cheating": facts.audit_cheating,
        "audit_detection": facts.audit_detection,
        "curvature_within": facts.curvature_within,
        "proofs_verified": verified.chunks,
        "verify_cpu_s": round(verified.cpu_s, 4),
        "certified_distance": outcome.certified_distance,
        "certified_distance_of_chunks": {str(chunk): d for chunk, d in (distances or {}).items()},
        "srs_sha256": facts.srs_digest,
        "srs_origin": facts.srs_origin,
        "server_key_pinned": receipt.pinned,
        "shows": [{**saying.model_dump(), "words": saying.words()} for saying in shows],
        "does_not_show": [{**saying.model_dump(), "words": saying.words()} for saying in does_not_show],
    }


def _print(verified: Verified) -> None:
    from zkapex.proofs.chunk.certificate import chunk_distances
    from zkapex.proofs.receipts.receipt import sayings_of
    from zkapex.proofs.receipts.sayings import percent, verdict_words

    bundle, receipt = verified.bundle, verified.bundle.receipt
    facts, outcome = bundle.dossier.facts, receipt.outcome
    out = Console(highlight=False, soft_wrap=True)
    genuine = "genuine" if receipt.pinned else "consistent"
    out.print(f"The receipt is {genuine}. Verdict: {verdict_words(facts, outcome.verdict)}.", style="bold")
    _print_depths(out, verified.depths)
    issued = f"{outcome.issued_at:%Y-%m-%d %H:%M} UTC"
    out.print(f"  request {facts.request_id}, client {facts.client_id[:16]}, issued {issued}")
    out.print(f"  receipt {receipt.payload_digest}, enrolment revision {facts.enrolment_revision}")
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
    distances = chunk_distances(bundle.dossier.instance, sorted(bundle.evidence.proofs))
    if distances and outcome.certified_distance is not None:
        out.print(
            f"  certified distance from the exact change: {outcome.certified_distance:.3g} over all chunks proved, "
            f"at most {max(distances.values()):.3g} in one"
        )
    shows, does_not_show = sayings_of(receipt, facts)
    for title, sayings in (("It shows:", shows), ("It does not show:", does_not_show)):
        out.print(title)
        for saying in sayings:
            out.print(f"  - {saying.words()}", soft_wrap=True, markup=False)


def _print_depths(out: Console, depths: list[Depth] | tuple[Depth, ...]) -> None:
    for depth in depths:
        style = {"reached": "green", "failed": "red"}.get(depth.result, "yellow")
        out.print(f"  [{style}]{depth.name:<10}{depth.result:<12}[/]", end="")
        out.print(depth.note, soft_wrap=True, markup=False)
