"""Devices that cheat, each in one way, by the strongest means they have: a proof of whatever they did instead.

They deviate only where `DeviceAgent` decides what to change and what to prove; commitments, signatures and messages are
the real ones. A verifier that accepted any of them would be broken.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from zkapex.circuits.field import felts, random_elements
from zkapex.circuits.halo2.slack import SLACK_LIMBS, slack_limbs
from zkapex.circuits.operators import declared
from zkapex.circuits.statement import SALTS
from zkapex.client.agent.agent import DeviceAgent, utc_now
from zkapex.client.agent.proposal import Planner
from zkapex.client.state.holdings import SECRETS, Change, Holdings
from zkapex.client.state.memory import REQUEST, RESPONSE
from zkapex.client.state.vault import Vault
from zkapex.client.task import Task
from zkapex.errors import InputError, ProverError
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import BoolArray, IntArray, PublicInputs
from zkapex.proofs.chunk.witness import Witness, square_sums
from zkapex.proofs.jobs.worker import COST, PROOF, finished
from zkapex.proofs.messages import UnlearnRequest
from zkapex.proofs.records.sealed import restore
from zkapex.unlearning.operators import Terms, apply_terms, operator

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit


def forced_vectors(circuit: Circuit, public: PublicInputs, witness: Witness) -> list[list[str]]:
    """The committed vectors for a witness that need not satisfy the statement: slack as good as it can be made."""
    from zkapex.proofs.chunk.prove import complete

    if "aux" not in circuit.spec.inputs:
        return complete(circuit, public, witness.private(circuit.spec, public))
    if "delta" not in circuit.spec.inputs:
        leak = witness.leak(circuit.spec, public)
        total = sum(v * v for v in leak.ravel().tolist())
        try:
            own = slack_limbs(public.slacks(circuit.spec)[1], total, circuit.spec.weight_limit)
        except ProverError:
            own = (0,) * SLACK_LIMBS
        aux = felts(own) + felts(leak) + felts(random_elements(SALTS))
        return complete(circuit, public, {"theta_u": witness.theta_u.vector(), "aux": aux})
    residuals = witness.residuals(circuit.spec, public)
    limbs: list[int] = []
    for total, slack in zip(square_sums(residuals, public.mask), public.slacks(circuit.spec), strict=True):
        try:
            limbs += slack_limbs(slack, total, circuit.spec.weight_limit)
        except ProverError:
            limbs += [0] * SLACK_LIMBS
    return complete(circuit, public, witness.with_limbs(circuit.spec, residuals, limbs))


def forced_proof(engine: Engine, instance: Instance, holdings: Holdings, change: Change, chunk: int) -> bytes:
    """A proof of whatever was done: the best that a prover can make of it, were it what was asked or not."""
    if engine.circuit is not None:
        from zkapex.proofs.chunk.prove import prove_vectors

        vectors = forced_vectors(engine.circuit, instance.public(chunk), change.witness(holdings, chunk))
        return prove_vectors(engine.circuit, vectors)[0]
    from zkapex.proofs.layer.job import write_layer_job
    from zkapex.proofs.layer.prover import run_layer_job
    from zkapex.proofs.layer.terms import change_context, terms_of

    terms, context = terms_of(instance, chunk), change_context(instance, chunk)
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job"
        write_layer_job(job, terms, holdings, change, chunk, context, strict=False)
        run_layer_job(job)
        return (job / PROOF).read_bytes()


class Cheat(DeviceAgent):
    """A device that proves what it did, whether or not it is what was asked.

    Of an operator that is exact nothing can be proved about other weights at all (those that were not dampened as asked
    pass no lookup); the best that is left is a proof of what should have been done, which is about other weights than
    the device announced.
    """

    def prove_chunks(
        self, engine: Engine, instance: Instance, holdings: Holdings, change: Change, folders: Mapping[int, Path]
    ) -> None:
        """See `DeviceAgent`."""
        name = instance.request.operator
        if declared(name).exact:
            change = replace(change, weights=operator(name).apply(holdings, instance)[0])
        for chunk, folder in folders.items():
            _leave(folder, forced_proof(engine, instance, holdings, change, chunk))


class Ignore(Cheat):
    """Does nothing: the weights stay as they were."""

    def change(self, holdings: Holdings, instance: Instance, name: str) -> Change:
        """See `DeviceAgent`."""
        return Change.create(holdings.weights, _no_multipliers(holdings, instance), instance.touched)


class Half(Cheat):
    """Does what was asked to every other masked weight or, with targets, row only, and that correctly."""

    def change(self, holdings: Holdings, instance: Instance, name: str) -> Change:
        """See `DeviceAgent`."""
        terms = Terms.of(instance)
        half = {n: _every_other(mask) for n, mask in terms.masks.items()}
        weights, mu = apply_terms(operator(name), holdings, replace(terms, masks=half))
        for layer in {layer for layer, _ in terms.targets}:
            weights[layer] = weights[layer].copy()
            weights[layer][1::2] = holdings.weights[layer][1::2]
            if layer in mu:
                mu[layer][:, 1::2] = 0
        return Change.create(weights, mu, instance.touched)


class Unguarded(Cheat):
    """Compensates as if there were no guard, and so gives back part of what was to be forgotten."""

    def change(self, holdings: Holdings, instance: Instance, name: str) -> Change:
        """See `DeviceAgent`."""
        terms = Terms.of(instance)
        nothing = {n: [np.zeros_like(guard) for guard in guards] for n, guards in terms.guards.items()}
        weights, mu = apply_terms(operator(name), holdings, replace(terms, guards=nothing))
        return Change.create(weights, mu, instance.touched)


class Decoy(Cheat):
    """Applies the request faithfully, but to weights it never committed to, and keeps serving the others."""

    def change(self, holdings: Holdings, instance: Instance, name: str) -> Change:
        """See `DeviceAgent`."""
        return super().change(_decoy(holdings), instance, name)

    def prove_chunks(
        self, engine: Engine, instance: Instance, holdings: Holdings, change: Change, folders: Mapping[int, Path]
    ) -> None:
        """See `DeviceAgent`."""
        super().prove_chunks(engine, instance, _decoy(holdings), change, folders)


class Replay(DeviceAgent):
    """Sends the proofs of another device of the same simulation instead of its own.

    A neighbour that has not proved a chunk yet, or never will because another one was drawn, lends its state, and the
    proof is the one it would have made. Without any neighbour that is at the request, noise has to do.
    """

    def prove_chunks(
        self, engine: Engine, instance: Instance, holdings: Holdings, change: Change, folders: Mapping[int, Path]
    ) -> None:
        """See `DeviceAgent`."""
        request_id = instance.request.request_id
        answered = sorted(self.vault.folder.parent.glob(f"*/requests/{request_id}/{RESPONSE}"))
        neighbours = [path.parent for path in answered if self.vault.folder not in path.parents]
        for chunk, folder in folders.items():
            proofs = [done[0] for theirs in neighbours if (done := finished(theirs / "jobs" / str(chunk)))]
            if proofs:
                _leave(folder, proofs[0])
            elif busy := [theirs for theirs in neighbours if (theirs / SECRETS).exists()]:
                _leave(folder, _proof_of(busy[0], engine, instance, chunk))
            else:
                _leave(folder, bytes(1000 if engine.circuit is None else engine.circuit.proof_bytes))


CHEATS: Mapping[str, type[DeviceAgent]] = MappingProxyType(
    {"ignore": Ignore, "half": Half, "unguarded": Unguarded, "decoy": Decoy, "replay": Replay}
)
"""Ways to cheat, by the name the demo's ``--cheat`` takes."""


def no_cheat(name: str, operator_name: str) -> str:
    """Why devices asked for an operator cannot cheat in the named way; empty if they can."""
    spec = declared(operator_name)
    if name == "unguarded" and "guards" not in spec.terms:
        return "it has no guard"
    if name == "decoy" and "delta" not in spec.statement.inputs:
        return "its proof says nothing of the weights before, so any weights may be proved about"
    return ""


def check_cheat(name: str, operator_name: str) -> None:
    """Return only if devices asked for an operator can cheat in the named way.

    Raises
    ------
    InputError
        They cannot, or there is no such way.
    """
    if name not in CHEATS:
        raise InputError(f"unknown cheat {name!r}", fix=f"choose one of {', '.join(CHEATS)}")
    why = no_cheat(name, operator_name)
    if why:
        others = ", ".join(other for other in CHEATS if not no_cheat(other, operator_name))
        raise InputError(f"{name!r} is no way to cheat with operator {operator_name}", why=why, fix=f"choose {others}")


def make_cheat(
    name: str,
    folder: Path,
    task: Task,
    workers: int | None = None,
    clock: Callable[[], datetime] = utc_now,
    planner: Planner | None = None,
) -> DeviceAgent:
    """A device that cheats in the named way.

    Raises
    ------
    InputError
        There is no such way.
    """
    if name not in CHEATS:
        raise InputError(f"unknown cheat {name!r}", fix=f"choose one of {', '.join(CHEATS)}")
    return CHEATS[name](folder, task, workers, clock, planner)


def _proof_of(theirs: Path, engine: Engine, instance: Instance, chunk: int) -> bytes:
    """The proof of a neighbour's chunk, made with what the neighbour keeps about the same request."""
    request = restore(UnlearnRequest, (theirs / REQUEST).read_bytes()).record
    holdings = Holdings.load(instance.manifest, Vault(theirs.parents[1] / "enrolment"))
    return forced_proof(engine, Instance(instance.manifest, request), holdings, Change.load(Vault(theirs)), chunk)


def _leave(folder: Path, proof: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COST).write_text(json.dumps({"cpu_s": 0.0, "peak_rss_mb": 0.0}))
    (folder / PROOF).write_bytes(proof)


def _every_other(mask: BoolArray) -> BoolArray:
    kept = np.zeros_like(mask)
    kept.ravel()[np.flatnonzero(mask)[::2]] = True
    return kept


def _decoy(holdings: Holdings) -> Holdings:
    """Weights like the device's own, columns in another order, under salts of their own: never committed to."""
    weights = {name: np.ascontiguousarray(values[:, ::-1]) for name, values in holdings.weights.items()}
    salts = {name: tuple((salt + 1) for salt in values) for name, values in holdings.salts.items()}
    curvature = {name: values for name, values in holdings.salts.items() if name.startswith("curvature/")}
    return Holdings(holdings.manifest, weights, holdings.curvature, {**salts, **curvature})


def _no_multipliers(holdings: Holdings, instance: Instance) -> dict[str, IntArray]:
    manifest = holdings.manifest
    if "aux" not in manifest.statement.inputs:
        return {}
    return {
        layer.name: np.zeros((manifest.blocks(layer), layer.rows, manifest.guard_rank), np.int64)
        for layer in manifest.layers
        if layer.name in Terms.of(instance).masks
    }
