"""The provider of a simulated run: what it holds, how it searches for a mask, and whom it asks to do so instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import Context
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.records.signing import key_id, load_private_key
from zkapex.server.federation.provider import Delegation
from zkapex.simulation.evaluation.preparation import copies_of, planned
from zkapex.simulation.federation.adversaries import check_cheat
from zkapex.simulation.federation.federation import SimulatedFederation, device_folder, federation_of
from zkapex.simulation.models.tiny import target_layers
from zkapex.simulation.models.training import accuracy
from zkapex.unlearning.planning.search import FRACTIONS, FixedPoint, Plan, SearchSpace
from zkapex.unlearning.planning.standing import Standing
from zkapex.unlearning.planning.steps import OnStep, no_step

ALLOWED_LOSSES = 2.0
"""Times what a search may cost, a proposal may cost on the provider's copies: the holder searched on its own."""
HELD_COST = 0.05
"""What a holder's search may cost at least: its mask is not steered, and of some samples it may have to be large."""
HELD_FRACTIONS = (0.0005, 0.001, *FRACTIONS)
"""Sizes of the mask where only some examples are to be forgotten, and others of their kind stay."""


class ScenarioProvider:
    """The provider of a scenario's federation.

    Parameters
    ----------
    federation : SimulatedFederation
    work_dir : Path, optional
        Folder of the run. Only a simulation can look there for the id of a client.
    """

    def __init__(self, federation: SimulatedFederation, work_dir: Path | None = None) -> None:
        self._federation = federation
        self._work_dir = work_dir
        self.name = self.federation = federation.config.name

    def for_request(self, request_id: str) -> ScenarioProvider:
        """See `zkapex.server.federation.provider.ManyRequests`."""
        return ScenarioProvider(self._federation.for_request(request_id), self._work_dir)

    def initial_model(self) -> nn.Module:
        """See `zkapex.server.federation.provider.Provider`."""
        return self._federation.config.build(self._federation.bench, self._federation.seed)

    def target_layers(self, model: nn.Module) -> tuple[str, ...]:
        """See `zkapex.server.federation.provider.Provider`."""
        return tuple(target_layers(model, self._federation.bench.targets))

    def forget_description(self) -> str:
        """See `zkapex.server.federation.provider.Provider`."""
        return f"{self._federation.bench.forgotten} ({self._federation.config.name}, seed {self._federation.seed})"

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        """See `zkapex.server.federation.provider.Provider`."""
        return self.plan_after(model, statement, Standing(), on_step)

    def plan_after(
        self, model: nn.Module, statement: StatementSpec, standing: Standing, on_step: OnStep = no_step
    ) -> Plan:
        """See `zkapex.server.federation.provider.Continuing`."""
        mine = self._federation
        space = mine.config.space.for_statement(statement)
        # Directions are for good: each of the run's requests has its share of those that a block can be given.
        share = max(1, statement.guard_rank // max(1, len(mine.ids)))
        space = replace(space, opponents=tuple(replace(one, rank=min(one.rank, share)) for one in space.opponents))
        names = self.target_layers(model)
        return planned(
            mine.config, mine.bench, mine.seed, model, names, FixedPoint(statement), space, on_step, standing
        )

    def delegate(self, model: nn.Module, statement: StatementSpec) -> Delegation | None:
        """See `zkapex.server.federation.provider.Delegating`."""
        config, world, request = self._federation.config, self._federation.world, self._federation.request
        if request.holder < 0 or self._work_dir is None:
            return None
        key = load_private_key(device_folder(self._work_dir, request.holder) / "key.pem")
        target, cost = config.space.forget_target, max(config.space.retain_cost, HELD_COST)
        space = SearchSpace(forget_target=target, retain_cost=cost)
        if request.delete != "class":
            unseen = accuracy(model, world.retain_test)
            # What stays looks like what goes: of two masks the one that looks beyond the repair costs the rest less.
            scorers = ("taylor",) if statement.curvature == "none" else ("aware",)
            space = replace(space, scorers=scorers, forget_target=unseen, margin=0.0, fractions=HELD_FRACTIONS)
            world = replace(world, forget_set=world.forget_set.take(torch.arange(0)))
        return Delegation(
            key_id(key.public_key()),
            space,
            lambda: copies_of(config, world, self._federation.seed, model),
            ALLOWED_LOSSES * cost,
        )

    def curvature_inputs(self) -> torch.Tensor:
        """See `zkapex.server.federation.provider.Provider`."""
        return self._federation.world.retain_set.inputs

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """See `zkapex.server.federation.provider.Provider`; on what `SimulatedFederation.judged` says."""
        judged = self._federation.judged(0)
        return {name: accuracy(model, judged[name]) for name in ("forget", "retain")}


def provider(context: Context) -> ScenarioProvider:
    """The provider of a simulated run.

    Raises
    ------
    InputError
        Clients are to cheat in a way that is none for the run's operator; or as
        `zkapex.simulation.federation.federation.federation_of`.
    """
    config = context.run_config
    if int(config["dishonest"]):
        check_cheat(str(config["cheat"]), str(config["operator"]))
    return ScenarioProvider(federation_of(config), Path(str(config["work-dir"])))
