"""`receipt`: the end of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import RecordDict

from zkapex.client.agent.common import ARCHIVE, RECEIPT, deliver, opened
from zkapex.errors import ProtocolError
from zkapex.proofs.messages import Delivery
from zkapex.proofs.receipts.receipt import open_receipt

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def receipt(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Keep the receipt of a request; whatever it says, the weights before the request are forgotten."""
    _, blobs = opened(content, Delivery)
    given = open_receipt(blobs.get("envelope", b""), [device.trust.key()])
    if given.facts.client_id != device.client_id:
        raise ProtocolError("the receipt is another client's")
    vault = device.memory.answered(given.facts.request_id)
    if given.outcome.verdict == "proved":
        device.memory.confirm(vault, given.facts.post_root)
    device.memory.settle(vault)
    if not vault.has(RECEIPT) or vault.get(RECEIPT) != given.envelope:
        vault.put(RECEIPT, given.envelope)
    if blobs.get("archive"):
        vault.put(ARCHIVE, blobs["archive"])  # so that whoever owns the device can have it checked
    return deliver(given.envelope)
