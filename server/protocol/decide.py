r"""The rules of the protocol: what a client's and a request's state may become, and when.

Nothing here does I/O. :func:`decide` takes what is known about one client (:class:`Scope`) and one event, and returns
the new state or raises; :class:`zkapex.server.store.registry.Registry` stores it. A *request* below is the request to
one client; a deletion request is one of these per client under the same id.

A request goes::

    open -> distributed -> responded -> proving -> verified -> receipted
      \__________\____________\____________\---> failed -----/

A client goes::

    enrolled / proved / failed / unreachable --Opened--> pending --Verified--> proved
    pending --Lost--> unreachable --Responded, ProofsAccepted--> pending
    pending --Failed--> failed              unreachable --Failed--> unreachable
    pending / unreachable --Rejected--> quarantined --Readmitted, then Enrolled--> enrolled
    any that is not quarantined and has no request under way --Enrolled--> enrolled
    any that has no request under way --Quarantined--> quarantined

A client that was sent a request and did not prove it, or that was told to change its weights (*Moved*), is *stale*: its
device may hold other weights than the server holds it to. It is asked for nothing before it has enrolled again.

Rules:

1. Only signed records that were verified enter (events carry :class:`Sealed` records), and only for this federation.
2. A client has at most one request under way. It can neither enrol nor be asked again until that one is verified or
   failed.
3. A nonce is used once, in an enrolment or in a request, by anybody. A (client, request id) pair is used once. A proof,
   by its digest, is accepted once, from anybody.
4. An enrolment carries a nonce that the server issued, for this client if it knew it. Revisions of a client only grow,
   starting at 0. Every enrolment but the first continues the one before: it shows that it holds the same weights, or
   that every request that was ever sent to the client still holds. After a quarantine only the latter will do, unless
   everything that was sent to it had been proved before.
5. A request starts from the commitments the server holds for the client, under the manifest and the very enrolment that
   they are of. Curvature that was enrolled after its mask, with its targets, was first published is not
   taken for it.
   When it is verified, and only then, the response's commitments replace those of the touched chunks, and the next
   request starts from there. A request that fails changes nothing: the client is held to what it committed to before.
6. The response names exactly the touched chunks, and comes before the request expires. A second, different response is
   an error. Which chunks must be proved follows from the response and the seed committed to in the request.
7. A request is verified when every drawn chunk has an accepted proof. A request that is given up after its audit was
   drawn is counted, and while a client has such, everything it is asked for has to be proved.
8. A quarantined client stays quarantined, whatever arrives, until an operator readmits it and it enrols anew. An
   operator may quarantine any client.
9. An event may be delivered again: the second delivery changes nothing. A chunk that is proved again keeps its first
   proof.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from zkapex.errors import CommitmentError, IllegalTransitionError, ProtocolError
from zkapex.proofs.audit import check_audit, draw
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import Enrolment, ModelManifest, UnlearnResponse
from zkapex.proofs.records.packing import touched_chunks, unpack_guards, unpack_masks, unpack_steering
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.sealed import Sealed
from zkapex.server.protocol.states import (
    UNDER_WAY,
    Client,
    ClientStatus,
    Distributed,
    Drawn,
    Enrolled,
    Event,
    Extended,
    Failed,
    Lost,
    Moved,
    Opened,
    ProofsAccepted,
    Quarantined,
    Readmitted,
    ReceiptIssued,
    Rejected,
    Request,
    RequestEvent,
    RequestStatus,
    Responded,
    Scope,
    Verified,
    claims,
)


def decide(scope: Scope, event: Event, now: datetime) -> Scope:
    """Apply one event; returns the very same scope if it was applied before.

    Raises
    ------
    IllegalTransitionError
        The event does not fit the state of the client or the request.
    CommitmentError
        The request does not start from, or the response does not go with, the commitments the server holds.
    ProtocolError
        The event breaks another rule.
    """
    match event:
        case Enrolled():
            return _enrol(scope, event, now)
        case Readmitted():
            return _readmit(scope, event)
        case Quarantined():
            return _quarantine(scope, event)
        case Moved():
            return _move(scope, event)
        case Opened():
            return _open(scope, event, now)
        case _:
            return _advance(scope, event, now)


def _enrol(scope: Scope, event: Enrolled, now: datetime) -> Scope:
    enrolment, known = event.enrolment.record, scope.client
    if known is not None and known.enrolment_digest == event.enrolment.digest:
        return scope
    if enrolment.federation != scope.federation:
        raise ProtocolError("an enrolment is for another federation", why=f"it names {enrolment.federation!r}")
    manifest = _manifest(scope, enrolment.manifest_digest)
    if (len(enrolment.theta), len(enrolment.curvature)) != (manifest.n_chunks, manifest.n_curvatures):
        raise CommitmentError(
            "an enrolment has the wrong number of commitments",
            why=f"the manifest has {manifest.n_chunks} chunks and {manifest.n_curvatures} curvature factors",
        )
    _refuse_reuse(scope, claims(event))
    invited = scope.invitation
    if invited is None or invited.nonce != enrolment.nonce or invited.client_id not in (None, enrolment.client_id):
        raise ProtocolError(
            "an enrolment carries a nonce that was not issued for it",
            why="a client enrols when it is asked to, never by itself",
        )
    if known is None:
        if enrolment.revision != 0:
            raise ProtocolError("a client's first enrolment must be revision 0")
        if enrolment.continuation is not None:
            raise ProtocolError("a client's first enrolment continues no other")
    else:
        if known.status is ClientStatus.QUARANTINED and not known.readmitted:
            raise _illegal(known, "enrol", "the client is quarantined", fix="an operator has to readmit it first")
        if known.active is not None:
            raise _illegal(known, "enrol", f"request {known.active} is under way")
        if enrolment.revision <= known.revision:
            raise ProtocolError(
                f"enrolment revision {enrolment.revision} is not new", why=f"the last one was {known.revision}"
            )
        _check_continuation(known, enrolment)
    continued = enrolment.continuation
    same_curvature = known is not None and continued is not None and continued.curvature is not None
    client = Client(
        client_id=enrolment.client_id,
        public_key=enrolment.public_key,
        status=ClientStatus.ENROLLED,
        revision=enrolment.revision,
        enrolment_digest=event.enrolment.digest,
        manifest_digest=enrolment.manifest_digest,
        theta=enrolment.theta,
        curvature=enrolment.curvature,
        aborted=0 if known is None else known.aborted,
        curvature_at=known.curvature_at if known is not None and same_curvature else now,
    )
    return replace(scope, client=client)


def _check_continuation(known: Client, enrolment: Enrolment) -> None:
    """That an enrolment names what it continues; its proofs were verified before the event was made."""
    continued = enrolment.continuation
    if continued is None:
        raise ProtocolError(
            "an enrolment does not continue the one before",
            why="without that, weights that were deleted could come back",
            fix="ask the client again, with what it has to show",
        )
    if (continued.previous, continued.root) != (known.enrolment_digest, known.theta_root):
        raise CommitmentError("an enrolment continues other commitments than the client is held to")
    same = continued.theta is not None or continued.curvature is not None
    if same and enrolment.manifest_digest != known.manifest_digest:
        raise CommitmentError("an enrolment cannot hold the same as one under another manifest")
    if known.status is ClientStatus.QUARANTINED and known.stale and continued.held is None:
        raise ProtocolError(
            "after a quarantine a client has to show that every earlier request holds",
            why=f"the weights it is held to are not known to be those of all of them: {known.stale}",
        )


def _move(scope: Scope, event: Moved) -> Scope:
    client = _client(scope)
    if client.active is not None:
        raise _illegal(client, "change its weights", f"request {client.active} is under way")
    return scope if client.stale else replace(scope, client=replace(client, stale=event.reason))


def _readmit(scope: Scope, event: Readmitted) -> Scope:
    client = _client(scope)
    if client.status is not ClientStatus.QUARANTINED:
        raise _illegal(client, "be readmitted", "it is not quarantined")
    if client.readmitted:
        return scope
    return replace(scope, client=replace(client, readmitted=True, reason=event.reason))


def _quarantine(scope: Scope, event: Quarantined) -> Scope:
    client = _client(scope)
    if client.active is not None:
        raise _illegal(client, "be quarantined", f"request {client.active} is under way")
    if client.status is ClientStatus.QUARANTINED and not client.readmitted:
        return scope
    changed = replace(client, status=ClientStatus.QUARANTINED, readmitted=False, reason=event.reason)
    return replace(scope, client=changed)


def _open(scope: Scope, event: Opened, now: datetime) -> Scope:
    client, asked = _client(scope), event.request.record
    if scope.request is not None:
        if scope.request.sealed == event.request and scope.request.audit_seed == event.audit_seed:
            return scope
        raise ProtocolError(f"request id {asked.request_id} was used before for client {asked.client_id[:16]}…")
    if client.status is ClientStatus.QUARANTINED:
        raise _illegal(client, "be asked", "the client is quarantined")
    if client.active is not None:
        raise _illegal(client, "be asked", f"request {client.active} is under way")
    _refuse_reuse(scope, claims(event))
    if now >= asked.expires_at:
        raise ProtocolError(f"request {asked.request_id} has expired before it was sent")
    manifest = _manifest(scope, asked.manifest_digest)
    if asked.manifest_digest != client.manifest_digest:
        raise CommitmentError("a request is for another manifest than its client enrolled with")
    if client.stale:
        raise _illegal(client, "be asked", f"it has to enrol again: {client.stale}")
    if asked.enrolment_digest != client.enrolment_digest:
        raise CommitmentError("a request does not name the enrolment that the client's commitments are of")
    if asked.pre_root != client.theta_root:
        raise CommitmentError("a request does not start from the client's current commitments")
    if asked.attempts != client.aborted:
        raise ProtocolError(f"a request states {asked.attempts} earlier attempts", why=f"there were {client.aborted}")
    has_curvature = manifest.statement.curvature != "none"
    if has_curvature and scope.published and client.curvature_at and scope.published < client.curvature_at:
        raise CommitmentError(
            "the client's curvature was enrolled after this mask had been published",
            why="it may have been chosen to suit the mask",
            fix="plan another mask for this client",
        )
    masks = unpack_masks(manifest, asked.mask, required=not manifest.statement.constrains_result)
    unpack_guards(manifest, asked.guards)
    touched = touched_chunks(manifest, masks, unpack_steering(manifest, asked.guards, masks))
    if asked.audit.count is not None and asked.audit.count > len(touched):
        raise ProtocolError(f"a sample of {asked.audit.count} cannot be drawn from {len(touched)} touched chunks")
    check_audit(asked.audit, len(touched))
    draw(asked.audit, event.audit_seed, asked.pre_root, touched)  # the seed must match its commitment
    request = Request(event.request, RequestStatus.OPEN, touched, event.audit_seed)
    client = replace(client, status=ClientStatus.PENDING, active=asked.request_id, reason="")
    return replace(scope, client=client, request=request)


def _advance(scope: Scope, event: RequestEvent, now: datetime) -> Scope:
    client, request = _client(scope), scope.request
    if request is None or (request.client_id, request.request_id) != (event.client_id, event.request_id):
        raise ProtocolError(f"client {event.client_id[:16]}… has no request {event.request_id}")
    match event:
        case Distributed():
            if request.status is RequestStatus.OPEN:
                return replace(scope, request=replace(request, status=RequestStatus.DISTRIBUTED, sent=True))
            _expect(
                request, "be distributed", RequestStatus.DISTRIBUTED, RequestStatus.RESPONDED, RequestStatus.PROVING
            )
            return scope
        case Responded(response):
            return _respond(scope, request, response, now)
        case Drawn():
            if request.status is RequestStatus.PROVING:
                return scope
            _expect(request, "be drawn from", RequestStatus.RESPONDED)
            root = _response(request).root
            drawn = draw(request.sealed.record.audit, request.audit_seed, root, request.touched)
            return replace(scope, request=replace(request, status=RequestStatus.PROVING, drawn=drawn))
        case ProofsAccepted():
            return _accept(scope, request, event)
        case Verified():
            return _conclude(scope, client, request)
        case Lost(reason=reason):
            _expect(request, "lose its client", *UNDER_WAY)
            if client.status is ClientStatus.UNREACHABLE and client.reason == reason:
                return scope
            return replace(scope, client=replace(client, status=ClientStatus.UNREACHABLE, reason=reason))
        case Failed(reason=reason):
            unreachable = client.status is ClientStatus.UNREACHABLE
            status = ClientStatus.UNREACHABLE if unreachable else ClientStatus.FAILED
            return _give_up(scope, client, request, status, "unreachable" if unreachable else "failed", reason)
        case Rejected(reason=reason):
            return _give_up(scope, client, request, ClientStatus.QUARANTINED, "failed", reason)
        case ReceiptIssued(envelope=envelope):
            digest = sha256_hex(envelope)
            if request.status is RequestStatus.RECEIPTED and request.receipt_digest == digest:
                return scope
            _expect(request, "get a receipt", RequestStatus.VERIFIED, RequestStatus.FAILED)
            return replace(scope, request=replace(request, status=RequestStatus.RECEIPTED, receipt_digest=digest))
        case _:
            assert_never(event)


def _respond(scope: Scope, request: Request, response: Sealed[UnlearnResponse], now: datetime) -> Scope:
    asked, answer = request.sealed.record, response.record
    if request.response is not None and request.response.digest == response.digest:
        return _heard(scope, request)
    _expect(request, "be answered", RequestStatus.DISTRIBUTED)
    if now >= asked.expires_at:
        raise ProtocolError(f"the response to {asked.request_id} came too late", why=f"it expired {asked.expires_at}")
    if answer.nonce != asked.nonce:
        raise ProtocolError(f"the response to {asked.request_id} does not carry the request's nonce")
    pairs = [(commitment.chunk, commitment.theta) for commitment in answer.commitments]
    if tuple(chunk for chunk, _ in pairs) != tuple(request.touched):
        raise CommitmentError(f"the response to {asked.request_id} does not commit to exactly the touched chunks")
    if answer.root != commitment_root(pairs):
        raise CommitmentError(f"the response to {asked.request_id} has a Merkle root that is not its commitments'")
    return _heard(scope, replace(request, status=RequestStatus.RESPONDED, response=response))


def _accept(scope: Scope, request: Request, event: ProofsAccepted) -> Scope:
    digests = {chunk: sha256_hex(proof) for chunk, proof in event.proofs.items()}
    if digests and all(request.proofs.get(chunk) == digest for chunk, digest in digests.items()):
        return _heard(scope, request)
    _expect(request, "take proofs", RequestStatus.PROVING)
    strange = sorted(chunk for chunk in digests if chunk not in request.drawn)
    if strange or not digests:
        raise ProtocolError(f"proofs for {request.request_id} are not of drawn chunks", why=f"chunks {strange[:4]}")
    new = {chunk: digest for chunk, digest in digests.items() if request.proofs.get(chunk) != digest}
    _refuse_reuse(scope, frozenset(f"proof:{digest}" for digest in new.values()))
    if len(set(new.values())) != len(new):
        raise ProtocolError(f"one proof is given for two chunks of {request.request_id}")
    first = {chunk: digest for chunk, digest in new.items() if chunk not in request.proofs}
    if not first:
        return _heard(scope, request)
    return _heard(scope, replace(request, proofs=Extended(request.proofs, first)))


def _conclude(scope: Scope, client: Client, request: Request) -> Scope:
    if request.verdict == "proved":
        return scope
    _expect(request, "be verified", RequestStatus.PROVING)
    if request.missing:
        raise _illegal_request(request, "be verified", f"{len(request.missing)} drawn chunks are not proved")
    theta = list(client.theta)
    for commitment in _response(request).commitments:
        theta[commitment.chunk] = commitment.theta
    aborted = 0 if request.sealed.record.audit.mode == "full" else client.aborted
    client = replace(client, status=ClientStatus.PROVED, active=None, theta=tuple(theta), reason="", aborted=aborted)
    return replace(scope, client=client, request=replace(request, status=RequestStatus.VERIFIED, verdict="proved"))


def _give_up(scope: Scope, client: Client, request: Request, status: ClientStatus, verdict: str, reason: str) -> Scope:
    finished = request.status in {RequestStatus.FAILED, RequestStatus.RECEIPTED}
    if finished and request.verdict == verdict and request.reason == reason:
        return scope
    _expect(request, "fail", *UNDER_WAY)
    sent = request.status is not RequestStatus.OPEN
    client = replace(
        client,
        status=status,
        active=None,
        reason=reason,
        stale=f"request {request.request_id} was sent to it and not proved" if sent else client.stale,
        aborted=client.aborted + (request.status is RequestStatus.PROVING),
    )
    request = replace(request, status=RequestStatus.FAILED, verdict=verdict, reason=reason)
    return replace(scope, client=client, request=request)


def _heard(scope: Scope, request: Request) -> Scope:
    """Store the request's progress; a client that was given up for lost has been heard from."""
    client = _client(scope)
    if client.status is ClientStatus.UNREACHABLE and request.status in UNDER_WAY:
        client = replace(client, status=ClientStatus.PENDING, reason="")
    if client is scope.client and request is scope.request:
        return scope
    return replace(scope, client=client, request=request)


def _client(scope: Scope) -> Client:
    if scope.client is None:
        raise ProtocolError("an event is about a client that never enrolled")
    return scope.client


def _manifest(scope: Scope, digest: str) -> ModelManifest:
    if scope.manifest is None or scope.manifest.digest() != digest:
        raise ProtocolError(f"the manifest {digest[:16]}… is not known here")
    return scope.manifest


def _response(request: Request) -> UnlearnResponse:
    if request.response is None:
        raise _illegal_request(request, "go on", "it has no response")
    return request.response.record


def _refuse_reuse(scope: Scope, wanted: frozenset[str]) -> None:
    for claim in sorted(wanted & scope.taken):
        kind, _, value = claim.partition(":")
        raise ProtocolError(f"a {kind} was used before", why=f"{value[:16]}… may be used once only")


def _expect(request: Request, verb: str, *allowed: RequestStatus) -> None:
    if request.status not in allowed:
        raise _illegal_request(request, verb, f"it is {request.status}")


def _illegal(client: Client, verb: str, why: str, fix: str = "") -> IllegalTransitionError:
    return IllegalTransitionError(f"client {client.client_id[:16]}… cannot {verb}", why=why, fix=fix)


def _illegal_request(request: Request, verb: str, why: str) -> IllegalTransitionError:
    return IllegalTransitionError(f"request {request.request_id} to {request.client_id[:16]}… cannot {verb}", why=why)
