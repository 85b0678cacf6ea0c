"""Mask and guard from the client that holds what is to be forgotten: asked for, checked, and made the public plan.

Without the data nobody can check that a proposal forgets anything. What can be checked is that it is well formed, keeps
to the budget, and costs no more than allowed: the operator that will run applies it to the provider's own copies.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from zkapex.circuits.operators import declared, operator_names
from zkapex.errors import Error, InputError, ProtocolError, StorageError, VerificationError
from zkapex.proofs.chunk.public import BoolArray, IntArray
from zkapex.proofs.messages import ModelManifest, Proposal, ProposeRequest
from zkapex.proofs.records.packing import Int16Array, unpack_guards, unpack_masks
from zkapex.proofs.records.record import Record, arrays_digest
from zkapex.proofs.records.sealed import Sealed, restore, seal
from zkapex.server.federation.provider import Delegation
from zkapex.server.requests.coordinator import Coordinator
from zkapex.storage import save_text
from zkapex.unlearning.operators import Terms
from zkapex.unlearning.operators.group_obs import RangeExceededError
from zkapex.unlearning.planning.trials import Copy, FixedPoint, Plan, Setting, judge, trials_of

R = TypeVar("R", bound=Record)
REQUEST, PROPOSAL = "proposal-request.json", "proposal.json"
MORE_THAN_ROUNDING = 0.01
"""How far the columns of a guard may be from orthonormal, or zero. Rounding to integers moves them by 1e-4 or so."""


def delegated_plan(
    coordinator: Coordinator, delegation: Delegation, model: nn.Module, request_id: str, folder: Path
) -> Plan:
    """Ask the holder, check its proposal, and return it as a plan; asked again, the holder answers the same.

    In the plan's outcome the forget accuracies are the holder's claims, everything else is measured here.

    Raises
    ------
    InputError
        Holders cannot propose for this operator.
    ProtocolError
        The holder did not answer, or with something malformed or beyond the budget.
    VerificationError
        The proposal is not signed by the holder, or costs more than allowed.
    StorageError
        What is kept in `folder` is damaged, or cannot be written.
    """
    manifest = coordinator.roster.manifest
    if not declared(manifest.statement.kind).holder_plans:
        raise InputError(
            f"operator {manifest.statement.kind} cannot be used with a forget set that sits with a client",
            why="a holder proposes a mask and a guard, and no factors",
            fix=f"choose {' or '.join(name for name in operator_names() if declared(name).holder_plans)}",
        )
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    wanted = ProposeRequest(
        request_id=request_id,
        client_id=delegation.holder,
        manifest_digest=manifest.digest(),
        weights_digest=arrays_digest(weights),
        scorers=tuple(dict.fromkeys(scorer for scorer, _ in delegation.space.combinations(manifest.statement))),
        fractions=delegation.space.fractions,
        concentration=delegation.space.concentration,
        forget_target=delegation.space.forget_target,
        margin=delegation.space.margin,
        retain_cost=delegation.space.retain_cost,
        nonce=secrets.token_hex(32),
    )
    request = _request(coordinator, wanted, folder / REQUEST)
    coordinator.roster.emit("propose.asked", client=delegation.holder)
    sealed = coordinator.propose(request, weights)
    coordinator.roster.emit("propose.answered", client=delegation.holder)
    terms = check_proposal(manifest, sealed.record, delegation.space.fractions[-1])
    plan = check_cost(manifest, sealed.record, terms, delegation.copies(), delegation)
    save_text(folder / PROPOSAL, sealed.envelope.decode())
    return plan


def check_proposal(manifest: ModelManifest, proposal: Proposal, budget: float) -> Terms:
    """The mask and guard of a proposal, if they are what a provider might have chosen itself.

    Raises
    ------
    ProtocolError
        They are malformed or not of this model, mask more than `budget` of the target weights, carry factors, or the
        guard's columns are too large, or not orthonormal up to rounding.
    """
    found = unpack_masks(manifest, proposal.mask)
    if any(mask.factors for mask in proposal.mask):
        raise ProtocolError("a proposal carries dampening factors")
    if any(guard.steering for guard in proposal.guards):
        raise ProtocolError("a proposal steers along its guard", why="how far is not bounded by the guard's range")
    total = sum(layer.rows * layer.cols for layer in manifest.layers)
    masked = sum(int(mask.sum()) for mask in found.values())
    if masked > round(budget * total):
        raise ProtocolError(f"a proposal masks {masked} of {total} weights", why=f"the budget is {budget:.4g} of them")
    given = unpack_guards(manifest, proposal.guards)
    for (name, block), guard in given.items():
        _check_guard(manifest, guard.astype(np.int64), f"block {block} of {name!r}")
    masks: dict[str, BoolArray] = {}
    guards: dict[str, list[IntArray]] = {}
    nothing = np.zeros((manifest.block_width, manifest.guard_rank), np.int64)
    for layer in manifest.layers:
        masks[layer.name] = found.get(layer.name, np.zeros((layer.rows, layer.cols), np.bool_))
        if "guards" in declared(manifest.statement.kind).terms:
            guards[layer.name] = [
                _widened(given.get((layer.name, block)), nothing) for block in range(manifest.blocks(layer))
            ]
    return Terms(masks, guards)


def check_cost(
    manifest: ModelManifest, proposal: Proposal, terms: Terms, copies: Sequence[Copy], delegation: Delegation
) -> Plan:
    """Apply a proposal to the provider's copies; returns it as a plan with its outcome.

    Raises
    ------
    VerificationError
        A copy loses more than ``delegation.largest_loss``, or the operator leaves the circuit's range on it.
    """
    who, encoding = proposal.client_id[:16], FixedPoint(manifest.statement, manifest.curvature_bits)
    trials = trials_of(copies, [layer.name for layer in manifest.layers], encoding)
    try:
        models = [trial.unlearn(terms) for trial in trials]
    except RangeExceededError as error:
        raise VerificationError(f"the proposal of client {who}... cannot be carried out", why=error.what) from error
    claims = proposal.claims
    setting = Setting(claims.scorer, claims.fraction, manifest.guard_rank, concentration=delegation.space.concentration)
    # What is to be forgotten is not here: its accuracies are taken from the claims, and these stand in for a moment.
    measured = judge(trials, models, copies[0].retain, delegation.space.target, setting, terms.masks, encoding.chunk)
    loss = max(measured.retain_loss, measured.personal_loss)
    if loss > delegation.largest_loss:
        kind = "retain" if measured.retain_loss >= measured.personal_loss else "personal"
        raise VerificationError(
            f"the proposal of client {who}... costs too much: {loss:.3f} of {kind} accuracy on a copy of the model",
            why=f"at most {delegation.largest_loss:.3f} is allowed",
            fix="ask for a smaller mask or a less strict target, or allow more",
        )
    outcome = replace(
        measured,
        forget=claims.forget,
        forget_raised=claims.forget_raised,
        reaches_target=claims.forget_raised <= delegation.space.forget_target,
    )
    return Plan(outcome, terms.masks, {name: tuple(blocks) for name, blocks in terms.guards.items()}, (outcome,))


def proposal_facts(folder: Path) -> dict[str, Any] | None:
    """Who chose mask and guard, and what it claims of them; None if the provider did.

    Raises
    ------
    StorageError
        What is kept is damaged.
    """
    path = folder / PROPOSAL
    if not path.exists():
        return None
    proposal = _restored(path, Proposal).record
    return {"holder": proposal.client_id, "claims": proposal.claims.model_dump()}


def _request(coordinator: Coordinator, wanted: ProposeRequest, path: Path) -> Sealed[ProposeRequest]:
    """The request of an earlier, interrupted run if it asks for the same, so that the same answer comes."""
    if path.exists():
        kept = _restored(path, ProposeRequest)
        if kept.record == wanted.model_copy(update={"nonce": kept.record.nonce}):
            return kept
    request = seal(wanted, coordinator.roster.key)
    save_text(path, request.envelope.decode())
    return request


def _restored(path: Path, kind: type[R]) -> Sealed[R]:
    try:
        return restore(kind, path.read_bytes())
    except (OSError, Error) as error:
        raise StorageError(f"{path} is damaged", why=str(error), fix="delete it and resume") from error


def _check_guard(manifest: ModelManifest, guard: IntArray, where: str) -> None:
    limit = manifest.statement.guard_limit
    if np.abs(guard).max() > limit:
        raise ProtocolError(f"the guard of {where} in a proposal has an entry beyond {limit}")
    gram = (guard.T @ guard) / 4.0 ** FixedPoint(manifest.statement).guard_bits
    wanted = np.diag(np.diagonal(gram) > MORE_THAN_ROUNDING).astype(np.float64)
    if np.abs(gram - wanted).max() > MORE_THAN_ROUNDING:
        raise ProtocolError(
            f"the guard of {where} in a proposal is no guard", why="its columns are not orthonormal directions"
        )


def _widened(guard: Int16Array | None, nothing: IntArray) -> IntArray:
    full = nothing.copy()
    if guard is not None:
        full[:, : guard.shape[1]] = guard
    return full
