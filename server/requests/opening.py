"""Signs a request to each client that it is addressed to and that may be asked."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from zkapex.errors import CommitmentError
from zkapex.proofs.audit import sampled_audit
from zkapex.proofs.chunk.demands import Demands, require_kept
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.messages import Audit, UnlearnRequest
from zkapex.proofs.records.packing import pack_guards, pack_masks, touched_chunks
from zkapex.proofs.records.sealed import seal
from zkapex.server.federation.identity import sentence
from zkapex.server.federation.roster import Roster
from zkapex.server.protocol.states import Client, ClientStatus, Opened
from zkapex.server.requests.deletion import Deletion
from zkapex.server.requests.keeping import Keeper

_TICK: Final = timedelta(microseconds=1)


def open_requests(
    roster: Roster, keeper: Keeper | None, deletion: Deletion, addressed: Collection[str] | None = None
) -> None:
    """Sign a request to every client that has none of this id yet and may be asked.

    Parameters
    ----------
    roster : Roster
    keeper : Keeper or None
        Logs what is signed, before anybody starts on it.
    deletion : Deletion
    addressed : collection of str, optional
        Ids of the clients the request is for; without them, those that are here.
    """
    mask = pack_masks(roster.manifest, deletion.masks, deletion.factors)
    guards = pack_guards(roster.manifest, deletion.guards, deletion.steering)
    registry = roster.registry
    for client_id in roster.clients.values() if addressed is None else sorted(addressed):
        client = registry.client(client_id)
        if client is None or registry.request(client_id, deletion.request_id) is not None:
            continue
        why = _not_now(client, present=client_id in roster.clients.values())
        if why:
            roster.emit("client.skipped", client=client_id, request=deletion.request_id, reason=why)
            continue
        audit, seed = _audit(roster, deletion, client)
        now = _after_the_last(roster, client_id)
        request = UnlearnRequest(
            request_id=deletion.request_id,
            client_id=client_id,
            manifest_digest=roster.manifest.digest(),
            nonce=secrets.token_hex(32),
            operator=deletion.operator,
            pre_root=client.theta_root,
            mask=mask,
            guards=guards,
            tau_s=deletion.tau_s,
            tau_g=deletion.tau_g,
            audit=audit,
            forget_digest=deletion.forget_digest,
            issued_at=now,
            expires_at=now + deletion.lifetime,
            enrolment_digest=client.enrolment_digest,
            attempts=client.aborted,
        )
        demands = Demands.of(roster.manifest, registry.sent(client_id))
        if demands:  # the device would refuse it, and whoever checks its receipt
            require_kept(demands, Instance(roster.manifest, request))
        try:
            sealed = seal(request, roster.key)
            if keeper is not None:  # before anybody starts on it: what is under way cannot vanish
                keeper.opened(deletion.request_id, client_id, sealed.envelope)
            registry.apply(Opened(sealed, seed))
        except CommitmentError as e:  # its curvature is younger than the mask
            roster.emit("client.skipped", client=client_id, request=deletion.request_id, reason=sentence(e))


def _after_the_last(roster: Roster, client_id: str) -> datetime:
    """The time, or the first moment after a client's last request, should the clock have been set back since.

    Whoever follows a chain of receipts goes by when their requests were issued.
    """
    last, now = roster.registry.last_issued(client_id), roster.registry.now()
    return now if last is None else max(now, last + _TICK)


def _audit(roster: Roster, deletion: Deletion, client: Client) -> tuple[Audit, str | None]:
    """How one client will be audited, and the seed of its draw, which nobody else knows before the receipt.

    A client that was drawn before and did not prove it has to prove everything.
    """
    if deletion.cheating is None or client.aborted:
        return Audit(), None
    seed = secrets.token_hex(32)
    touched = len(touched_chunks(roster.manifest, deletion.masks, deletion.steering or ()))
    return sampled_audit(touched, deletion.cheating, deletion.detect, seed), seed


def _not_now(client: Client, *, present: bool) -> str:
    """Why a client cannot be asked now, or nothing."""
    if client.status is ClientStatus.QUARANTINED:
        return "it is quarantined"
    if client.active is not None:
        return f"request {client.active} is under way"
    if client.stale:
        return f"it has to enrol again: {client.stale}"
    return "" if present else "it is away"
