"""One run of the provider, start to end: train, personalise, enrol, delete, prove, issue receipts. Resumable.

What is finished is on disk in the work folder, and a run that finds it there does not do it again::

    provider/key.pem, key.pub     signs requests and receipts
    provider/registry.sqlite      clients, commitments, requests, proofs, receipts
    provider/run.json             what must not change when the run is gone on with
    provider/global.npz           the model after federated training
    provider/plan.npz, plan.json  mask, guard or factors, and the curve they were chosen from
    provider/proposal*.json       the signed request to the client that chose them, if one did, and its signed answer
    global-unlearned.npz          the global model after the same operator
    receipts/<client>/            one folder per client
    result.json                   what happened, for people and machines
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.serverapp import Grid
from torch import nn

from zkapex.circuits.encoding import exponent_for
from zkapex.circuits.halo2.srs import local_srs
from zkapex.circuits.halo2.store import circuit
from zkapex.circuits.profiles import named_statement, profile
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.second_moment import LARGEST_PER_MILLE
from zkapex.proofs.messages import CurvatureCheck, LayerSpec, ModelManifest
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import load_or_create_private_key, save_public_key
from zkapex.server.events import EventLog
from zkapex.server.federation.claim import claim
from zkapex.server.federation.provider import Delegating, Provider
from zkapex.server.federation.roster import Roster
from zkapex.server.federation.settings import RunSettings
from zkapex.server.federation.training import train
from zkapex.server.requests.coordinator import Coordinator
from zkapex.server.requests.costs import CostBook
from zkapex.server.requests.delegation import delegated_plan, proposal_facts
from zkapex.server.requests.deletion import Deletion
from zkapex.server.requests.plan import StoredPlan, load_plan, save_plan, unlearn_global
from zkapex.server.store.registry import Registry
from zkapex.storage import load_arrays, save_arrays, save_text
from zkapex.transport.peers import Peers
from zkapex.unlearning.boundary import check_model
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, curvature_of
from zkapex.unlearning.operators import operator
from zkapex.unlearning.planning.steps import seldom
from zkapex.unlearning.weights import weight_of


def run(grid: Grid, provider: Provider, settings: RunSettings, work_dir: Path, events: EventLog) -> dict[str, Any]:
    """Carry out one deletion from beginning to end, or go on with it; returns the content of ``result.json``."""
    folder = work_dir / "provider"
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder / "run.json", provider, settings)
    key = load_or_create_private_key(folder / "key.pem")
    if not (work_dir / "key.pub").exists():
        save_public_key(key.public_key(), work_dir / "key.pub")
    peers = Peers(grid, settings.timeout_s)

    chosen = profile(settings.profile)
    _check(provider, settings)
    model = train(
        grid, provider, folder / "global.npz", settings.rounds, settings.timeout_s, settings.seed, events.emit
    )
    events.emit("keys.started", profile=settings.profile)
    rank = None if settings.guard_rank < 0 else settings.guard_rank
    statement = named_statement(chosen.name, settings.operator, settings.curvature, rank)
    built = circuit(statement, local_srs(chosen.log2_rows))
    check = circuit(chosen.statement("second-moment"), built.srs) if settings.prove_curvature else None
    events.emit("keys.done", rows=built.rows, log2_rows=chosen.log2_rows)
    manifest = ModelManifest(
        model=provider.name,
        profile=chosen.name,
        statement=statement,
        curvature_bits=KAPPA,
        layers=tuple(
            _layer(name, weight_of(model, name), chosen.weight_limit) for name in provider.target_layers(model)
        ),
        circuit_digest=built.vk_digest,
        settings_digest=built.settings_digest,
        srs_digest=built.srs.digest,
        srs_origin="local",
        curvature_check=None
        if check is None
        else CurvatureCheck(
            statement=check.spec,
            circuit_digest=check.vk_digest,
            settings_digest=check.settings_digest,
            largest_per_mille=LARGEST_PER_MILLE,
        ),
    )
    costs = CostBook(folder / "costs.json")
    with Registry(folder / "registry.sqlite", provider.federation) as registry:
        roster = Roster(peers, registry, key, built, manifest, events.emit, check)
        roster.recognise()
        events.emit("personalise.started", clients=len(peers.nodes()) - len(roster.clients))
        weights = {name: value.numpy(force=True) for name, value in model.state_dict().items()}
        roster.personalise(weights, settings.personal_epochs, settings.personal_lr, settings.seed)
        events.emit("enrol.started")
        roster.enrol()

        coordinator = Coordinator(roster, batch=settings.batch)
        plan = _plan(provider, model, coordinator, settings, folder)
        tau_s, tau_g = operator(statement.kind).tolerances(statement)
        deletion = Deletion(
            request_id=settings.request_id,
            masks=plan.masks,
            guards=plan.guard_map(),
            operator=statement.kind,
            tau_s=tau_s,
            tau_g=tau_g,
            forget_digest=sha256_hex(provider.forget_description().encode()),
            lifetime=timedelta(days=7),
            cheating=settings.audit_cheating if settings.audit == "sampled" else None,
            detect=settings.audit_detect,
            factors=plan.factors or None,
            steering=plan.steering_map(statement.guard_limit),
        )
        coordinator.open(deletion)
        coordinator.give_up_absent(settings.request_id)
        events.emit("unlearn.started", clients=len(roster.clients))
        coordinator.distribute(settings.request_id)
        touched = {r.client_id: len(r.touched) for r in registry.requests(settings.request_id)}
        events.emit("prove.started", chunks=sum(touched.values()))
        coordinator.prove(settings.request_id, costs)
        events.emit("receipts.started")
        scores = coordinator.evaluate(settings.request_id)
        receipts = coordinator.conclude(settings.request_id, work_dir / "receipts")

        if not (work_dir / "global-unlearned.npz").exists():
            matrices = _curvature(provider, model, manifest)
            save_arrays(work_dir / "global-unlearned.npz", unlearn_global(model, manifest, matrices.__getitem__, plan))
        unlearned = load_arrays(work_dir / "global-unlearned.npz")
        after = provider.initial_model()
        after.load_state_dict({name: torch.from_numpy(value) for name, value in unlearned.items()})
        result = {
            "request_id": settings.request_id,
            "manifest": json.loads(manifest.to_bytes()),
            "plan": plan.chosen,
            "curve": plan.curve,
            "proposal": proposal_facts(folder),
            "global": {"before": dict(provider.evaluate(model)), "after": dict(provider.evaluate(after))},
            "clients": [
                _client_result(registry, client_id, settings.request_id, costs, touched, scores, receipts, work_dir)
                for client_id in sorted(touched)
            ],
            "not_enrolled": [{"node": str(node), "reason": reason} for node, reason in roster.not_enrolled().items()],
        }
    save_text(work_dir / "result.json", json.dumps(result, indent=1))
    return result


def _check(provider: Provider, settings: RunSettings) -> None:
    """Nothing is trained that could not be unlearned."""
    model = provider.initial_model()
    statement = named_statement(settings.profile, settings.operator, settings.curvature)
    inputs = None if statement.curvature == "none" else provider.curvature_inputs()
    check_model(model, provider.target_layers(model), profile(settings.profile).weight_limit, inputs)


def _layer(name: str, values: npt.NDArray[np.float64], limit: int) -> LayerSpec:
    return LayerSpec(name=name, rows=values.shape[0], cols=values.shape[1], exponent=exponent_for(values, limit))


def _curvature(provider: Provider, model: nn.Module, manifest: ModelManifest) -> dict[str, list[npt.NDArray[np.int64]]]:
    """The curvature matrices of the provider's own model, by layer; empty if the operator looks at none."""
    if manifest.statement.curvature == "none":
        return {}
    names = [layer.name for layer in manifest.layers]
    encoded = curvature_of(model, names, provider.curvature_inputs(), CurvatureEncoding.of(manifest.statement))
    return {name: [block.matrix for block in blocks] for name, blocks in encoded.items()}


def _plan(
    provider: Provider, model: nn.Module, coordinator: Coordinator, settings: RunSettings, folder: Path
) -> StoredPlan:
    roster = coordinator.roster
    roster.emit("search.started")
    plan = load_plan(folder)
    if plan is None:
        statement = roster.manifest.statement
        delegation = provider.delegate(model, statement) if isinstance(provider, Delegating) else None
        if delegation is None:
            found = provider.plan(model, statement, seldom(lambda step: roster.emit("search.step", doing=step.words())))
        else:
            found = delegated_plan(coordinator, delegation, model, settings.request_id, folder)
        plan = save_plan(folder, found)
    roster.emit("search.done", **plan.chosen)
    return plan


def _client_result(
    registry: Registry,
    client_id: str,
    request_id: str,
    costs: CostBook,
    touched: Mapping[str, int],
    scores: Mapping[str, Any],
    receipts: Mapping[str, Path],
    work_dir: Path,
) -> dict[str, Any]:
    client = registry.client(client_id)
    request = registry.request(client_id, request_id)
    if client is None or request is None:
        raise ProtocolError(f"client {client_id[:16]}... has no request {request_id}")
    table: dict[str, dict[str, float]] = {}
    if client_id in scores:
        for score in scores[client_id].scores:
            table.setdefault(score.model, {})[score.data] = score.correct / score.total
    receipt = receipts.get(client_id)
    return {
        "id": client_id[:16],
        "client_id": client_id,
        "verdict": str(client.status),
        "reason": client.reason or None,
        "chunks": touched.get(client_id, 0),
        "chunks_proved": len(request.proofs),
        "audit": request.sealed.record.audit.model_dump(include={"mode", "count", "cheating", "detection"}),
        **asdict(costs.of(client_id)),
        "accuracy": table,
        "receipt": str(receipt.relative_to(work_dir)) if receipt else None,
    }
