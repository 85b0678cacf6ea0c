"""The device's side of the protocol: answers each message, keeps its state on disk, trusts nothing it is sent.

Every answer may be asked for again after a crash on either side: a step that was done is answered from disk.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import nn

from zkapex.circuits.halo2.srs import find_srs, import_srs
from zkapex.circuits.halo2.store import Circuit
from zkapex.circuits.operators import declared
from zkapex.client.agent.attest import curvature_from, drawn_activations, encode_for_proof, prove_enrolment
from zkapex.client.agent.proposal import Planner, propose
from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.memory import ENROLMENT, MANIFEST, RESPONSE, Memory
from zkapex.client.state.salts import SaltLedger, opened_by
from zkapex.client.state.trust import Trust
from zkapex.client.state.vault import Vault
from zkapex.client.task import Task, tallies
from zkapex.errors import InputError, ProtocolError, ProverError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import BoolArray, IntArray
from zkapex.proofs.chunk.second_moment import same_commitments
from zkapex.proofs.chunk.verifier import check_circuit_of, circuit_of
from zkapex.proofs.jobs.pool import prove_all
from zkapex.proofs.jobs.worker import finished, forget_witness, write_job
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    ChunkCommitment,
    ChunkProof,
    CurvatureProof,
    Delivery,
    Enrolment,
    EnrolRequest,
    EvaluateReply,
    EvaluateRequest,
    ModelManifest,
    PersonaliseReply,
    PersonaliseRequest,
    Proposal,
    ProposeRequest,
    ProveRequest,
    ProveResponse,
    Score,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.receipts.receipt import open_receipt
from zkapex.proofs.records.sealed import seal, unseal
from zkapex.proofs.records.signing import (
    CHALLENGE_BYTES,
    CHALLENGE_TYPE,
    key_id,
    load_or_create_private_key,
    public_key_hex,
    sign,
)
from zkapex.transport.wire import pack, unpack
from zkapex.unlearning.accelerator import CPU, torch_device
from zkapex.unlearning.boundary import check_model, check_state
from zkapex.unlearning.curvature.activations import EncodedActivations
from zkapex.unlearning.curvature.factor import CurvatureEncoding, EncodedCurvature, curvature_of
from zkapex.unlearning.operators import Terms, operator
from zkapex.unlearning.weights import encode_weights, load_weights

MAX_MESSAGE_BYTES = 256 * 2**20
REQUEST, RECEIPT, SCORES = "request.json", "receipt.json", "scores.json"


def utc_now() -> datetime:
    """The clock, as it is unless a test injects another."""
    return datetime.now(UTC)


def zeroed(instance: Instance) -> dict[str, BoolArray]:
    """The weights, bool [rows, cols] per masked layer, that a request makes zero whatever they were."""
    if not declared(instance.request.operator).zeroes:
        return {}
    return {
        n: mask & (instance.dampening[n] == 0) if instance.dampening else mask for n, mask in instance.masks.items()
    }


class DeviceAgent:
    """Carries out the protocol for one device.

    Parameters
    ----------
    folder : Path
        The device's state; created when missing.
    task : Task
        Model and private data.
    workers : int, optional
        Proving processes; default one per core.
    clock : callable
        Returns the time, timezone-aware UTC.
    planner : Planner, optional
        Chooses the mask if this device holds what is to be forgotten; without one it cannot be asked to.
    device : str
        What the repair is solved on, as torch names it: ``cpu``, ``cuda``, ``cuda:1``.

    Raises
    ------
    InputError
        This machine has no such device.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        workers: int | None = None,
        clock: Callable[[], datetime] = utc_now,
        planner: Planner | None = None,
        device: str = CPU,
    ) -> None:
        torch_device(device)
        self._vault = Vault(folder)
        self._vault.create()
        self._task = task
        self._workers = workers
        self._clock = clock
        self._planner = planner
        self._device = device
        self._key = load_or_create_private_key(folder / "key.pem")
        self.client_id = key_id(self._key.public_key())
        self._memory = Memory(self._vault, self._key, task.build_model)
        self._trust = Trust(self._vault)

    # -- messages ---------------------------------------------------------------------------------------------------

    def train(self, content: RecordDict) -> RecordDict:
        """One round of federated training, as FedAvg sends and expects it."""
        model = self._task.build_model()
        arrays, config = content.get("arrays"), content.get("config")
        number = config.get("server-round", 1) if isinstance(config, ConfigRecord) else None
        if not isinstance(arrays, ArrayRecord) or not isinstance(number, int):
            raise ProtocolError("a training message carries no weights, or no configuration")
        try:
            model.load_state_dict(arrays.to_torch_state_dict())
        except (RuntimeError, ValueError, TypeError) as e:
            raise ProtocolError("the global model does not fit this device's model", why=str(e)[:500]) from e
        check_state(model)
        used = self._task.fit_round(model, number)
        return RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": used})})

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        """Carry out one step; see the method of the same name.

        Raises
        ------
        ProtocolError
            There is no such step.
        """
        steps: dict[str, Callable[[RecordDict], RecordDict]] = {
            "personalise": self.personalise,
            "enrol": self.enrol,
            "propose": self.propose,
            "unlearn": self.unlearn,
            "prove": self.prove,
            "evaluate": self.evaluate,
            "identify": self.identify,
            "receipt": self.receipt,
        }
        if query not in steps:
            raise ProtocolError(f"this release knows no step {query!r}", fix="update the device")
        return steps[query](content)

    def identify(self, content: RecordDict) -> RecordDict:
        """The signed enrolment this device stands by, for a provider that starts a new run, and its challenge signed.

        Enrolments travel with receipts, so showing one proves nothing; the signature does. Empty if there is none yet.
        """
        _, blobs = unpack(content, Delivery, MAX_MESSAGE_BYTES)
        vault = self._vault.inner("enrolment")
        if not vault.has(ENROLMENT):
            return pack(Delivery())
        challenge = blobs.get("challenge", b"")
        if len(challenge) != CHALLENGE_BYTES:
            raise ProtocolError(f"a challenge of {len(challenge)} bytes came, not of {CHALLENGE_BYTES}")
        answer = sign(challenge, CHALLENGE_TYPE, self._key).to_bytes()
        return pack(Delivery(), {"envelope": vault.get(ENROLMENT), "challenge": answer})

    def personalise(self, content: RecordDict) -> RecordDict:
        """Fine-tune the global model on private data, and keep the result."""
        _, blobs = unpack(content, Delivery, MAX_MESSAGE_BYTES)
        request = self._trust.introduced(PersonaliseRequest, blobs)
        answered = self._vault.inner("answered")
        if answered.has(f"personalise-{request.nonce}"):
            return pack(PersonaliseReply.from_bytes(answered.get(f"personalise-{request.nonce}")))
        model = self._memory.sent_model(content, request.weights_digest)
        check_state(model)
        start = self._clock()
        before = tallies(self._task, model).get("personal")
        zero, targets = self._held_zero(), self._memory.held_targets()
        used = self._task.fit_personal(model, request.epochs, request.learning_rate, request.seed, zero, targets)
        after = tallies(self._task, model).get("personal")
        self._memory.save_model(model)
        reply = PersonaliseReply(
            client_id=self.client_id,
            examples=used,
            accuracy_before=before.share if before else None,
            accuracy_after=after.share if after else None,
            wall_s=(self._clock() - start).total_seconds(),
        )
        self._trust.pin(request.server_key)
        answered.put(f"personalise-{request.nonce}", reply.to_bytes())
        return pack(reply)

    def enrol(self, content: RecordDict) -> RecordDict:
        """Commit to the personalised weights and their curvature, and sign the commitments."""
        _, blobs = unpack(content, Delivery, MAX_MESSAGE_BYTES)
        request = self._trust.introduced(EnrolRequest, blobs)
        vault = self._vault.inner("enrolment")
        if vault.has(ENROLMENT):
            kept = vault.get(ENROLMENT)
            if unseal(Enrolment, kept, [self._key.public_key()]).record.nonce == request.nonce:
                return self._deliver(kept)
        if self._vault.inner("answered").has(f"enrol-{request.nonce}"):
            raise ProtocolError("this request to enrol was answered before, and an enrolment since has replaced that")
        manifest = request.manifest
        circuit = self._circuit(manifest, blobs)
        model = self._memory.load_model()
        self._check(model, manifest)
        weights = encode_weights(model, manifest)
        load_weights(model, manifest, weights)  # curvature of the model that is committed to, and will run
        check_circuit = check_circuit_of(manifest, circuit.srs)
        encoded: tuple[EncodedActivations, ...] = ()
        if check_circuit is None:
            curvature = self._curvature(model, manifest)
        else:
            same_commitments(check_circuit, circuit)
            activations = drawn_activations(model, manifest, self._task.curvature_inputs(), request.nonce)
            curvature = curvature_from(activations, manifest)
            encoded = encode_for_proof(activations, curvature, manifest)
        holdings = Holdings.create(
            manifest,
            weights,
            {name: np.stack([block.factor for block in blocks]) for name, blocks in curvature.items()},
        )
        revision = self._memory.next_revision(vault)
        self._trust.pin(request.server_key)
        vault.clear()
        self._vault.inner("requests").clear()
        ledger = SaltLedger(self._vault)
        ledger.clear()  # fresh salts follow
        holdings.save(vault)
        vault.put(MANIFEST, manifest.to_bytes())
        proofs: tuple[CurvatureProof, ...] = ()
        if check_circuit is not None:
            proofs = tuple(prove_enrolment(check_circuit, holdings, encoded, self.client_id, request.nonce, ledger))
        enrolment = Enrolment(
            federation=request.federation,
            client_id=self.client_id,
            public_key=public_key_hex(self._key.public_key()),
            manifest_digest=manifest.digest(),
            nonce=request.nonce,
            revision=revision,
            damping=max((block.damping for blocks in curvature.values() for block in blocks), default=0.0),
            theta=tuple(point for _, point in holdings.theta_commitments(circuit, range(manifest.n_chunks))),
            curvature=holdings.curvature_commitments(circuit),
            curvature_proofs=proofs,
        )
        envelope = seal(enrolment, self._key).envelope
        self._memory.save_model(model)
        vault.put(ENROLMENT, envelope)
        return self._deliver(envelope)

    def propose(self, content: RecordDict) -> RecordDict:
        """Choose mask and guard for what this device holds and is to be forgotten; the data stay here."""
        _, blobs = unpack(content, Delivery, MAX_MESSAGE_BYTES)
        request = unseal(ProposeRequest, blobs.get("envelope", b""), [self._trust.key()]).record
        if request.client_id != self.client_id:
            raise ProtocolError("a proposal is asked of another client", why=f"it names {request.client_id[:16]}...")
        kept = self._vault.inner("proposals")
        if kept.has(request.nonce):
            return self._deliver(unseal(Proposal, kept.get(request.nonce), [self._key.public_key()]).envelope)
        manifest = self._memory.manifest()
        if request.manifest_digest != manifest.digest():
            raise ProtocolError("a proposal is asked for under another manifest than this device enrolled under")
        model = self._memory.sent_model(content, request.weights_digest)
        proposal = propose(request, manifest, model, self._memory.load_model(), self._task, self._planner)
        envelope = seal(proposal, self._key).envelope
        kept.put(request.nonce, envelope)
        return self._deliver(envelope)

    def unlearn(self, content: RecordDict) -> RecordDict:
        """Apply the operator to the committed weights, deploy the result, and commit to it."""
        _, blobs = unpack(content, Delivery, MAX_MESSAGE_BYTES)
        sealed = unseal(UnlearnRequest, blobs.get("envelope", b""), [self._trust.key()])
        request = sealed.record
        if request.client_id != self.client_id:
            raise ProtocolError("the request is for another client", why=f"it names {request.client_id[:16]}...")
        vault = self._vault.inner("requests", request.request_id)
        if vault.has(RESPONSE):
            if not hmac.compare_digest(vault.get(REQUEST), sealed.envelope):
                raise ProtocolError(f"request {request.request_id} was answered before and is different now")
            return self._deliver(vault.get(RESPONSE))
        if self._clock() >= request.expires_at:
            raise ProtocolError(f"request {request.request_id} expired at {request.expires_at:%Y-%m-%d %H:%M} UTC")
        manifest = self._memory.manifest()
        if request.manifest_digest != manifest.digest():
            raise ProtocolError("the request is for another manifest than this device enrolled under")
        circuit = self._circuit(manifest, {})
        holdings = self._memory.start_from(request)
        instance = Instance(manifest, request)
        change = self._change(holdings, instance, request.operator)
        after = change.apply(holdings)
        change.save(vault)
        vault.put(REQUEST, sealed.envelope)
        commitments = tuple(
            ChunkCommitment(chunk=chunk, theta=theta)
            for chunk, theta in after.theta_commitments(circuit, instance.touched)
        )
        response = UnlearnResponse(
            request_id=request.request_id,
            client_id=self.client_id,
            nonce=request.nonce,
            commitments=commitments,
            root=commitment_root([(c.chunk, c.theta) for c in commitments]),
        )
        model = self._memory.load_model()
        load_weights(model, manifest, after.weights)
        self._memory.save_model(model)  # deletion takes effect now, whatever becomes of the proof
        self._memory.hold_zero(zeroed(instance))
        self._memory.hold_targets(Terms.of(instance).held({s.name: s.exponent for s in manifest.layers}).targets)
        envelope = seal(response, self._key).envelope
        vault.put(RESPONSE, envelope)
        return self._deliver(envelope)

    def prove(self, content: RecordDict) -> RecordDict:
        """Prove the chunks that are asked for; finished ones are answered from disk."""
        request, _ = unpack(content, ProveRequest, MAX_MESSAGE_BYTES)
        if request.client_id != self.client_id:
            raise ProtocolError("proofs are asked of another client", why=f"it names {request.client_id[:16]}...")
        vault = self._memory.answered(request.request_id)
        sealed = unseal(UnlearnRequest, vault.get(REQUEST), [self._trust.key()])
        instance = Instance(self._memory.manifest(), sealed.record)
        strange = sorted(set(request.chunks) - set(instance.touched))
        if strange:
            raise ProtocolError(f"chunk {strange[0]} is not touched by request {request.request_id}")
        circuit = self._circuit(self._memory.manifest(), {})
        folders = {chunk: vault.folder / "jobs" / str(chunk) for chunk in request.chunks}
        waiting = [chunk for chunk, folder in folders.items() if finished(folder) is None]
        if waiting:
            holdings, change = self._memory.start_from(sealed.record), Change.load(vault)
            self._prove_chunks(circuit, instance, holdings, change, {chunk: folders[chunk] for chunk in waiting})
        proofs = []
        for chunk, folder in folders.items():
            done = finished(folder)
            if done is None:
                raise ProverError(f"the proof of chunk {chunk} is not where the worker left it")
            forget_witness(folder)  # of a worker that was killed just before it could
            proof, cost = done
            proofs.append(ChunkProof(chunk=chunk, proof=proof, prove_cpu_s=cost.cpu_s, peak_rss_mb=cost.peak_rss_mb))
        return pack(ProveResponse(request_id=request.request_id, client_id=self.client_id, proofs=tuple(proofs)))

    def evaluate(self, content: RecordDict) -> RecordDict:
        """Tally the model before a request, with its mask alone, and after it; the tallies outlive the first two."""
        request, _ = unpack(content, EvaluateRequest, MAX_MESSAGE_BYTES)
        vault = self._memory.answered(request.request_id)
        if vault.has(SCORES):
            kept = EvaluateReply.from_bytes(vault.get(SCORES))
            if {score.model for score in kept.scores} >= set(request.models):
                scores = [score for score in kept.scores if score.model in request.models]
                return pack(kept.model_copy(update={"scores": tuple(scores)}))
        if vault.has(RECEIPT) and open_receipt(vault.get(RECEIPT), [self._trust.key()]).outcome.verdict == "proved":
            raise ProtocolError(f"request {request.request_id} is settled", why="the weights before it are gone")
        manifest = self._memory.manifest()
        model = self._memory.load_model()
        sealed = unseal(UnlearnRequest, vault.get(REQUEST), [self._trust.key()])
        before = self._memory.start_from(sealed.record).weights
        masks = Instance(manifest, sealed.record).masks
        states: dict[str, Callable[[], Mapping[str, IntArray]]] = {
            "before": lambda: before,
            "masked": lambda: {n: np.where(masks[n], 0, w) if n in masks else w for n, w in before.items()},
            "after": lambda: Change.load(vault).weights,
        }
        scores = []
        for name in request.models:
            load_weights(model, manifest, states[name]())
            for data, tally in tallies(self._task, model).items():
                scores.append(Score.model_validate({"model": name, "data": data, **vars(tally)}))
        reply = EvaluateReply(client_id=self.client_id, request_id=request.request_id, scores=tuple(scores))
        vault.put(SCORES, reply.to_bytes())
        return pack(reply)

    def receipt(self, content: RecordDict) -> RecordDict:
        """Keep the receipt of a request; once it says `proved`, the weights before the request are forgotten."""
        _, blobs = unpack(content, Delivery, MAX_MESSAGE_BYTES)
        receipt = open_receipt(blobs.get("envelope", b""), [self._trust.key()])
        if receipt.facts.client_id != self.client_id:
            raise ProtocolError("the receipt is another client's")
        vault = self._memory.answered(receipt.facts.request_id)
        if not vault.has(RECEIPT) and receipt.outcome.verdict == "proved":
            self._memory.settle(vault, receipt.facts.post_root)
        vault.put(RECEIPT, receipt.envelope)
        return self._deliver(receipt.envelope)

    # -- steps a misbehaving device would take differently; the simulation's adversaries override them ---------------

    def _held_zero(self) -> dict[str, torch.Tensor]:
        """What personalisation leaves at zero."""
        return self._memory.held_zero()

    def _change(self, holdings: Holdings, instance: Instance, name: str) -> Change:
        """The exact operator on the committed weights."""
        weights, mu = operator(name, self._device).apply(holdings, instance)
        return Change.create(weights, mu, instance.touched)

    def _prove_chunks(
        self, circuit: Circuit, instance: Instance, holdings: Holdings, change: Change, folders: Mapping[int, Path]
    ) -> None:
        """Leave a proof in the folder of every chunk."""
        ledger = SaltLedger(self._vault)
        opened = {folder: opened_by(holdings, change, chunk) for chunk, folder in folders.items()}
        ledger.require(opened.values())
        for chunk, folder in folders.items():
            Vault(folder).create()
            write_job(folder, instance.public(chunk), change.witness(holdings, chunk))
        prove_all(circuit, list(folders.values()), self._workers, on_start=lambda folder: ledger.spend(opened[folder]))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _check(self, model: nn.Module, manifest: ModelManifest) -> None:
        inputs = None if manifest.statement.curvature == "none" else self._task.curvature_inputs()
        check_model(model, [layer.name for layer in manifest.layers], manifest.weight_limit, inputs)

    def _curvature(self, model: nn.Module, manifest: ModelManifest) -> dict[str, tuple[EncodedCurvature, ...]]:
        if manifest.statement.curvature == "none":
            return {}
        encoding = CurvatureEncoding.of(manifest.statement, manifest.curvature_bits)
        return curvature_of(model, [layer.name for layer in manifest.layers], self._task.curvature_inputs(), encoding)

    def _circuit(self, manifest: ModelManifest, blobs: Mapping[str, bytes]) -> Circuit:
        srs = find_srs(manifest.srs_digest, manifest.srs_origin)
        if srs is None:
            if "srs" not in blobs:
                raise InputError("the reference string of the circuit is not on this device", fix="enrol it again")
            srs = import_srs(blobs["srs"], manifest.srs_digest, manifest.statement.log2_rows, manifest.srs_origin)
        return circuit_of(manifest, srs)

    def _deliver(self, envelope: bytes) -> RecordDict:
        return pack(Delivery(), {"envelope": envelope})
