"""What tolerance the proof about curvature needs on the digits: the figures in docs/security.md come from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from zkapex.circuits.profiles import PROFILES, profile
from zkapex.proofs.messages import LARGEST_PER_MILLE
from zkapex.simulation.federation.device import ScenarioTask
from zkapex.simulation.federation.federation import federation_of
from zkapex.simulation.models.tiny import target_layers
from zkapex.transport.grid import run_config_of_app
from zkapex.unlearning.curvature.activations import encode_activations, sample_activations
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, EncodedCurvature, curvature_of, encode


@pytest.fixture(scope="module")
def task() -> ScenarioTask:
    return ScenarioTask(federation_of(run_config_of_app({"clients": 2})), 0)


@pytest.fixture(scope="module")
def model(task: ScenarioTask) -> torch.nn.Module:
    fitted = task.build_model()
    for number in range(3):
        task.fit_round(fitted, number + 1)
    task.fit_personal(fitted, 2, 1e-3, 0, {})
    return fitted


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_curvature_of_the_committed_activations_is_within_tolerance(
    name: str, task: ScenarioTask, model: torch.nn.Module, record_property: Callable[[str, object], None]
) -> None:
    spec, width = profile(name).statement("second-moment"), profile(name).block_width
    encoding, layers, inputs = (
        CurvatureEncoding.of(profile(name).statement()),
        target_layers(model),
        task.curvature_inputs(),
    )
    drawn = sample_activations(model, layers, inputs, width, spec.rows_per_chunk, seed=0)
    own: dict[str, tuple[EncodedCurvature, ...]] = {}
    for layer, blocks in drawn.items():
        total = model.get_submodule(layer).weight.shape[1]
        columns = [min(width, total - i * width) for i in range(len(blocks))]
        own[layer] = tuple(encode(x.T @ x / len(x), c, encoding) for x, c in zip(blocks, columns, strict=True))

    def needed(curvature: Mapping[str, tuple[EncodedCurvature, ...]]) -> int:
        pairs = [(x, f.factor) for layer in layers for x, f in zip(drawn[layer], curvature[layer], strict=True)]
        return int(np.max([encode_activations(x, f, spec, KAPPA).per_mille for x, f in pairs]))

    mine, everyones = needed(own), needed(curvature_of(model, layers, inputs, encoding))
    record_property("per mille, of the committed activations and of all", (mine, everyones))
    assert mine <= LARGEST_PER_MILLE / 2
    assert everyones > LARGEST_PER_MILLE
