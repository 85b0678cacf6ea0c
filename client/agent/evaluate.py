"""`evaluate`: how well the device's models do before a request, with its mask alone, and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import RecordDict

from zkapex.client.agent.common import SCORES, opened
from zkapex.client.state.holdings import Change
from zkapex.client.state.memory import REQUEST
from zkapex.client.task import tallies
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.messages import EvaluateReply, EvaluateRequest, Score, UnlearnRequest
from zkapex.proofs.records.sealed import unseal
from zkapex.transport.wire import pack
from zkapex.unlearning.weights import load_weights

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def evaluate(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Tally the model before a request, with its mask alone, and after it; the tallies outlive the first two."""
    request, _ = opened(content, EvaluateRequest)
    vault = device.memory.answered(request.request_id)
    if vault.has(SCORES):
        kept = EvaluateReply.from_bytes(vault.get(SCORES))
        if {score.model for score in kept.scores} >= set(request.models):
            scores = [score for score in kept.scores if score.model in request.models]
            return pack(kept.model_copy(update={"scores": tuple(scores)}))
    if device.memory.settled(vault):
        raise ProtocolError(f"request {request.request_id} is settled", why="the weights before it are gone")
    manifest = device.memory.manifest()
    model = device.memory.load_model()
    sealed = unseal(UnlearnRequest, vault.get(REQUEST), [device.trust.key()])
    before = device.memory.start_from(sealed.record).weights
    masks = Instance(manifest, sealed.record).masks
    states: dict[str, Callable[[], Mapping[str, IntArray]]] = {
        "before": lambda: before,
        "masked": lambda: {n: np.where(masks[n], 0, w) if n in masks else w for n, w in before.items()},
        "after": lambda: Change.load(vault).weights,
    }
    task = device.task_of(request.request_id)
    scores = []
    for name in request.models:
        load_weights(model, manifest, states[name]())
        for data, tally in tallies(task, model).items():
            scores.append(Score.model_validate({"model": name, "data": data, **vars(tally)}))
    reply = EvaluateReply(client_id=device.client_id, request_id=request.request_id, scores=tuple(scores))
    vault.put(SCORES, reply.to_bytes())
    return pack(reply)
