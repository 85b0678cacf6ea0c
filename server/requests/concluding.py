"""Issues the receipts of clients whose part in a request is over, and sends them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from zkapex.errors import ProtocolError
from zkapex.foreign import one_line
from zkapex.proofs.backends import about
from zkapex.proofs.chunk.certificate import request_distance
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.messages import Delivery
from zkapex.proofs.receipts.archive import pack_archive
from zkapex.proofs.receipts.bundle import RECEIPT_FILE, read_files, write_bundle
from zkapex.proofs.receipts.chain import ENROLMENTS
from zkapex.proofs.receipts.receipt import Outcome, Software, issue
from zkapex.server.federation.roster import Roster
from zkapex.server.protocol.states import ReceiptIssued, Request, RequestStatus
from zkapex.server.requests.keeping import Keeper
from zkapex.server.store.registry import Registry
from zkapex.storage import save_text
from zkapex.transport.peers import Trouble
from zkapex.transport.wire import pack

MAX_ARCHIVE_BYTES: Final = 64 * 2**20
"""A device is sent the whole of its receipt up to this size, and the signed envelope alone beyond."""


def conclude(roster: Roster, keeper: Keeper | None, request_id: str, folder: Path) -> dict[str, Path]:
    """Issue and write the receipts of all clients whose part in a request is over; their folders by client id."""
    files, linked = roster.engine.files(), roster.manifest.by_layer
    written = {}
    for request in roster.registry.requests(request_id):
        client_id = request.client_id
        if request.verdict is None:
            continue
        path = written[client_id] = folder / client_id[:16]
        if request.status is RequestStatus.RECEIPTED and (path / RECEIPT_FILE).exists():
            continue
        evidence = roster.registry.evidence(client_id, request_id, linked=linked, **files)
        if keeper is not None and request.verdict == "failed":
            kept = keeper.rejected(request_id, client_id)
            evidence = replace(evidence, rejected={c: kept[c] for c in request.drawn if c in kept})
        receipt = roster.registry.receipt(client_id, request_id)
        if receipt is None:
            receipt = issue(evidence, _outcome(roster, keeper, request), roster.key).envelope
            roster.registry.apply(ReceiptIssued(client_id, request_id, receipt))
        write_bundle(path, receipt, evidence)
        if keeper is not None:
            keeper.accompany(path, request_id, client_id, receipt)
        roster.emit("receipt.issued", client=client_id, request=request_id, verdict=request.verdict, path=str(path))
    return written


def deliver(roster: Roster, receipts: Mapping[str, Path]) -> set[str]:
    """Send clients their receipts, given as folders by client id; returns those that have taken theirs."""
    nodes = {client_id: node for node, client_id in roster.clients.items() if client_id in receipts}
    contents = {node: pack(Delivery(), _delivered(receipts[client_id])) for client_id, node in nodes.items()}
    answers = roster.peers.ask("receipt", contents)
    return {client_id for client_id, node in nodes.items() if not isinstance(answers[node], Trouble)}


def publish_enrolments(registry: Registry, receipts: Path, clients: Collection[str]) -> None:
    """Put clients' enrolments beside their receipts: those that no receipt rests on are links of the chain too."""
    for client_id in clients:
        folder = receipts / ENROLMENTS / client_id[:16]
        folder.mkdir(parents=True, exist_ok=True)
        for revision, envelope in registry.enrolments(client_id).items():
            path = folder / f"{revision}.json"
            if not path.exists():
                save_text(path, envelope.decode())


def _delivered(receipt: Path) -> dict[str, bytes]:
    """What a device is sent of its receipt."""
    archive = pack_archive(read_files(receipt))
    whole = {"archive": archive} if len(archive) <= MAX_ARCHIVE_BYTES else {}
    return {"envelope": (receipt / RECEIPT_FILE).read_bytes()} | whole


def _outcome(roster: Roster, keeper: Keeper | None, request: Request) -> Outcome:
    proved = request.verdict == "proved"
    distance = None
    if proved:
        instance = Instance(roster.manifest, request.sealed.record)
        distance = request_distance(instance, request.drawn)
    verdict = request.verdict
    if verdict not in ("proved", "failed", "unreachable"):
        raise ProtocolError(f"request {request.request_id} is not finished")
    return Outcome(
        verdict=verdict,  # type: ignore[arg-type]
        reasons=() if proved else (one_line(request.reason, 1000) or "no reason given",),
        chunks_proved=len(request.proofs),
        certified_distance=distance,
        audit_seed=request.audit_seed,
        # A clock that was set back does not make a receipt older than its request.
        issued_at=max(roster.registry.now(), request.sealed.record.issued_at),
        software=Software(prover=about(roster.manifest.backend).software),
        log=None if keeper is None or keeper.log is None else str(keeper.log.verifier),
    )
