"""What a device remembers: its model, what it enrolled under, and what the requests it has answered changed.

Everything is in files (`zkapex.client.state.vault`); what is asked for and is not there raises ProtocolError, a
damaged file StorageError.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from torch import nn

from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.vault import Vault
from zkapex.errors import ProtocolError, SignatureError, StorageError
from zkapex.proofs.chunk.public import BoolArray
from zkapex.proofs.jobs.worker import forget_witness
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import Enrolment, ModelManifest, UnlearnRequest, UnlearnResponse
from zkapex.proofs.records.record import arrays_digest
from zkapex.proofs.records.sealed import unseal
from zkapex.transport.wire import unpack_arrays
from zkapex.unlearning.operators.held import HeldTargets, Targets

MODEL, MANIFEST, ENROLMENT, RESPONSE = "model.npz", "manifest.json", "enrolment.json", "response.json"
HELD, HELD_TARGETS, REVISION, THETA = "held-zero.npz", "held-targets.npz", "revision", "theta.json"


class Memory:
    """A device's memory.

    Parameters
    ----------
    vault : Vault
        The device's folder.
    key : Ed25519PrivateKey
        The device's own; what it kept is under its own signature.
    build_model : callable
        Makes a model of the device's architecture.
    """

    def __init__(self, vault: Vault, key: Ed25519PrivateKey, build_model: Callable[[], nn.Module]) -> None:
        self._vault = vault
        self._key = key
        self._build_model = build_model

    def answered(self, request_id: str) -> Vault:
        """What is kept about a request this device has answered."""
        vault = self._vault.inner("requests", request_id)
        if not vault.has(RESPONSE):
            raise ProtocolError(f"this device has not answered request {request_id} yet")
        return vault

    def start_from(self, request: UnlearnRequest) -> Holdings:
        """The holdings the request starts from: those enrolled, plus every change a receipt has settled."""
        manifest = self.manifest()
        vault, enrolled = self._vault.inner("requests", request.request_id), self._vault.inner("enrolment")
        if not vault.has(RESPONSE) and commitment_root(list(enumerate(self._theta(enrolled)))) != request.pre_root:
            raise ProtocolError(
                "the request starts from commitments this device does not hold",
                why="an earlier request has not been settled by a receipt, or the server's registry is another one",
                fix="deliver the earlier receipt, or enrol the device again",
            )
        return Holdings.load(manifest, enrolled)

    def _theta(self, enrolled: Vault) -> list[str]:
        """The commitments (hex) to the weights held, by chunk: those enrolled, replaced by what receipts settled."""
        if not enrolled.has(THETA):
            return list(unseal(Enrolment, enrolled.get(ENROLMENT), [self._key.public_key()]).record.theta)
        try:
            return [str(point) for point in json.loads(enrolled.get(THETA))]
        except (ValueError, TypeError) as e:
            raise StorageError(f"{enrolled.folder / THETA} is damaged", fix="enrol the device again") from e

    def settle(self, vault: Vault, post_root: str | None) -> None:
        """Make the change that a receipt confirmed the state the next request starts from."""
        enrolled = self._vault.inner("enrolment")
        theta = self._theta(enrolled)
        response = unseal(UnlearnResponse, vault.get(RESPONSE), [self._key.public_key()]).record
        for commitment in response.commitments:
            theta[commitment.chunk] = commitment.theta
        if commitment_root(list(enumerate(theta))) != post_root:
            raise ProtocolError("the receipt is for other weights than this device holds", fix="enrol the device again")
        after = Change.load(vault).apply(Holdings.load(self.manifest(), enrolled))
        # In this order: interrupted in between, the device takes no new request before it has settled this one again.
        after.save(enrolled)
        enrolled.put(THETA, json.dumps(theta).encode())
        for folder in (vault.folder / "jobs").glob("*"):
            forget_witness(folder)

    def held_zero(self) -> dict[str, torch.Tensor]:
        """What the requests this device has answered made zero: what was deleted must not be learned again."""
        if not self._vault.has(HELD):
            return {}
        return {n: torch.from_numpy(mask.astype(np.bool_)) for n, mask in self._vault.get_arrays(HELD).items()}

    def hold_zero(self, masks: Mapping[str, BoolArray]) -> None:
        """Add to what must stay zero."""
        held: dict[str, BoolArray] = {name: mask.numpy() for name, mask in self.held_zero().items()}
        for name, mask in masks.items():
            held[name] = held[name] | mask if name in held else mask
        self._vault.put_arrays(HELD, held)

    def held_targets(self) -> dict[str, tuple[Targets, ...]]:
        """What the requests this device has answered prescribed along directions, by layer."""
        if not self._vault.has(HELD_TARGETS):
            return {}
        arrays = self._vault.get_arrays(HELD_TARGETS)
        found: dict[str, tuple[Targets, ...]] = {}
        for key in sorted(name for name in arrays if name.startswith("values/")):
            _, start, name = key.split("/", 2)
            directions = arrays[f"directions/{start}/{name}"].astype(np.float64)
            one = Targets(int(start), directions, arrays[key].astype(np.float64))
            found[name] = (*found.get(name, ()), one)
        return found

    def hold_targets(self, targets: HeldTargets) -> None:
        """Add to what must stay along directions; a block that is prescribed for again keeps the later targets."""
        if not targets:
            return
        held = {(n, t.start): t for n, blocks in self.held_targets().items() for t in blocks}
        held |= {(n, t.start): t for n, blocks in targets.items() for t in blocks}
        arrays = {f"values/{start}/{name}": one.values for (name, start), one in held.items()}
        arrays |= {f"directions/{start}/{name}": one.directions for (name, start), one in held.items()}
        self._vault.put_arrays(HELD_TARGETS, arrays)

    def next_revision(self, vault: Vault) -> int:
        """The number of a new enrolment, kept before the old one is given up: the provider takes no number twice."""
        if vault.has(ENROLMENT):
            old = unseal(Enrolment, vault.get(ENROLMENT), [self._key.public_key()]).record
            self._vault.inner("answered").put(f"enrol-{old.nonce}", b"")
            self._vault.put(REVISION, str(old.revision + 1).encode())
        if not self._vault.has(REVISION):
            return 0
        try:
            return int(self._vault.get(REVISION))
        except ValueError as e:
            raise StorageError(f"{self._vault.folder / REVISION} is damaged", why=str(e)) from e

    def manifest(self) -> ModelManifest:
        """What this device enrolled under."""
        vault = self._vault.inner("enrolment")
        if not vault.has(MANIFEST):
            raise ProtocolError("this device has not enrolled yet")
        return ModelManifest.from_bytes(vault.get(MANIFEST))

    def sent_model(self, content: RecordDict, digest: str) -> nn.Module:
        """The global model that came with a signed request."""
        arrays = unpack_arrays(content)
        if not hmac.compare_digest(arrays_digest(arrays), digest):
            raise SignatureError("the global model is not the one the provider signed", why="its digest differs")
        if not all(np.isfinite(values).all() for values in arrays.values()):
            raise ProtocolError("the global model has weights that are no numbers")
        model = self._build_model()
        try:
            model.load_state_dict({name: torch.from_numpy(values) for name, values in arrays.items()})
        except RuntimeError as e:
            raise ProtocolError("the global model does not fit this device's model", why=str(e)[:500]) from e
        return model

    def save_model(self, model: nn.Module) -> None:
        """Keep the personalised model."""
        self._vault.put_arrays(MODEL, {name: value.numpy(force=True) for name, value in model.state_dict().items()})

    def load_model(self) -> nn.Module:
        """The personalised model."""
        if not self._vault.has(MODEL):
            raise ProtocolError("this device has no personalised model yet", fix="personalise before enrolling")
        model = self._build_model()
        try:
            model.load_state_dict({n: torch.from_numpy(v) for n, v in self._vault.get_arrays(MODEL).items()})
        except (RuntimeError, TypeError) as e:
            raise StorageError(f"{self._vault.folder / MODEL} is not of this device's model", why=str(e)[:500]) from e
        return model.eval()
