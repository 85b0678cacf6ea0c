"""ModHiFi-U: the components that make up a layer's output on the forget set are turned around (arXiv 2511.19566)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case
from zkapex.unlearning.curvature.moments import FloatArray, visit_inputs

_DOWN = ("fc2", "down_proj")


@dataclass(frozen=True)
class ModHiFi:
    """Negate, in every row of the second layers of MLPs, the ``fraction`` of weights with the highest `fidelity`.

    The paper zeroes them in networks with batch norm; in transformers, where a residual path goes around the layer, it
    negates them. It looks at the MLPs' second layers, and names a range for the fraction, 0.01 to 0.2, of which this is
    the middle. It draws 200 synthetic images of the class; here it is given the true ones, 126 of them in `digits`.
    No labels, no gradients, no training; the paper's optional fine-tuning afterwards is left out.
    """

    fraction: float = 0.1
    name: str = "modhifi-u"
    label: str = "ModHiFi-U"
    source: str = (
        "Kashyap et al., NeurIPS 2025, arXiv 2511.19566: equation 3, algorithm 2 (transformers: negated, not zeroed), "
        "0.01 to 0.2 of the components (appendix C.7.1), here 0.1 of every row"
    )
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model = copy.deepcopy(case.before).eval()
        layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.rpartition(".")[2] in _DOWN}
        moments = _second_moments(model, layers, case.forget.inputs)
        with torch.no_grad():
            for name, layer in layers.items():
                score = fidelity(layer.weight, moments[name])
                count = round(self.fraction * score.shape[1])
                chosen = torch.zeros_like(score, dtype=torch.bool).scatter_(1, score.topk(count, 1).indices, value=True)
                layer.weight[chosen] *= -1
        return model


def _second_moments(model: nn.Module, layers: dict[str, nn.Linear], inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean of ``h h^T`` over all examples and tokens, of what goes into each layer."""
    totals: dict[str, FloatArray] = {}
    counts = dict.fromkeys(layers, 0)

    def add(name: str, h: FloatArray) -> None:
        rows = h[:, 0, : layers[name].in_features]
        totals[name] = totals.get(name, 0.0) + rows.T @ rows
        counts[name] += len(rows)

    width = max((layer.in_features for layer in layers.values()), default=1)
    visit_inputs(model, list(layers), inputs, width, add)
    return {name: torch.from_numpy(total / counts[name]) for name, total in totals.items()}


def fidelity(weight: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """How much of each output ``y_c = sum_i w_ci h_i`` its one term i explains at its best scale, in [0, 1].

    ``E[y_c a_ci]^2 / (E[a_ci^2] E[y_c^2])`` with ``a_ci = w_ci h_i``, which is equation 3 at its maximum; the bias has
    no part in it. Zero where a term is.

    Parameters
    ----------
    weight : tensor [out, in]
    moment : float64 tensor [in, in]
        ``E[h h^T]``.

    Returns
    -------
    float64 tensor [out, in]
    """
    w = weight.double()
    mixed = w @ moment
    scale = moment.diagonal()[None, :] * (mixed * w).sum(1, keepdim=True)
    explained = torch.where(scale > 0, mixed.square() / scale.clamp_min(1e-300), 0.0)
    return torch.where(w == 0, 0.0, explained)
