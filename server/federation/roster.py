"""Who takes part: recognises devices that come back, has new ones personalise, and enrols them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zkapex.circuits.halo2.store import Circuit
from zkapex.errors import Error, FormatVersionError, ProtocolError, SaltsSpentError, VerificationError
from zkapex.proofs.chunk.commitment import Point
from zkapex.proofs.chunk.enrolled import curvature_distance, verify_enrolment
from zkapex.proofs.messages import (
    Delivery,
    Enrolment,
    EnrolRequest,
    ModelManifest,
    PersonaliseReply,
    PersonaliseRequest,
)
from zkapex.proofs.records.record import arrays_digest
from zkapex.proofs.records.sealed import Sealed, seal, unseal_enrolment
from zkapex.proofs.records.signing import (
    CHALLENGE_BYTES,
    CHALLENGE_TYPE,
    Envelope,
    public_key_from_hex,
    public_key_hex,
    verify,
)
from zkapex.server.protocol.states import Client, ClientStatus, Enrolled
from zkapex.server.store.registry import Registry
from zkapex.transport.peers import Answer, Peers, Trouble, opened
from zkapex.transport.wire import pack, pack_arrays

BLAMED = (ProtocolError, VerificationError, FormatVersionError)
"""What a client's answer can be wrong with. Other errors, a full disk say, are the server's own and stop the run."""
Emit = Callable[..., None]


@dataclass
class Roster:
    """The clients of a federation, and what they agreed to.

    Attributes
    ----------
    peers : Peers
    registry : Registry
    key : Ed25519PrivateKey
        Signs requests and receipts.
    circuit : Circuit
    manifest : ModelManifest
    emit : callable
        Progress events, ``emit(name, **fields)``.
    check_circuit : Circuit, optional
        Of the manifest's curvature check, if it has one.
    """

    peers: Peers
    registry: Registry
    key: Ed25519PrivateKey
    circuit: Circuit
    manifest: ModelManifest
    emit: Emit
    check_circuit: Circuit | None = None
    clients: dict[int, str] = field(default_factory=dict)
    """Client id by node, once enrolled in this run."""
    turned_away: dict[int, str] = field(default_factory=dict)
    """Why a node did not become a client, by node: the first thing that went wrong in this run."""
    away: set[int] = field(default_factory=set)
    """Nodes that were not heard from when the run started. They may be clients, so they are not enrolled anew."""

    def recognise(self) -> None:
        """Learn which nodes are clients that enrolled before, in this or an earlier run.

        An enrolment that the registry does not hold, because the server was killed before it could store it, is taken
        now: the device's signature under a fresh challenge stands for the nonce that is lost.
        """
        self.registry.add_manifest(self.manifest)
        challenges = {node: secrets.token_bytes(CHALLENGE_BYTES) for node in self.peers.nodes()}
        contents = {node: pack(Delivery(), {"challenge": challenge}) for node, challenge in challenges.items()}
        for node, answer in self.peers.ask("identify", contents).items():
            if isinstance(answer, Trouble):
                if not answer.reachable:
                    self.away.add(node)
                    self.turned_away[node] = f"identify: {answer.reason}"
                    self.emit("client.away", node=str(node), reason=answer.reason)
                continue
            try:
                _, blobs = opened(answer, Delivery)
                if blobs:  # else it has not enrolled yet
                    self._admit(node, self._identified(blobs, challenges[node]))
            except BLAMED as e:
                self._turn_away("identify", node, e)

    def _identified(self, blobs: Mapping[str, bytes], challenge: bytes) -> Sealed[Enrolment]:
        sealed = unseal_enrolment(blobs.get("envelope", b""))
        key = public_key_from_hex(sealed.record.public_key)
        if verify(Envelope.from_bytes(blobs.get("challenge", b"")), CHALLENGE_TYPE, [key]) != challenge:
            raise ProtocolError("the client signed another challenge")
        return sealed

    def _admit(self, node: int, sealed: Sealed[Enrolment]) -> None:
        """Take the node for the client whose enrolment it has shown to be its own."""
        enrolment = sealed.record
        if any(known == enrolment.client_id and other != node for other, known in self.clients.items()):
            raise ProtocolError("another node is this client already", why="two devices run with one key")
        if enrolment.manifest_digest != self.manifest.digest():
            raise ProtocolError("the enrolment is under another manifest")
        known = self.registry.client(enrolment.client_id)
        if known is None or known.enrolment_digest != sealed.digest:
            for point in (*enrolment.theta, *enrolment.curvature):
                Point.from_hex(point)
            curvature_distance(self.manifest, enrolment)
            if self.check_circuit is not None:
                verify_enrolment(self.check_circuit, self.manifest, enrolment)
            self.registry.apply(Enrolled(sealed))
        self.clients[node] = enrolment.client_id

    def personalise(
        self, weights: Mapping[str, npt.NDArray[np.float32]], epochs: int, learning_rate: float, seed: int
    ) -> None:
        """Have every node that has not enrolled fine-tune the global model on its own data."""
        contents = {}
        digest = arrays_digest(weights)
        for node in self._strangers():
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
            self.emit(
                "personalise.done",
                client=reply.client_id,
                accuracy=reply.accuracy_after,
                done=done,
                total=len(contents),
            )

        self.peers.ask("personalise", contents, on_answer=on_answer)

    def enrol(self) -> None:
        """Have every node that has not enrolled, or whose salts are used up, commit to its weights and curvature.

        Raises
        ------
        ProtocolError
            No node enrolled.
        """
        srs = self.circuit.srs.path.read_bytes()
        contents = {}
        for node in (*self._strangers(), *self._spent()):
            request = EnrolRequest(
                federation=self.registry.federation,
                manifest=self.manifest,
                nonce=secrets.token_hex(32),
                server_key=public_key_hex(self.key.public_key()),
            )
            envelope = seal(request, self.key).envelope
            contents[node] = (request.nonce, pack(Delivery(), {"envelope": envelope, "srs": srs}))

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

    def _strangers(self) -> list[int]:
        return [node for node in self.peers.nodes() if node not in self.clients and node not in self.away]

    def _spent(self) -> list[int]:
        """Nodes whose last request failed because their commitments cannot be opened again."""
        found = []
        for node, client_id in self.clients.items():
            client = self.client(client_id)
            if client.status is ClientStatus.FAILED and SaltsSpentError.SENTENCE in client.reason:
                found.append(node)
        return found


def sentence(error: Error) -> str:
    """What is wrong, and why, in one line of at most 1,000 characters."""
    text = f"{error.what} ({error.why})" if error.why else error.what
    return " ".join(text.split())[:1000]
