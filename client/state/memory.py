"""What a device remembers: its model, what it enrolled under, and what the requests it has answered changed.

Everything is in files (`zkapex.client.state.vault`); what is asked for and is not there raises ProtocolError, a
damaged file StorageError.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from torch import nn

from zkapex.client.state.holdings import SALTS_FILE, SECRETS, Change, Holdings
from zkapex.client.state.vault import Vault
from zkapex.errors import ProtocolError, SignatureError, StorageError
from zkapex.proofs.chunk.demands import Along, Demands, require_kept
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.jobs.worker import forget_witness
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import Enrolment, ModelManifest, UnlearnRequest, UnlearnResponse
from zkapex.proofs.records.record import arrays_digest, sha256_hex
from zkapex.proofs.records.sealed import restore, unseal
from zkapex.transport.wire import unpack_arrays
from zkapex.unlearning.operators import Terms
from zkapex.unlearning.operators.held import Targets
from zkapex.unlearning.weights import load_weights

MODEL, MANIFEST, ENROLMENT, RESPONSE = "model.npz", "manifest.json", "enrolment.json", "response.json"
HELD, HELD_TARGETS, REVISION, THETA = "held-zero.npz", "held-targets.npz", "revision", "theta.json"
REQUEST, SETTLED, STAGED, RETRAINED = "request.json", "settled", "enrolling", "retrained"
GRACE = timedelta(minutes=10)
"""How much longer than a request lives its proof may be asked for: clocks differ."""


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

    def carried_out(self) -> tuple[str, ...]:
        """Ids of the requests this device has carried out, proved or not, in the order they were made."""
        found = [restore(UnlearnRequest, vault.get(REQUEST)).record for vault in self._begun()]
        return tuple(request.request_id for request in sorted(found, key=lambda one: (one.issued_at, one.request_id)))

    def start_from(self, request: UnlearnRequest) -> Holdings:
        """The holdings the request starts from: those enrolled, plus every change since; they are what is deployed.

        Raises
        ------
        ProtocolError
            The request starts from something else: it would bring back what was deleted, or undo what was learned.
        """
        manifest = self.manifest()
        vault, enrolled = self._vault.inner("requests", request.request_id), self._vault.inner("enrolment")
        if vault.has(RESPONSE):
            return Holdings.load(manifest, enrolled)
        for other in self._unsettled():
            if other.folder != vault.folder and other.has(RESPONSE):
                # A receipt that was lost, here or on its way, says no more than that the provider goes on from there.
                after = commitment_root(list(enumerate(self._theta_after(other))))
                if hmac.compare_digest(after, request.pre_root):
                    self.settle(other)
        begun = [other.folder.name for other in self._unsettled() if other.folder != vault.folder]
        if begun:
            raise ProtocolError(
                f"request {begun[0]} was carried out here and is not settled",
                why="this request starts from the weights before it, and would bring back what it removed",
                fix="deliver the receipt of that request, and enrol the device again",
            )
        if self.retrained:
            raise ProtocolError(
                "this device has changed its weights since it enrolled", fix="enrol it again, which it does by proof"
            )
        if request.enrolment_digest != sha256_hex(enrolled.get(ENROLMENT)):
            raise ProtocolError(
                "the request is for another enrolment than this device stands by", fix="enrol the device again"
            )
        if commitment_root(list(enumerate(self.theta()))) != request.pre_root:
            raise ProtocolError(
                "the request starts from commitments this device does not hold",
                why="an earlier request has not been settled by a receipt, or the server's registry is another one",
                fix="deliver the earlier receipt, or enrol the device again",
            )
        return Holdings.load(manifest, enrolled)

    def refuse_return(self, instance: Instance) -> None:
        """Return only if a request keeps, wherever it may change weights, the zeros and targets of earlier ones.

        Raises
        ------
        ProtocolError
            It does not.
        """
        require_kept(self.demands(instance.manifest), instance)

    def theta(self) -> list[str]:
        """The commitments (hex) to the weights held, by chunk: those enrolled, replaced by what requests made of them.

        What a request was interrupted at has no commitment: an empty string.
        """
        enrolled = self._vault.inner("enrolment")
        if not enrolled.has(THETA):
            return list(unseal(Enrolment, enrolled.get(ENROLMENT), [self._key.public_key()]).record.theta)
        try:
            return [str(point) for point in json.loads(enrolled.get(THETA))]
        except (ValueError, TypeError) as e:
            raise StorageError(f"{enrolled.folder / THETA} is damaged", fix="enrol the device again") from e

    def roots(self) -> list[str]:
        """The Merkle roots (hex) of the commitments to what is held, and to what each unsettled answer made of it.

        A device that was restored from a backup holds something else than its provider holds it to, and has to say so.
        """
        held = [self.theta(), *(self._theta_after(one) for one in self._unsettled() if one.has(RESPONSE))]
        return [commitment_root(list(enumerate(theta))) for theta in held]

    def settled(self, vault: Vault) -> bool:
        """Whether a request is over here: what it made of the weights is all there is of them."""
        return vault.has(SETTLED)

    def confirm(self, vault: Vault, post_root: str | None) -> None:
        """Return only if what the device holds after a request is what a receipt says was proved."""
        if not self.settled(vault) and commitment_root(list(enumerate(self._theta_after(vault)))) != post_root:
            raise ProtocolError("the receipt is for other weights than this device holds", fix="enrol the device again")

    def settle(self, vault: Vault) -> None:
        """Make what a request made of the weights what the device stands by, and forget the weights before.

        Whether it was proved or not: the result is deployed, and what was deleted does not come back.
        """
        if self.settled(vault):
            return
        enrolled = self._vault.inner("enrolment")
        if vault.has(SECRETS):
            manifest = self.manifest()
            theta = self._theta_after(vault)
            after = Change.load(vault).apply(Holdings.load(manifest, enrolled))
            if not vault.has(RESPONSE):  # it was interrupted, perhaps before the result was deployed
                request = restore(UnlearnRequest, vault.get(REQUEST)).record
                model = self.load_model()
                load_weights(model, manifest, after.weights)
                self.hold(Instance(manifest, request))
                self.save_model(model)
            # In this order: interrupted in between, the device takes no new request before it has settled this again.
            after.save(enrolled)
            enrolled.put(THETA, json.dumps(theta).encode())
        for folder in (vault.folder / "jobs").glob("*"):
            forget_witness(folder)
        vault.put(SETTLED, b"")
        for name in (SECRETS, SALTS_FILE):
            vault.drop(name)

    def settle_all(self) -> None:
        """Settle every request that was begun: the provider goes on from what is deployed."""
        for vault in self._unsettled():
            self.settle(vault)

    def expire(self, now: datetime) -> None:
        """Settle the requests whose time is over: no proof of them will be taken any more."""
        for vault in self._unsettled():
            if now >= restore(UnlearnRequest, vault.get(REQUEST)).record.expires_at + GRACE:
                self.settle(vault)

    def _unsettled(self) -> list[Vault]:
        return [vault for vault in self._begun() if not vault.has(SETTLED)]

    def _begun(self) -> list[Vault]:
        """Of every request this device has begun to carry out."""
        paths = sorted((self._vault.folder / "requests").glob(f"*/{REQUEST}"))
        return [self._vault.inner("requests", path.parent.name) for path in paths]

    def _theta_after(self, vault: Vault) -> list[str]:
        """The commitments (hex) to all chunks after a request; empty ones where an interrupted one made none yet."""
        theta = self.theta()
        if not vault.has(RESPONSE):
            manifest = self.manifest()
            for chunk in Instance(manifest, restore(UnlearnRequest, vault.get(REQUEST)).record).touched:
                theta[chunk] = ""
            return theta
        response = unseal(UnlearnResponse, vault.get(RESPONSE), [self._key.public_key()]).record
        for commitment in response.commitments:
            theta[commitment.chunk] = commitment.theta
        return theta

    @property
    def retrained(self) -> bool:
        """Whether the deployed weights were changed otherwise than by a request since the device enrolled.

        What is kept names the enrolment since when: a device that is killed right after it has put another one in its
        place has enrolled what it deployed.
        """
        if not self._vault.has(RETRAINED):
            return False
        since, enrolled = self._vault.get(RETRAINED).decode(), self._vault.inner("enrolment")
        if not since or not enrolled.has(ENROLMENT):  # an earlier release kept nothing but that it was so
            return True
        return since == sha256_hex(enrolled.get(ENROLMENT))

    def retrain(self, model: nn.Module) -> None:
        """Deploy weights that were learned; requests that were begun are over with that."""
        enrolled = self._vault.inner("enrolment")
        if enrolled.has(ENROLMENT):
            self.settle_all()
            self._vault.put(RETRAINED, sha256_hex(enrolled.get(ENROLMENT)).encode())
        self.save_model(model)

    def staging(self) -> Vault:
        """Where a new enrolment is put together; empty."""
        vault = self._vault.inner(STAGED)
        vault.clear()
        return vault

    def adopt(self) -> None:
        """Let the enrolment that was put together take the place of the one before."""
        staged, enrolled = self._vault.inner(STAGED), self._vault.inner("enrolment")
        try:
            enrolled.clear()
            staged.folder.rename(enrolled.folder)
        except OSError as e:
            raise StorageError(f"cannot replace {enrolled.folder}", why=str(e), fix="check the device's folder") from e
        self._vault.drop(RETRAINED)

    def recover(self) -> None:
        """Finish what an earlier process was killed at."""
        staged = self._vault.inner(STAGED)
        if staged.has(ENROLMENT):  # written last
            self.adopt()
        elif staged.folder.exists():
            staged.clear()

    def hold(self, instance: Instance) -> None:
        """Keep from now on what a request deletes: what it makes zero, and what it prescribes along directions."""
        manifest = instance.manifest
        demands = self.demands(manifest).joined(Demands.of(manifest, [instance.request]))
        self._vault.put_arrays(HELD, dict(demands.zeros))
        exponents = {layer.name: layer.exponent for layer in manifest.layers}
        targets = Terms.demanded(manifest, demands).held(exponents).targets
        if targets:
            each = [(f"{one.start}/{name}", one) for name, blocks in targets.items() for one in blocks]
            arrays = {f"values/{key}": one.values for key, one in each}
            arrays |= {f"directions/{key}": one.directions for key, one in each}
            self._vault.put_arrays(HELD_TARGETS, arrays)

    def demands(self, manifest: ModelManifest) -> Demands:
        """What the requests this device has answered demand for good, in a manifest's integers."""
        zeros = {name: mask.numpy() for name, mask in self.held_zero().items()}
        along = {}
        exponents, width = {layer.name: layer.exponent for layer in manifest.layers}, manifest.block_width
        for name, blocks in self.held_targets().items():
            for one in blocks if name in exponents else ():
                directions = np.zeros((width, one.directions.shape[1]), np.int64)
                directions[: len(one.directions)] = np.rint(one.directions)
                targets = np.rint(one.values * 2.0 ** exponents[name]).astype(np.int64)
                along[name, one.start // width] = Along(directions, targets)
        return Demands(zeros, along)

    def held_zero(self) -> dict[str, torch.Tensor]:
        """What the requests this device has answered made zero: what was deleted must not be learned again."""
        if not self._vault.has(HELD):
            return {}
        return {n: torch.from_numpy(mask.astype(np.bool_)) for n, mask in self._vault.get_arrays(HELD).items()}

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
