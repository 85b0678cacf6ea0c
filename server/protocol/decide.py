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

Rules:

1. Only signed records that were verified enter (events carry :class:`Sealed` records), and only for this federation.
2. A client has at most one request under way. It can neither enrol nor be asked again until that one is verified or
   failed.
3. A nonce is used once, in an enrolment or in a request, by anybody. A (client, request id) pair is used once. A proof,
   by its digest, is accepted once, from anybody.
4. Enrolment revisions of a client only grow, starting at 0.
5. A request starts from the commitments the server holds for the client, under the manifest the client enrolled with.
   When it is verified, and only then, the response's commitments replace those of the touched chunks, and the next
   request starts from there. A request that fails changes nothing: the client is held to what it committed to before.
6. The response names exactly the touched chunks, and comes before the request expires. A second, different response is
   an error. Which chunks must be proved follows from the response and the seed committed to in the request.
7. A request is verified when every drawn chunk has an accepted proof.
8. A quarantined client stays quarantined, whatever arrives, until an operator readmits it and it enrols anew.
9. An event may be delivered again: the second delivery changes nothing. A chunk that is proved again keeps its first
   proof.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import assert_never

from zkapex.errors import CommitmentError, IllegalTransitionError, ProtocolError
from zkapex.proofs.audit import check_audit, draw
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import ModelManifest, UnlearnResponse
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
    Failed,
    Lost,
    Opened,
    ProofsAccepted,
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
            return _enrol(scope, event)
        case Readmitted():
            return _readmit(scope, event)
        case Opened():
            return _open(scope, event, now)
        case _:
            return _advance(scope, event, now)


def _enrol(scope: Scope, event: Enrolled) -> Scope:
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
    if known is None:
        if enrolment.revision != 0:
            raise ProtocolError("a client's first enrolment must be revision 0")
    else:
        if known.status is ClientStatus.QUARANTINED and not known.readmitted:
            raise _illegal(known, "enrol", "the client is quarantined", fix="an operator has to readmit it first")
        if known.active is not None:
            raise _illegal(known, "enrol", f"request {known.active} is under way")
        if enrolment.revision <= known.revision:
            raise ProtocolError(
                f"enrolment revision {enrolment.revision} is not new", why=f"the last one was {known.revision}"
            )
    client = Client(
        client_id=enrolment.client_id,
        public_key=enrolment.public_key,
        status=ClientStatus.ENROLLED,
        revision=enrolment.revision,
        enrolment_digest=event.enrolment.digest,
        manifest_digest=enrolment.manifest_digest,
        theta=enrolment.theta,
        curvature=enrolment.curvature,
    )
    return replace(scope, client=client)


def _readmit(scope: Scope, event: Readmitted) -> Scope:
    client = _client(scope)
    if client.status is not ClientStatus.QUARANTINED:
        raise _illegal(client, "be readmitted", "it is not quarantined")
    if client.readmitted:
        return scope
    return replace(scope, client=replace(client, readmitted=True, reason=event.reason))


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
    if asked.pre_root != client.theta_root:
        raise CommitmentError("a request does not start from the client's current commitments")
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
                return replace(scope, request=replace(request, status=RequestStatus.DISTRIBUTED))
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
        case Lost():
            _expect(request, "lose its client", *UNDER_WAY)
            if client.status is ClientStatus.UNREACHABLE:
                return scope
            return replace(scope, client=replace(client, status=ClientStatus.UNREACHABLE))
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
    if tuple(chunk for chunk, _ in pairs) != request.touched:
        raise CommitmentError(f"the response to {asked.request_id} does not commit to exactly the touched chunks")
    if answer.root != commitment_root(pairs):
        raise CommitmentError(f"the response to {asked.request_id} has a Merkle root that is not its commitments'")
    return _heard(scope, replace(request, status=RequestStatus.RESPONDED, response=response))


def _accept(scope: Scope, request: Request, event: ProofsAccepted) -> Scope:
    digests = {chunk: sha256_hex(proof) for chunk, proof in event.proofs.items()}
    if digests and all(request.proofs.get(chunk) == digest for chunk, digest in digests.items()):
        return _heard(scope, request)
    _expect(request, "take proofs", RequestStatus.PROVING)
    strange = sorted(set(digests) - set(request.drawn))
    if strange or not digests:
        raise ProtocolError(f"proofs for {request.request_id} are not of drawn chunks", why=f"chunks {strange[:4]}")
    new = {chunk: digest for chunk, digest in digests.items() if request.proofs.get(chunk) != digest}
    _refuse_reuse(scope, frozenset(f"proof:{digest}" for digest in new.values()))
    if len(set(new.values())) != len(new):
        raise ProtocolError(f"one proof is given for two chunks of {request.request_id}")
    first = {chunk: digest for chunk, digest in new.items() if chunk not in request.proofs}
    if not first:
        return _heard(scope, request)
    return _heard(scope, replace(request, proofs=MappingProxyType({**request.proofs, **first})))


def _conclude(scope: Scope, client: Client, request: Request) -> Scope:
    if request.verdict == "proved":
        return scope
    _expect(request, "be verified", RequestStatus.PROVING)
    if request.missing:
        raise _illegal_request(request, "be verified", f"{len(request.missing)} drawn chunks are not proved")
    theta = list(client.theta)
    for commitment in _response(request).commitments:
        theta[commitment.chunk] = commitment.theta
    client = replace(client, status=ClientStatus.PROVED, active=None, theta=tuple(theta))
    return replace(scope, client=client, request=replace(request, status=RequestStatus.VERIFIED, verdict="proved"))


def _give_up(scope: Scope, client: Client, request: Request, status: ClientStatus, verdict: str, reason: str) -> Scope:
    finished = request.status in {RequestStatus.FAILED, RequestStatus.RECEIPTED}
    if finished and request.verdict == verdict and request.reason == reason:
        return scope
    _expect(request, "fail", *UNDER_WAY)
    client = replace(client, status=status, active=None, reason=reason)
    request = replace(request, status=RequestStatus.FAILED, verdict=verdict, reason=reason)
    return replace(scope, client=client, request=request)


def _heard(scope: Scope, request: Request) -> Scope:
    """Store the request's progress; a client that was given up for lost has been heard from."""
    client = _client(scope)
    if client.status is ClientStatus.UNREACHABLE and request.status in UNDER_WAY:
        client = replace(client, status=ClientStatus.PENDING)
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
