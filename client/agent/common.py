"""What the steps of the protocol have in common on a device: opening messages, answering, training, and what proves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from flwr.app import RecordDict

from zkapex.proofs.backends import backend
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.messages import Delivery, ModelManifest
from zkapex.proofs.records.record import Record
from zkapex.transport.wire import pack, unpack
from zkapex.unlearning.operators.held import Held

if TYPE_CHECKING:
    from torch import nn

    from zkapex.client.agent.agent import DeviceAgent

MAX_MESSAGE_BYTES = 256 * 2**20
RECEIPT, SCORES, ARCHIVE = "receipt.json", "scores.json", "receipt.zip"
R = TypeVar("R", bound=Record)


def opened(content: RecordDict, kind: type[R]) -> tuple[R, dict[str, bytes]]:
    """The record and blobs of a message.

    Raises
    ------
    ProtocolError, FormatVersionError
        As `zkapex.transport.wire.unpack`.
    """
    return unpack(content, kind, MAX_MESSAGE_BYTES)


def deliver(envelope: bytes) -> RecordDict:
    """A signed envelope as an answer."""
    return pack(Delivery(), {"envelope": envelope})


def fit_held(device: DeviceAgent, model: nn.Module, epochs: int, learning_rate: float, seed: int) -> int:
    """Train a model in place on data that are still there, keeping what requests have deleted, whatever the task does.

    Returns
    -------
    int
        The number of examples used.
    """
    zero, targets = device.held_zero(), device.memory.held_targets()
    used = device.present_task.fit_personal(model, epochs, learning_rate, seed, zero, targets)
    for holder in Held({name: mask.numpy() for name, mask in zero.items()}, targets).in_place(model):
        holder.hold()
    return used


def engine_for(manifest: ModelManifest, blobs: Mapping[str, bytes]) -> Engine:
    """What commits and proves under a manifest, with what is on this device or came with the message.

    Raises
    ------
    InputError
        Something is neither, or the manifest's backend is not installed here.
    ReceiptError
        The manifest is not what this release makes of its statement.
    """
    return backend(manifest.backend).open(manifest, blobs)
