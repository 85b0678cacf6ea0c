"""One device taken out of a federation, and messages of the provider that belongs to it, or of somebody else."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import REQUEST, Federation, SmallTask, perceptron, refused, snapshot
from flwr.app import RecordDict

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.vault import Vault
from zkapex.errors import Error
from zkapex.proofs.messages import (
    Delivery,
    Demand,
    EnrolRequest,
    EvaluateRequest,
    ModelManifest,
    PersonaliseRequest,
    ProveRequest,
)
from zkapex.proofs.records.record import Record, arrays_digest
from zkapex.proofs.records.sealed import seal
from zkapex.proofs.records.signing import load_private_key, public_key_hex
from zkapex.transport.wire import pack, pack_arrays

LIMIT = 2**26
STRANGER = Ed25519PrivateKey.generate()
STATE = {name: value.numpy() for name, value in perceptron().state_dict().items()}


class Bench:
    """A device of its own, copied from a federation's, and the provider that belongs to it."""

    def __init__(self, federation: Federation, folder: Path) -> None:
        self.folder = folder / "device"
        shutil.copytree(federation.state(0), self.folder)
        self.task = SmallTask(0, epochs=1)
        self.agent = DeviceAgent(self.folder, self.task, workers=1)
        self.key = load_private_key(federation.folder / "provider" / "key.pem")
        with federation.registry() as registry:
            found = registry.request(self.agent.client_id, REQUEST)
        assert found is not None
        self.request = found.sealed.record
        self.manifest = ModelManifest.from_bytes((self.folder / "enrolment" / "manifest.json").read_bytes())

    def ask(self, key: Ed25519PrivateKey | None = None, **changes: Any) -> RecordDict:
        """The signed request, or one changed before it is signed."""
        record = self.request.model_copy(update=changes)
        return pack(Delivery(), {"envelope": seal(record, key or self.key).envelope})

    def enrol(
        self,
        nonce: str = "ab" * 32,
        key: Ed25519PrivateKey | None = None,
        demand: Demand | None = None,
        **changes: Any,
    ) -> RecordDict:
        manifest = self.manifest.model_copy(update=changes)
        server_key = public_key_hex((key or self.key).public_key())
        request = EnrolRequest(federation="small", manifest=manifest, nonce=nonce, server_key=server_key, demand=demand)
        return self.signed(request, key)

    def signed(self, record: Record, key: Ed25519PrivateKey | None = None) -> RecordDict:
        return pack(Delivery(), {"envelope": seal(record, key or self.key).envelope})

    def prove(self, *chunks: int, **changes: Any) -> RecordDict:
        fields = {"request_id": REQUEST, "client_id": self.agent.client_id, "chunks": chunks, **changes}
        return pack(ProveRequest(**fields))

    def evaluate(self, **changes: Any) -> RecordDict:
        return pack(EvaluateRequest(**{"request_id": REQUEST, "models": ("before", "masked", "after"), **changes}))

    def to_personalise(
        self, arrays: Mapping[str, np.ndarray], key: Ed25519PrivateKey | None = None, **changes: Any
    ) -> PersonaliseRequest:
        fields = {
            "federation": "small",
            "epochs": 1,
            "learning_rate": 1e-3,
            "seed": 0,
            "weights_digest": arrays_digest(arrays),
            "nonce": secrets.token_hex(32),
            "server_key": public_key_hex((key or self.key).public_key()),
        }
        return PersonaliseRequest(**fields | changes)

    def personalise(
        self,
        learning_rate: float = 1e-3,
        key: Ed25519PrivateKey | None = None,
        nonce: str | None = None,
        **arrays: np.ndarray,
    ) -> RecordDict:
        state = STATE | arrays
        changes = {"learning_rate": learning_rate} | ({"nonce": nonce} if nonce else {})
        return pack_arrays(state, self.signed(self.to_personalise(state, key, **changes), key))

    def refuses(self, step: str, content: RecordDict, kind: type[Error]) -> Error:
        """The error a step ends with; nothing on the device may have changed."""
        before = snapshot(self.folder)
        error = refused(lambda: self.agent.answer(step, content), kind)
        assert snapshot(self.folder) == before
        return error

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Committed weights as they are enrolled now."""
        return dict(Holdings.load(self.manifest, Vault(self.folder / "enrolment")).weights)
