"""Which client each node is, as it shows by its signature, before anything else is asked of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zkapex.errors import Error, FormatVersionError, ProtocolError, VerificationError
from zkapex.foreign import one_line
from zkapex.proofs.messages import Delivery
from zkapex.proofs.records.sealed import unseal_enrolment
from zkapex.proofs.records.signing import (
    CHALLENGE_BYTES,
    CHALLENGE_TYPE,
    Envelope,
    key_id,
    public_key_from_hex,
    verify,
)
from zkapex.transport.peers import Answer, Peers, Trouble, opened
from zkapex.transport.wire import pack

_MAX_ROOTS = 64


@dataclass(frozen=True)
class Identity:
    """A node that has signed a fresh challenge.

    Attributes
    ----------
    client_id : str
        Of the key it signed with.
    enrolment : bytes or None
        The signed enrolment it stands by, if it has one; not verified.
    version : str
        Of its release, as it says.
    roots : tuple of str
        Merkle roots (hex) of the commitments to what it holds, and to what each answer that is not settled there made
        of it, as it says; empty from a release that does not.
    """

    client_id: str
    enrolment: bytes | None
    version: str
    roots: tuple[str, ...] = ()


def identify(peers: Peers) -> dict[int, Identity | Trouble | Error]:
    """Ask every node who it is; nodes that do not answer, or with something else, come with the reason."""
    challenges = {node: secrets.token_bytes(CHALLENGE_BYTES) for node in peers.nodes()}
    contents = {node: pack(Delivery(), {"challenge": challenge}) for node, challenge in challenges.items()}
    found: dict[int, Identity | Trouble | Error] = {}
    for node, answer in peers.ask("identify", contents).items():
        found[node] = _identity(answer, challenges[node])
    return found


def _identity(answer: Answer, challenge: bytes) -> Identity | Trouble | Error:
    if isinstance(answer, Trouble):
        return answer
    try:
        _, blobs = opened(answer, Delivery)
        return _checked(blobs, challenge)
    except Error as e:
        return e


def _checked(blobs: Mapping[str, bytes], challenge: bytes) -> Identity:
    envelope = blobs.get("envelope")
    text = blobs.get("key", b"").decode("ascii", "replace")
    key = public_key_from_hex(unseal_enrolment(envelope).record.public_key if envelope is not None else text)
    if verify(Envelope.from_bytes(blobs.get("challenge", b"")), CHALLENGE_TYPE, [key]) != challenge:
        raise ProtocolError("the client signed another challenge")
    if text and text != key.public_bytes_raw().hex():
        raise VerificationError("the enrolment is another client's than the key")
    version = blobs.get("version", b"").decode("ascii", "replace")[:64]
    roots = blobs.get("roots", b"").decode("ascii", "replace").split()[:_MAX_ROOTS]
    return Identity(key_id(key), envelope, version if version.isprintable() else "", tuple(roots))


def sentence(error: Error) -> str:
    """What is wrong, and why, in one line of at most 1,000 characters; of another release, what helps, too."""
    text = f"{error.what} ({error.why})" if error.why else error.what
    if isinstance(error, FormatVersionError) and error.fix:
        text = f"{text}: {error.fix}"
    return one_line(text, 1000)


Emit = Callable[..., None]
