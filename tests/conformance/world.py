"""The small federation the conformance suite is about: keys, model, weights, requests; the same on every machine.

Two clients, a provider and a stranger, whose private keys follow from their names, so that every case can be signed
again. One layer of 40 x 32 and one of 8 x 40 weights; a request touches the first chunk, and the last, which is padded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tiny import guard, moments, srs

from zkapex.circuits.field import MODULUS
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.circuits.profiles import profile
from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.client.state.holdings import Change, Holdings
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import BoolArray, IntArray
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    Audit,
    ChunkCommitment,
    Enrolment,
    LayerSpec,
    ModelManifest,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.records.packing import pack_guards, pack_masks
from zkapex.proofs.records.signing import key_id, public_key_hex
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, encode
from zkapex.unlearning.operators import operator

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REQUEST = "forget-one"
UNGUARDED = 24
"""From this column on, the first layer's guard is zero: a change there is limited by stationarity alone."""

LAYERS = (
    LayerSpec(name="fc1", rows=40, cols=32, exponent=11),
    LayerSpec(name="fc2", rows=8, cols=40, exponent=11),
)


def private_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"zkapex conformance {name}".encode()).digest())


def client_id(name: str) -> str:
    return key_id(private_key(name).public_key())


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def generator(*parts: object) -> np.random.Generator:
    return np.random.default_rng(int(digest(*parts)[:16], 16))


def salts(name: str, count: int) -> tuple[int, ...]:
    """Salts that follow from a name: fit for a test and nothing else."""
    return tuple(int.from_bytes(hashlib.sha512(f"{name}/{i}".encode()).digest(), "big") % MODULUS for i in range(count))


def mask() -> dict[str, BoolArray]:
    """A few weights of the first and the last chunk."""
    fc1, fc2 = np.zeros((40, 32), np.bool_), np.zeros((8, 40), np.bool_)
    fc1[[2, 2, 7, 9], [3, 9, 0, 31]] = True
    fc2[[0, 5], [33, 39]] = True
    return {"fc1": fc1, "fc2": fc2}


@dataclass(frozen=True)
class World:
    """One statement, and all that is said about it.

    Attributes
    ----------
    name : str
        Of the case that is its honest receipt.
    spec : StatementSpec
    """

    name: str
    spec: StatementSpec

    @cached_property
    def circuit(self) -> Circuit:
        return circuit(self.spec, srs())

    @cached_property
    def manifest(self) -> ModelManifest:
        built = self.circuit
        return ModelManifest(
            model="conformance",
            profile="tiny",
            statement=built.spec,
            curvature_bits=KAPPA,
            layers=LAYERS,
            circuit_digest=built.vk_digest,
            settings_digest=built.settings_digest,
            srs_digest=built.srs.digest,
            srs_origin="local",
        )

    def guards(self) -> dict[tuple[str, int], np.ndarray[tuple[int, ...], np.dtype[np.int16]]]:
        rank = self.spec.guard_rank
        if not rank:
            return {}
        rng = generator("guards")
        padded = np.zeros((2, 32, rank), np.int16)
        padded[0, :UNGUARDED] = guard(rng, UNGUARDED, rank)
        padded[1, :8] = guard(rng, 8, rank)
        return {("fc1", 0): padded[0], ("fc2", 1): padded[1]}

    def steering(self) -> dict[tuple[str, int], np.ndarray[tuple[int, ...], np.dtype[np.int16]]]:
        """Some way along the guards, for every row of `mask` in their blocks."""
        rng = generator("steering")
        rows = {("fc1", 0): 3, ("fc2", 1): 2}
        return {key: rng.integers(-300, 301, (n, self.spec.guard_rank)).astype(np.int16) for key, n in rows.items()}

    def targets(self) -> dict[tuple[str, int], np.ndarray[tuple[int, ...], np.dtype[np.int16]]]:
        """What every row is to give along the guards."""
        rng = generator("targets")
        rows = {("fc1", 0): 40, ("fc2", 1): 8}
        return {key: rng.integers(-300, 301, (n, self.spec.guard_rank)).astype(np.int16) for key, n in rows.items()}

    def factors(self) -> dict[str, IntArray] | None:
        """Dampening factors of all weights, if the statement is about such."""
        if self.spec.kind != "dampening":
            return None
        rng = generator("factors")
        return {layer.name: rng.integers(0, FACTOR_UNIT, (layer.rows, layer.cols)) for layer in LAYERS}

    @cache  # noqa: B019 (worlds live as long as the process)
    def holdings(self, name: str) -> Holdings:
        """What a client has: half the range in weights, curvature of random inputs, salts that follow from its name."""
        rng = generator(name)
        largest = self.spec.weight_limit // 4
        weights = {k.name: rng.integers(-largest, largest + 1, (k.rows, k.cols)) for k in LAYERS}
        salted = {f"theta/{i}": salts(f"{name}/theta/{i}", 4) for i in range(self.manifest.n_chunks)}
        curvature: dict[str, IntArray] = {}
        if self.manifest.n_curvatures:
            curvature = {layer.name: self._curvature(rng, layer) for layer in LAYERS}
            each = self.spec.parts("factor")["salts"]
            numbers = range(self.manifest.n_curvatures)
            salted |= {f"curvature/{i}": salts(f"{name}/curvature/{i}", each) for i in numbers}
        return Holdings(self.manifest, weights, curvature, salted)

    def _curvature(self, rng: np.random.Generator, layer: LayerSpec) -> IntArray:
        width, blocks = self.spec.block_width, []
        for block in range(self.manifest.blocks(layer)):
            count = 1 if self.spec.curvature == "kfac" else layer.rows
            columns = min(width, layer.cols - block * width)
            found = np.stack([moments(rng, width) for _ in range(count)])
            factor = encode(found[0] if count == 1 else found, columns, CurvatureEncoding.of(self.spec)).factor
            blocks.append(factor)
        return np.stack(blocks)

    @cache  # noqa: B019 (likewise)
    def enrolment(self, name: str) -> Enrolment:
        held = self.holdings(name)
        return Enrolment(
            federation="conformance",
            client_id=client_id(name),
            public_key=public_key_hex(private_key(name).public_key()),
            manifest_digest=self.manifest.digest(),
            nonce=digest(name, "enrol"),
            revision=0,
            damping=0.05 if held.curvature else 0.0,
            theta=tuple(point for _, point in held.theta_commitments(self.circuit, range(self.manifest.n_chunks))),
            curvature=held.curvature_commitments(self.circuit),
        )

    def request(self, name: str, **changes: Any) -> UnlearnRequest:
        """The request to one client; `changes` replace fields."""
        spec = self.spec
        tau_s = tau_g = 0
        if spec.kind in ("guarded-group-obs", "targeted-group-obs"):
            tau_s, tau_g = tolerances(spec.rows_per_chunk, spec.block_width, spec.guard_rank, KAPPA, GUARD_BITS)
        fields: dict[str, object] = {
            "request_id": REQUEST,
            "client_id": client_id(name),
            "manifest_digest": self.manifest.digest(),
            "nonce": digest(name, "request"),
            "operator": spec.kind,
            "pre_root": commitment_root(list(enumerate(self.enrolment(name).theta))),
            "mask": pack_masks(self.manifest, mask(), self.factors()),
            "guards": pack_guards(self.manifest, self.guards(), self.targets() if spec.constrains_result else None),
            "tau_s": tau_s,
            "tau_g": tau_g,
            "audit": Audit(),
            "forget_digest": digest("forget"),
            "issued_at": NOW,
            "expires_at": NOW + timedelta(hours=1),
        }
        return UnlearnRequest.model_validate(fields | changes)

    def work(self, name: str, **changes: Any) -> Work:
        """What a client that follows the request does."""
        instance = Instance(self.manifest, self.request(name, **changes))
        held = self.holdings(name)
        weights, mu = operator(self.spec.kind).apply(held, instance)
        salted = {f"theta/{i}": salts(f"{name}/{REQUEST}/{i}", 4) for i in instance.touched}
        return Work(self.circuit, instance, held, Change(weights, mu, salted))


@dataclass(frozen=True)
class Work:
    """What a client does about a request: the public side, what it has before, and the change."""

    circuit: Circuit
    instance: Instance
    held: Holdings
    change: Change

    @property
    def touched(self) -> tuple[int, ...]:
        return self.instance.touched

    def response(self) -> UnlearnResponse:
        after = self.change.apply(self.held)
        return respond(self.instance.request, dict(after.theta_commitments(self.circuit, self.touched)))


def respond(asked: UnlearnRequest, points: Mapping[int, str]) -> UnlearnResponse:
    """The response that announces these commitments by chunk."""
    return UnlearnResponse(
        request_id=asked.request_id,
        client_id=asked.client_id,
        nonce=asked.nonce,
        commitments=tuple(ChunkCommitment(chunk=c, theta=p) for c, p in sorted(points.items())),
        root=commitment_root(sorted(points.items())),
    )


def _worlds() -> dict[str, World]:
    statement = profile("tiny").statement
    specs = {
        "guarded_group_obs": statement(),
        "group_obs": statement(guard_rank=0),
        "block_fisher": statement(curvature="block-fisher"),
        "mask_only": statement("mask-only"),
        "dampening": statement("dampening"),
        "targeted_group_obs": statement("targeted-group-obs"),
    }
    return {name: World(name, spec) for name, spec in specs.items()}


WORLDS: Mapping[str, World] = MappingProxyType(_worlds())
"""One per statement, by the name of its honest case."""

GUARDED = WORLDS["guarded_group_obs"]
FIRST, SECOND = 0, 3
"""The chunks that a request of `GUARDED` touches."""
