"""The device that holds what is to be forgotten: it chooses mask and guard itself, and sends nothing else.

How a mask is searched for is the provider's code (`zkapex.server`), which a device's code does not import. Whoever puts
a device together hands the agent a `Planner`; `zkapex.client.holder.plan_for_holder` is the one that providers use
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.client.task import Task
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.public import BoolArray
from zkapex.proofs.messages import Claims, ModelManifest, Proposal, ProposeRequest
from zkapex.proofs.records.packing import pack_guards, pack_masks

Examples = tuple[torch.Tensor, torch.Tensor]
"""Inputs ``[n, ...]`` and int64 labels ``[n]``."""


@runtime_checkable
class HoldsForgetSet(Protocol):
    """What a `Task` offers beyond the rest where what is to be forgotten may sit on the device."""

    def forget_examples(self) -> Examples:
        """What is to be forgotten; empty if this device holds nothing of it."""
        ...

    def retained_examples(self) -> Examples:
        """What the device has that stays, or, when all its own leave, public examples of the same kind. Never empty."""
        ...

    def personal_examples(self) -> Examples | None:
        """Examples of the device's own domain that stay; None if nothing does: all its own is to be forgotten."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A model the holder tries deletions on.

    Attributes
    ----------
    model : nn.Module
        Never changed.
    calibration : tensor [n, ...]
        Inputs its curvature is taken from.
    retain : Examples
        General examples it is to keep.
    personal : Examples or None
        Examples of the device's own domain it is to keep.
    """

    model: nn.Module
    calibration: torch.Tensor
    retain: Examples
    personal: Examples | None = None


@dataclass(frozen=True)
class Draft:
    """What a planner has found.

    Attributes
    ----------
    masks : mapping of str to bool [rows, cols]
    guards : mapping of (layer, block) to int16 [B, r]
        Empty for operators without a guard.
    claims : Claims
    """

    masks: Mapping[str, BoolArray]
    guards: Mapping[tuple[str, int], npt.NDArray[np.int16]]
    claims: Claims


class Planner(Protocol):
    """Chooses mask and guard."""

    def __call__(
        self, candidates: Sequence[Candidate], forget_set: Examples, manifest: ModelManifest, request: ProposeRequest
    ) -> Draft:
        """Try deletions within the request's limits on all candidates, the global model first.

        Raises
        ------
        InputError
            There is nothing that could be tried.
        """
        ...


def propose(
    request: ProposeRequest,
    manifest: ModelManifest,
    global_model: nn.Module,
    personal_model: nn.Module,
    task: Task,
    planner: Planner | None,
) -> Proposal:
    """Answer a request with what the planner finds on this device's data.

    It is tried on the global model, with curvature from what stays on the device, and on the personal one, unless all
    of its own is to be forgotten: such a model has no future, and it remembers its data better than any other client's,
    so that what makes it forget would cost the others more than it need.

    Raises
    ------
    ProtocolError
        The device has no planner, its task does not say what is to be forgotten, or it holds nothing of it.
    InputError
        What the planner found does not fit the manifest.
    """
    if planner is None:
        raise ProtocolError(
            "this device cannot choose a mask",
            why="it was set up without a planner",
            fix="give DeviceAgent one, for example zkapex.client.holder.plan_for_holder",
        )
    if not isinstance(task, HoldsForgetSet):
        raise ProtocolError(
            "this device cannot tell what it is to forget",
            why="its task has no forget_examples, retained_examples and personal_examples",
            fix="implement zkapex.client.agent.proposal.HoldsForgetSet",
        )
    forget, retained = task.forget_examples(), task.retained_examples()
    if len(forget[1]) == 0:
        raise ProtocolError("this device holds nothing that is to be forgotten", fix="ask the client that does")
    if len(retained[1]) == 0:
        raise ProtocolError(
            "this device has nothing to compare with what is to be forgotten", fix="bring public examples with the task"
        )
    candidates = [Candidate(global_model, retained[0], retained)]
    personal = task.personal_examples()
    if personal is not None:
        candidates.append(Candidate(personal_model, task.curvature_inputs(), retained, personal))
    draft = planner(candidates, forget, manifest, request)
    return Proposal(
        request_id=request.request_id,
        client_id=request.client_id,
        manifest_digest=request.manifest_digest,
        nonce=request.nonce,
        mask=pack_masks(manifest, draft.masks),
        guards=pack_guards(manifest, draft.guards),
        claims=draft.claims,
    )
