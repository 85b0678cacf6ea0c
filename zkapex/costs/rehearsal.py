"""One deletion request at the exact shapes of a model, through the whole protocol: what `estimate` is held against.

Random weights stand in for the model's, a random mask for the provider's search; what a request costs depends on
neither. Everything else is real: a provider and a device that exchange Flower messages in one process, commitments to
every chunk, curvature from activations, the operator, the draw, the proofs, their verification and the receipt.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context
from torch import nn

from zkapex.circuits.operators.tolerances import GUARD_BITS
from zkapex.circuits.statement import StatementSpec
from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import make_client_app
from zkapex.client.task import Tally
from zkapex.costs.shapes import ModelShapes
from zkapex.costs.workload import Shape, random_mask
from zkapex.errors import InputError
from zkapex.proofs.verify import verify_receipt
from zkapex.server.app import make_server_app
from zkapex.transport.grid import InProcessGrid, run_config_of_app, run_in_process
from zkapex.unlearning.operators.held import HeldTargets
from zkapex.unlearning.planning.guard import guard_blocks
from zkapex.unlearning.planning.mask import ChunkShape
from zkapex.unlearning.planning.search import Outcome, Plan, Setting
from zkapex.unlearning.planning.steps import OnStep, no_step

_EXAMPLES = 512
_BATCH = 32
"""Chunks proved per message: the device reads its state again for each."""
_LAYERS = 8
"""Layers, of which one process proves all of a message."""

_FORGET, _REQUEST = "weights drawn at random", "rehearsal"


@dataclass(frozen=True)
class RehearsalSettings:
    """What is rehearsed.

    Attributes
    ----------
    profile : str
    density : float
        Masked fraction of the target layers' weights, scattered uniformly.
    guard_rank : int
    audit : str
        ``full`` or ``sampled``.
    audit_detect, audit_cheating : float
        Probability with which a sample finds out a cheat on such a fraction of the touched chunks.
    workers : int or None
        Proofs made at a time; default: one per core.
    seed : int
    backend : str
    """

    profile: str = "edge"
    density: float = 0.0005
    guard_rank: int = 4
    audit: str = "sampled"
    audit_detect: float = 0.99
    audit_cheating: float = 0.01
    workers: int | None = None
    seed: int = 0
    backend: str = "halo2"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise InputError(f"--density {self.density} makes no sense", fix="give a fraction above 0, at most 1")


class Stack(nn.Module):
    """Linear layers of given shapes, all fed the same random features; the output is ``[n, 2]``, to have one.

    Parameters
    ----------
    layers : sequence of Shape
    seed : int
        Of the weights, normal with variance 1 / cols.
    """

    def __init__(self, layers: tuple[Shape, ...], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self._names = tuple(shape.name.replace(".", "_") for shape in layers)
        for name, shape in zip(self._names, layers, strict=True):
            layer = nn.Linear(shape.cols, shape.rows, bias=False)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(shape.rows, shape.cols, generator=generator) * shape.cols**-0.5)
            self.add_module(name, layer)

    @property
    def target_layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return self._names

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[n, features]``, features at least as many as the widest layer has columns."""
        total = torch.zeros(len(x), 2)
        for name in self._names:
            layer = self.get_submodule(name)
            total = total + layer(x[:, : layer.in_features])[:, :2]
        return total


def _features(layers: tuple[Shape, ...], seed: int) -> torch.Tensor:
    """Correlated activations ``[n, widest]`` of scales that differ tenfold."""
    generator = torch.Generator().manual_seed(seed)
    width = max(shape.cols for shape in layers)
    scales = torch.rand(width, generator=generator) * 1.8 + 0.2
    return torch.randn(_EXAMPLES, width, generator=generator) * scales + torch.randn(_EXAMPLES, 1, generator=generator)


class RandomTask:
    """A device whose personal weights are the global ones and some noise; see `zkapex.client.task.Task`."""

    def __init__(self, layers: tuple[Shape, ...], seed: int) -> None:
        self._layers, self._seed = layers, seed

    def build_model(self) -> nn.Module:
        """See `Task`."""
        return Stack(self._layers, self._seed)

    def fit_round(self, model: nn.Module, round_number: int) -> int:
        """See `Task`. Leaves the model as it is."""
        return 1

    def fit_personal(
        self,
        model: nn.Module,
        epochs: int,
        learning_rate: float,
        seed: int,
        hold_zero: Mapping[str, torch.Tensor],
        hold_targets: HeldTargets,
    ) -> int:
        """See `Task`. Adds noise of a tenth of the weights' size."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                noise = torch.randn(weight.shape, generator=generator) * (0.1 * weight.std())
                weight.add_(noise)
                held = hold_zero.get(name.removesuffix(".weight"))
                if held is not None:
                    weight[held] = 0.0
        return 1

    def curvature_inputs(self) -> torch.Tensor:
        """See `Task`."""
        return _features(self._layers, self._seed)

    def evaluate(self, model: nn.Module) -> Mapping[str, Tally]:
        """See `Task`. There is nothing to be right about, so one example counts as wrong."""
        return {"personal": Tally(0, 1)}


class RandomProvider:
    """A provider that masks weights drawn at random; see `zkapex.server.federation.provider.Provider`."""

    federation = "rehearsal"

    def __init__(self, model: ModelShapes, density: float, seed: int) -> None:
        self.name = model.name
        self._layers, self._density, self._seed = model.layers, density, seed

    def initial_model(self) -> nn.Module:
        """See `Provider`."""
        return Stack(self._layers, self._seed)

    def target_layers(self, model: nn.Module) -> tuple[str, ...]:
        """See `Provider`."""
        return tuple(shape.name.replace(".", "_") for shape in self._layers)

    def forget_description(self) -> str:
        """See `Provider`."""
        return _FORGET

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        """See `Provider`. A random mask, and guards of random directions."""
        rng = np.random.default_rng(self._seed)
        shapes = [Shape(s.name.replace(".", "_"), s.rows, s.cols) for s in self._layers]
        masks = random_mask(shapes, self._density, rng)
        width, rank = statement.block_width, statement.guard_rank
        guards = {}
        for shape in shapes:
            x = rng.normal(size=(-(-shape.cols // width), 2 * width, width))
            x[-1, :, (shape.cols - 1) % width + 1 :] = 0  # a guard ends where the layer does
            guards[shape.name] = guard_blocks(np.swapaxes(x, 1, 2) @ x, rank, GUARD_BITS)
        masked = sum(int(mask.sum()) for mask in masks.values())
        rows = sum(int(mask.any(1).sum()) for mask in masks.values())
        chunks = ChunkShape(statement.rows_per_chunk, width).touched(masks)
        chosen = Outcome(Setting("random", self._density, rank), masked, rows, chunks, 0, 0, 0, 0, 0, 0, False, False)
        return Plan(chosen, masks, guards, (chosen,))

    def curvature_inputs(self) -> torch.Tensor:
        """See `Provider`."""
        return _features(self._layers, self._seed + 1)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """See `Provider`. There is nothing to be right about."""
        return {}


def rehearse(model: ModelShapes, settings: RehearsalSettings, out: Path) -> dict[str, Any]:
    """Run the request, or go on with it; returns the figures, which ``figures.json`` in `out` holds as well.

    Raises
    ------
    Error
        Whatever keeps a real run from finishing.
    """
    torch.set_num_threads(1)
    config = run_config_of_app(
        {
            "work-dir": str(out),
            "clients": 1,
            "rounds": 1,
            "personal-epochs": 1,
            "profile": settings.profile,
            "operator": "guarded-group-obs",
            "guard-rank": settings.guard_rank,
            "request-id": _REQUEST,
            "audit": settings.audit,
            "audit-detect": settings.audit_detect,
            "audit-cheating": settings.audit_cheating,
            "batch": _LAYERS if settings.backend == "transparent" else _BATCH,
            "backend": settings.backend,
            "timeout-s": 10**6,
            "seed": settings.seed,
        }
    )
    task = RandomTask(model.layers, settings.seed)

    def device(context: Context) -> DeviceAgent:
        return DeviceAgent(out / "device", task, workers=settings.workers)

    grid = InProcessGrid(make_client_app(device), 1, config)
    provider = RandomProvider(model, settings.density, settings.seed)
    run_in_process(make_server_app(lambda context: provider), grid, config)
    result = json.loads((out / "result.json").read_text())
    (client,) = result["clients"]
    if client["verdict"] != "proved":
        raise InputError("the rehearsal did not end with a proof", why=str(client["reason"]))
    start = time.process_time()
    verified = verify_receipt(out / client["receipt"])
    figures = {
        "model": model.name,
        **asdict(settings),
        "target_weights": model.weights,
        "masked_weights": result["plan"]["masked_weights"],
        **{name: client[name] for name in sorted(client) if isinstance(client[name], int | float)},
        "proofs_verified": verified.chunks,
        "verify_receipt_cpu_s": time.process_time() - start,
        "stages": _stages(out),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=1))
    return figures


def _stages(out: Path) -> dict[str, float]:
    """Wall seconds from the beginning of each stage of the (last) run to the next."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    last = max(i for i, event in enumerate(events) if event["event"] == "run.started")
    marks = [e for e in events[last:] if e["event"].endswith((".started", ".completed"))]
    return {f"{a['event'].split('.')[0]}_wall_s": b["time"] - a["time"] for a, b in itertools.pairwise(marks)}
