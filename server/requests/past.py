"""What earlier requests have left for a later one, read from a federation's work folder; nothing here writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.messages import EvaluateReply, ModelManifest, TuneReply
from zkapex.server.federation.provider import ManyRequests, Provider
from zkapex.server.federation.setup import load_manifest
from zkapex.server.requests.costs import CostBook
from zkapex.server.requests.due import TUNED
from zkapex.server.requests.folder import Order
from zkapex.server.requests.plan import StoredPlan, load_plan
from zkapex.storage import load_arrays, load_json
from zkapex.unlearning.operators import Terms
from zkapex.unlearning.operators.held import Held

SCORES = "scores.json"


@dataclass(frozen=True)
class Past:
    """The requests of a federation so far.

    Attributes
    ----------
    provider : Provider
    work_dir : Path
        Where all the federation's state is.
    order : Order
    """

    provider: Provider
    work_dir: Path
    order: Order

    @property
    def trained(self) -> Path:
        """The global model after federated training, before any request."""
        return self.work_dir / "provider" / "global.npz"

    @property
    def manifest(self) -> Path:
        """What is proved about which model."""
        return self.work_dir / "provider" / "manifest.json"

    def about(self, request_id: str) -> Provider:
        """The provider, for what one request is about."""
        return self.provider.for_request(request_id) if isinstance(self.provider, ManyRequests) else self.provider

    def between(self, request_id: str) -> bool:
        """Whether there are earlier requests, and this one is not planned yet."""
        return bool(self.order.before(request_id)) and load_plan(self.order.folder(request_id).own) is None

    def plan_of(self, request_id: str) -> StoredPlan:
        """The plan of a request.

        Raises
        ------
        ProtocolError
            It is not planned yet.
        """
        plan = load_plan(self.order.folder(request_id).own)
        if plan is None:
            raise ProtocolError(f"request {request_id} is not planned yet")
        return plan

    def state_before(self, request_id: str | None) -> dict[str, npt.NDArray[np.generic]]:
        """The last of: the trained model, what earlier requests have left, what was trained on before this one."""
        paths = [self.trained]
        ids = self.order.ids() if request_id is None else self.order.before(request_id)
        for one in ids:
            paths += [self.order.folder(one).trained, self.order.folder(one).unlearned]
        if request_id is not None:
            paths.append(self.order.folder(request_id).trained)
        return load_arrays([path for path in paths if path.exists()][-1])

    def loaded(self, state: dict[str, npt.NDArray[np.generic]]) -> nn.Module:
        """The provider's model with the given weights, for evaluation."""
        model = self.provider.initial_model()
        model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        return model.eval()

    def demands(self, request_id: str) -> Demands:
        """What earlier requests demand of weights for good."""
        found = Demands()
        for one in self.order.before(request_id):
            plan = load_plan(self.order.folder(one).own)
            if plan is not None:
                found = found.joined(plan.demands(load_manifest(self.manifest)))
        return found

    def held(self, request_id: str) -> Held:
        """Likewise, as a model that is trained on holds it."""
        demands = self.demands(request_id)
        if not demands:
            return Held()
        manifest: ModelManifest = load_manifest(self.manifest)
        return Terms.demanded(manifest, demands).held({layer.name: layer.exponent for layer in manifest.layers})

    def costs(self, request_id: str) -> CostBook:
        """What proofs of a request took."""
        return CostBook(self.order.folder(request_id).own / "costs.json")

    def scores(self, request_id: str) -> dict[str, EvaluateReply]:
        """Clients' tallies before and after a request, as far as they were asked; by client id."""
        path = self.order.folder(request_id).own / SCORES
        found = load_json(path) if path.exists() else {}
        return {one: EvaluateReply.model_validate_json(json.dumps(reply)) for one, reply in found.items()}

    def tuned(self, request_id: str) -> dict[str, TuneReply]:
        """What clients said that trained on after a request; by client id."""
        path = self.order.folder(request_id).own / TUNED
        found = load_json(path) if path.exists() else {}
        return {one: TuneReply.model_validate_json(json.dumps(reply)) for one, reply in found.items()}
