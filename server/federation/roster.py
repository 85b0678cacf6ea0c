"""Who takes part: recognises devices that come back, has new ones personalise, and enrols them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zkapex.errors import Error, FormatVersionError, ProtocolError, VerificationError
from zkapex.proofs.backends.interface import Before, Engine
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.messages import (
    Delivery,
    Demand,
    Enrolment,
    EnrolRequest,
    ModelManifest,
    PersonaliseReply,
    PersonaliseRequest,
    TuneReply,
    TuneRequest,
)
from zkapex.proofs.records.record import arrays_digest, sha256_hex
from zkapex.proofs.records.sealed import Sealed, seal, unseal_enrolment
from zkapex.proofs.records.signing import public_key_hex
from zkapex.server.federation.admission import Admission, Entries, NotAdmittedError
from zkapex.server.federation.identity import Emit, Identity, identify, sentence
from zkapex.server.protocol.states import Client, ClientStatus, Enrolled, Moved
from zkapex.server.store.registry import Registry
from zkapex.transport.peers import Answer, Peers, Trouble, opened
from zkapex.transport.wire import pack, pack_arrays

BLAMED = (ProtocolError, VerificationError, FormatVersionError)
"""What a client's answer can be wrong with. Other errors, a full disk say, are the server's own and stop the run."""


@dataclass
class Roster:
    """The clients of a federation, and what they agreed to.

    Attributes
    ----------
    peers : Peers
    registry : Registry
    key : Ed25519PrivateKey
        Signs requests and receipts.
    engine : Engine
        What commitments and proofs are checked by.
    emit : callable
        Progress events, ``emit(name, **fields)``.
    admission : Admission, optional
        Who may become a client; without one, anybody may.
    """

    peers: Peers
    registry: Registry
    key: Ed25519PrivateKey
    engine: Engine
    emit: Emit
    admission: Admission | None = None
    clients: dict[int, str] = field(default_factory=dict)
    """Client id by node, once enrolled in this run."""
    turned_away: dict[int, str] = field(default_factory=dict)
    """Why a node did not become a client, by node: the first thing that went wrong in this run."""
    away: set[int] = field(default_factory=set)
    """Nodes that were not heard from when the run started. They may be clients, so they are not enrolled anew."""

    @property
    def manifest(self) -> ModelManifest:
        """What is proved about which model."""
        return self.engine.manifest

    def recognise(self) -> None:
        """Learn which nodes are clients that enrolled before, in this or an earlier run.

        An enrolment that the registry does not hold, because the server was killed before it could store it, is taken
        now, if it was asked for: its nonce was on disk before it was sent.
        """
        self.registry.add_manifest(self.manifest)
        for node, found in identify(self.peers).items():
            if isinstance(found, Trouble):
                # Unable to say who it is, it may be a client: it is not enrolled anew.
                self.away.add(node)
                self.turned_away[node] = f"identify: {found.reason}"
                self.emit("client.away", node=str(node), reason=found.reason)
            elif isinstance(found, Error):
                self.away.add(node)
                self._turn_away("identify", node, found)
            else:
                self._recognise(node, found)

    def _recognise(self, node: int, found: Identity) -> None:
        known = self.registry.client(found.client_id)
        try:
            if self.admission is not None:
                self.admission.check(found.client_id, node)
            if found.enrolment is None and known is None:
                return  # a stranger, who may become a client
            if found.enrolment is not None and (known is None or known.enrolment_digest != sha256_hex(found.enrolment)):
                self._admit(node, unseal_enrolment(found.enrolment))
                return
        except BLAMED as e:
            self._turn_away("identify", node, e)
            if known is None or isinstance(e, NotAdmittedError):
                self.away.add(node)
                return
        try:
            self._take(node, found.client_id)
        except ProtocolError as e:
            self.away.add(node)
            self._turn_away("identify", node, e)
            return
        if known is None or known.active is not None:
            return
        shown = None if found.enrolment is None else sha256_hex(found.enrolment)
        if shown != known.enrolment_digest:
            # It is this client by its key, and shows an enrolment that was not asked for, or none: it enrols again.
            self.registry.apply(Moved(found.client_id, "it stands by another enrolment than it is held to"))
        elif found.roots and known.theta_root not in found.roots:
            # It was restored from a backup, or the registry was.
            self.registry.apply(Moved(found.client_id, "it holds other weights than it is held to"))

    def _admit(self, node: int, sealed: Sealed[Enrolment]) -> None:
        """Take the node for the client whose enrolment it has shown to be its own."""
        enrolment = sealed.record
        self._refuse_twin(node, enrolment.client_id)
        if enrolment.manifest_digest != self.manifest.digest():
            raise ProtocolError("the enrolment is under another manifest")
        if self.admission is not None:
            self.admission.check(enrolment.client_id, node)
        known = self.registry.client(enrolment.client_id)
        if known is None or known.enrolment_digest != sealed.digest:
            if known is not None:
                self.engine.verify_continuation(enrolment, self.before(known))
            for commitment in (*enrolment.theta, *enrolment.curvature):
                self.engine.check_commitment(commitment)
            self.engine.verify_enrolment(enrolment)
            self.registry.apply(Enrolled(sealed))
        self._take(node, enrolment.client_id)

    def _take(self, node: int, client_id: str) -> None:
        """Take a node for a client, from now on."""
        self._refuse_twin(node, client_id)
        if self.admission is not None:
            self.admission.tie(client_id, node)
        self.clients[node] = client_id

    def _refuse_twin(self, node: int, client_id: str) -> None:
        if any(known == client_id and other != node for other, known in self.clients.items()):
            raise ProtocolError("another node is this client already", why="two devices run with one key")

    def before(self, known: Client) -> Before:
        """What a client that enrols again continues, and has to hold."""
        sent = self.registry.sent(known.client_id)
        return Before(
            enrolment_digest=known.enrolment_digest,
            root=known.theta_root,
            theta=known.theta,
            curvature=known.curvature,
            demands=Demands.of(self.manifest, sent),
        )

    def personalise(
        self,
        weights: Mapping[str, npt.NDArray[np.float32]],
        epochs: int,
        learning_rate: float,
        seed: int,
        again: Collection[str] = (),
    ) -> set[str]:
        """Have every node that has not enrolled, and clients named, fine-tune the global model on their own data.

        Parameters
        ----------
        again : collection of str
            Ids of clients that are to do so anew; those with a request under way are left out. They enrol again after.

        Returns
        -------
        set of str
            Those of `again` that did.
        """
        contents = {}
        digest = arrays_digest(weights)
        anew = {}
        for node, client_id in self.clients.items():
            client = self.client(client_id)
            if client_id in again and client.active is None and client.status is not ClientStatus.QUARANTINED:
                self.registry.apply(Moved(client_id, "it was asked to personalise anew"))
                anew[node] = client_id
        finished: set[str] = set()
        for node in (*self.strangers(), *anew):
            request = PersonaliseRequest(
                federation=self.registry.federation,
                epochs=epochs,
                learning_rate=learning_rate,
                seed=seed,
                weights_digest=digest,
                nonce=secrets.token_hex(32),
                server_key=public_key_hex(self.key.public_key()),
            )
            contents[node] = pack_arrays(weights, pack(Delivery(), {"envelope": seal(request, self.key).envelope}))
        done = 0

        def on_answer(node: int, answer: Answer) -> None:
            nonlocal done
            done += 1
            try:
                if isinstance(answer, Trouble):
                    raise ProtocolError("the client could not personalise", why=answer.reason)
                reply, _ = opened(answer, PersonaliseReply)
            except BLAMED as e:
                self._turn_away("personalise", node, e)
                return
            if node in anew:
                finished.add(anew[node])
            self.emit(
                "personalise.done",
                client=reply.client_id,
                accuracy=reply.accuracy_after,
                done=done,
                total=len(contents),
            )

        self.peers.ask("personalise", contents, on_answer=on_answer)
        return finished

    def tune(
        self, request_id: str, nonces: Mapping[str, str], epochs: int, learning_rate: float, seed: int
    ) -> dict[str, TuneReply]:
        """Have clients train their own models on, after a request that they have proved; they enrol again after.

        Parameters
        ----------
        nonces : mapping of str to str
            By the id of each client that is to do so; who is asked twice with the same trains once.

        Returns
        -------
        dict of str to TuneReply
            By client id, of those that did.
        """
        contents = {}
        for node, client_id in self.clients.items():
            client = self.client(client_id)
            if client_id not in nonces or client.active is not None or client.status is ClientStatus.QUARANTINED:
                continue
            self.registry.apply(Moved(client_id, f"it was asked to train on after request {request_id}"))
            request = TuneRequest(
                federation=self.registry.federation,
                client_id=client_id,
                request_id=request_id,
                epochs=epochs,
                learning_rate=learning_rate,
                seed=seed,
                nonce=nonces[client_id],
            )
            contents[node] = pack(Delivery(), {"envelope": seal(request, self.key).envelope})
        replies: dict[str, TuneReply] = {}

        def on_answer(node: int, answer: Answer) -> None:
            client_id = self.clients[node]
            try:
                if isinstance(answer, Trouble):
                    raise ProtocolError("the client could not train on", why=answer.reason)
                reply, _ = opened(answer, TuneReply)
                if reply.client_id != client_id or reply.request_id != request_id:
                    raise ProtocolError("the answer is another client's, or about another request")
            except BLAMED as e:
                self.emit("tune.failed", client=client_id, reason=sentence(e))
                return
            replies[client_id] = reply
            self.emit("tune.done", client=client_id, done=len(replies), total=len(contents))

        self.peers.ask("tune", contents, on_answer=on_answer)
        return replies

    def enrol(self) -> None:
        """Have every node that has not enrolled, or has to enrol again, commit to its weights and curvature.

        Nonces are on disk before they are sent. Who enrols again is told what it has to show.

        Raises
        ------
        ProtocolError
            No node enrolled.
        """
        parcel = self.engine.parcel()
        contents = {}
        due: dict[int, Client | None] = dict.fromkeys(self.strangers()) | self._due()
        for node, known in due.items():
            before = None if known is None else self.before(known)
            request = EnrolRequest(
                federation=self.registry.federation,
                manifest=self.manifest,
                nonce=self.registry.invite(None if known is None else known.client_id),
                server_key=public_key_hex(self.key.public_key()),
                demand=None if before is None else self._demand(before),
            )
            envelope = seal(request, self.key).envelope
            contents[node] = (request.nonce, pack(Delivery(), {"envelope": envelope, **parcel}))

        def on_answer(node: int, answer: Answer) -> None:
            try:
                if isinstance(answer, Trouble):
                    raise ProtocolError("the client could not enrol", why=answer.reason)
                _, blobs = opened(answer, Delivery)
                sealed = unseal_enrolment(blobs.get("envelope", b""))
                if sealed.record.nonce != contents[node][0]:
                    raise ProtocolError("the enrolment does not carry the nonce it was asked for with")
                self._admit(node, sealed)
            except BLAMED as e:
                self._turn_away("enrol", node, e)
                return
            self.emit(
                "enrol.done", client=sealed.record.client_id, done=len(self.clients), total=len(self.peers.nodes())
            )

        self.peers.ask("enrol", {node: content for node, (_, content) in contents.items()}, on_answer=on_answer)
        if not self.clients:
            raise ProtocolError("no client enrolled", fix="see the enrol.failed events for each client's reason")

    def _demand(self, before: Before) -> Demand:
        mask, guards = before.demands.packed(self.manifest)
        return Demand(previous=before.enrolment_digest, root=before.root, mask=mask, guards=guards)

    def not_enrolled(self) -> dict[int, str]:
        """Nodes of this run that are no clients, and why."""
        nodes = (node for node in self.peers.nodes() if node not in self.clients)
        return {node: self.turned_away.get(node, "it was not asked") for node in nodes}

    def client(self, client_id: str) -> Client:
        """A client by its id. Raises ProtocolError if the registry has none."""
        client = self.registry.client(client_id)
        if client is None:
            raise ProtocolError(f"client {client_id[:16]}... is not in the registry")
        return client

    def _turn_away(self, step: str, node: int, error: Error) -> None:
        self.turned_away.setdefault(node, f"{step}: {sentence(error)}")
        self.emit(f"{step}.failed", node=str(node), reason=sentence(error))

    def strangers(self) -> list[int]:
        """Nodes that are no clients and may become some, as far as their node says."""
        found = []
        tied = self.admission.entries() if self.admission is not None else Entries()
        for node in self.peers.nodes():
            if node in self.clients or node in self.away:
                continue
            known = tied.nodes.get(str(node))
            client = None if known is None else self.registry.client(known)
            if client is not None and client.status is ClientStatus.QUARANTINED:
                self.turned_away.setdefault(node, f"this node is client {client.client_id[:16]}..., in quarantine")
                continue
            found.append(node)
        return found

    def _due(self) -> dict[int, Client]:
        """Nodes whose clients have to enrol again before they can be asked for anything."""
        found = {}
        for node, client_id in self.clients.items():
            client = self.client(client_id)
            quarantined = client.status is ClientStatus.QUARANTINED
            if client.active is None and (client.readmitted if quarantined else bool(client.stale)):
                found[node] = client
        return found
