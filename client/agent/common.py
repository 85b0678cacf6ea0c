"""What the steps of the protocol have in common on a device: opening messages, answering, and the circuit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from flwr.app import RecordDict

from zkapex.circuits.halo2.srs import find_srs, import_srs
from zkapex.circuits.halo2.store import Circuit
from zkapex.errors import InputError
from zkapex.proofs.chunk.verifier import circuit_of
from zkapex.proofs.messages import Delivery, ModelManifest
from zkapex.proofs.records.record import Record
from zkapex.transport.wire import pack, unpack

MAX_MESSAGE_BYTES = 256 * 2**20
RECEIPT, SCORES = "receipt.json", "scores.json"
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


def circuit_for(manifest: ModelManifest, blobs: Mapping[str, bytes]) -> Circuit:
    """The manifest's circuit, with a reference string that is on this device or came with the message.

    Raises
    ------
    InputError
        It is neither.
    """
    srs = find_srs(manifest.srs_digest, manifest.srs_origin)
    if srs is None:
        if "srs" not in blobs:
            raise InputError("the reference string of the circuit is not on this device", fix="enrol it again")
        srs = import_srs(blobs["srs"], manifest.srs_digest, manifest.statement.log2_rows, manifest.srs_origin)
    return circuit_of(manifest, srs)
