"""`identify`: who this device is, for a provider that has started anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import RecordDict

from zkapex import __version__
from zkapex.client.agent.common import opened
from zkapex.client.state.memory import ENROLMENT
from zkapex.errors import ProtocolError
from zkapex.proofs.messages import Delivery
from zkapex.proofs.records.signing import CHALLENGE_BYTES, CHALLENGE_TYPE, public_key_hex, sign
from zkapex.transport.wire import pack

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def identify(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Its key, the challenge signed with it, its release; the signed enrolment it stands by, and what it holds now.

    Enrolments travel with receipts, so showing one proves nothing; the signature does.
    """
    _, blobs = opened(content, Delivery)
    challenge = blobs.get("challenge", b"")
    if len(challenge) != CHALLENGE_BYTES:
        raise ProtocolError(f"a challenge of {len(challenge)} bytes came, not of {CHALLENGE_BYTES}")
    answer = {
        "key": public_key_hex(device.key.public_key()).encode(),
        "challenge": sign(challenge, CHALLENGE_TYPE, device.key).to_bytes(),
        "version": __version__.encode(),
    }
    vault = device.vault.inner("enrolment")
    if vault.has(ENROLMENT):
        answer["envelope"] = vault.get(ENROLMENT)
        answer["roots"] = "\n".join(device.memory.roots()).encode()
    return pack(Delivery(), answer)
