"""What a demo can be told, and whether that makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from zkapex.circuits.operators import declared, operator_names
from zkapex.circuits.profiles import CURVATURES, profile
from zkapex.errors import InputError
from zkapex.proofs.backends import ABOUT, DEFAULT, check_backend
from zkapex.server.federation.settings import AUDITS, check_operator
from zkapex.simulation.federation.adversaries import CHEATS, check_cheat
from zkapex.simulation.federation.federation import DIGITS, MAX_REQUESTS, VARIABLES, brought
from zkapex.simulation.federation.held import Request
from zkapex.simulation.scenarios import ScenarioConfig, scenario_config
from zkapex.simulation.scenarios.files import Value, absolute, read_scenario
from zkapex.unlearning.planning.opponent import Opponent

_REQUEST = ("delete", "forget_class", "holder", "forget_samples")
WITHOUT_TARGETS = "guarded-group-obs"
"""The operator where no other is named, and no targets can be planned."""


@dataclass(frozen=True)
class DemoSettings:
    """What the demo can be told.

    Attributes
    ----------
    scenario : str
        Name of the scenario.
    data, model : str
        What it reads, and the pretrained model it starts from.
    classes, pixels : int
        In scenarios of images, how many classes take part, and the images' side; 0: all, and the scenario's.
    clients : int
    dishonest : int
        How many of them cheat.
    cheat : str
        How, see `zkapex.simulation.federation.adversaries.CHEATS`.
    delete : str
        ``class``, ``client`` or ``samples``.
    forget_class : int
        The digit to forget.
    holder : int
        The client that holds what is to be forgotten and chooses mask and guard; -1 for the provider.
    forget_samples : int
        How many of the holder's samples to forget.
    seed : int
    operator, curvature : str
        What is done to the weights, see ``docs/operators.md``.
    backend : str
        What proves it: ``halo2`` or ``transparent``.
    audit : str
        ``full`` or ``sampled``.
    audit_detect, audit_cheating : float
        A sampled audit finds out a client that leaves this fraction of its touched chunks undone with this probability.
    prove_curvature : bool
        Whether clients prove what their curvature was made of.
    requests : int
        How many deletions, one after the other, each of another digit.
    others : mapping
        Further settings of the run, by their names in ``[tool.flwr.app.config]``; they come from a scenario's file.
    """

    scenario: str = DIGITS
    data: str = ""
    model: str = ""
    classes: int = 0
    pixels: int = 0
    clients: int = 4
    dishonest: int = 1
    cheat: str = "half"
    delete: str = "class"
    forget_class: int = 3
    holder: int = -1
    forget_samples: int = 30
    seed: int = 0
    operator: str = "targeted-group-obs"
    curvature: str = "kfac"
    audit: str = "full"
    audit_detect: float = 0.99
    audit_cheating: float = 0.01
    prove_curvature: bool = False
    requests: int = 1
    backend: str = DEFAULT
    others: Mapping[str, Value] = field(default_factory=dict)

    @classmethod
    def of(cls, scenario: str, given: Mapping[str, Any]) -> DemoSettings:
        """The settings of a scenario's file (`read_scenario`), with those that are `given` in place of the file's.

        Data and model that neither names are those of the environment, if the scenario reads any.

        Raises
        ------
        InputError
            There is no such file, or the settings make no sense.
        """
        own = {one.name.replace("_", "-"): one.name for one in fields(cls) if one.name != "others"}
        found = read_scenario(scenario)
        mine = {own[name]: value for name, value in found.items() if name in own} | dict(given)
        config = scenario_config(mine["scenario"])
        if config.name != DIGITS and (wrong := [name for name in _REQUEST if name in mine]):
            raise InputError(
                f"what {config.name} forgets is part of the scenario",
                why=f"{', '.join('--' + name.replace('_', '-') for name in wrong)} would change it",
                fix=f"leave it out, or choose --scenario {DIGITS}",
            )
        for name in VARIABLES:
            mine[name] = absolute(brought(config, name, mine.get(name, "")))
        others = {name: value for name, value in found.items() if name not in own}
        chosen = ABOUT.get(mine.get("backend", cls.backend))
        if chosen is not None and not chosen.samples and "audit" not in given:
            mine["audit"] = "full"  # a scenario's file asks for a sample where everything would be too much
        circuit = profile(str(others.get("profile", "tiny")))
        targeted = _targets(config, mine, circuit.guard_rank)
        operator = mine.setdefault("operator", cls.operator if targeted else WITHOUT_TARGETS)
        if operator in operator_names() and "guards" not in declared(operator).terms:
            others.pop("guard-rank", None)  # it has none
        elif (many := mine.get("requests", 1)) > 1 and _prescribes(operator) and mine.get("backend") == "transparent":
            # The profile's circuit is full: there, requests share the directions that it has.
            others.setdefault("guard-rank", max(circuit.guard_rank, Opponent().rank * many))
        return cls(**mine, others=others)

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= 60:
            raise InputError(f"--clients is {self.clients}", fix="choose a number from 1 to 60")
        if not 0 <= self.dishonest <= self.clients:
            raise InputError(f"--dishonest is {self.dishonest}", fix=f"choose a number from 0 to {self.clients}")
        if self.cheat not in CHEATS:
            raise InputError(f"--cheat is {self.cheat!r}", fix=f"choose one of {', '.join(CHEATS)}")
        for name, choices in (("operator", operator_names()), ("curvature", CURVATURES)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} is {getattr(self, name)!r}", fix=f"choose one of {', '.join(choices)}")
        check_operator(self.operator, self.curvature, prove_curvature=self.prove_curvature)
        check_backend(self.backend, self.operator, self.curvature, self.audit)
        if self.dishonest:
            check_cheat(self.cheat, self.operator)
        if self.dishonest and self.cheat == "replay" and self.dishonest == self.clients:
            raise InputError("somebody must be honest for others to replay their proofs", fix="lower --dishonest")
        self.request.check(self.clients)
        if self.holder >= 0 and not declared(self.operator).holder_plans:
            raise InputError(
                f"a client that chooses the mask cannot choose the factors of {self.operator}", fix="leave --holder out"
            )
        if not 0 <= self.seed < 2**20:
            raise InputError(f"--seed is {self.seed}", fix=f"choose a number from 0 to {2**20 - 1}")
        if not 1 <= self.requests <= MAX_REQUESTS:
            raise InputError(f"--requests is {self.requests}", fix=f"choose a number from 1 to {MAX_REQUESTS}")
        if self.requests > 1 and (self.scenario != DIGITS or self.delete != "class" or self.holder >= 0):
            raise InputError(
                "several requests are for digits that the provider wants forgotten only",
                fix=f"leave --requests out, or choose --scenario {DIGITS} without --delete and --holder",
            )
        rank = int(self.others.get("guard-rank", -1))
        most = profile(str(self.others.get("profile", "tiny"))).guard_rank if rank < 0 else rank
        if self.requests > most and declared(self.operator).statement.constrains_result:
            raise InputError(
                f"--requests is {self.requests}, and {self.operator} has room for {most}",
                why="each prescribes along directions of its own, for good, and the guard has so many columns",
                fix="ask for fewer, or choose --operator guarded-group-obs",
            )
        if self.audit not in AUDITS:
            raise InputError(f"--audit is {self.audit!r}", fix=f"choose {' or '.join(AUDITS)}")
        for name in ("audit_detect", "audit_cheating"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}", fix="choose a number above 0, and at most 1"
                )

    @property
    def request(self) -> Request:
        """What is to be forgotten, and who holds it."""
        return Request(self.delete, self.forget_class, self.holder, self.forget_samples)

    @property
    def run_config(self) -> dict[str, Value]:
        """What Flower is told."""
        own = {one.name.replace("_", "-"): getattr(self, one.name) for one in fields(self) if one.name != "others"}
        own["requests"] = ",".join(self.request_ids) if self.requests > 1 else ""
        return {**self.others, **own}

    @property
    def request_ids(self) -> tuple[str, ...]:
        """Ids of the requests, in order."""
        if self.requests == 1:
            return (str(self.others.get("request-id", "request-1")),)
        return tuple(f"request-{number}" for number in range(1, self.requests + 1))

    @property
    def shareable(self) -> dict[str, Any]:
        """As a summary tells them: of data and model on this disk the name alone."""
        names = {name: getattr(self, name) for name in ("data", "model")}
        return asdict(self) | {name: Path(v).name if Path(v).is_absolute() else v for name, v in names.items()}


def _prescribes(operator: str) -> bool:
    """Whether it takes directions for good."""
    return operator in operator_names() and declared(operator).statement.constrains_result


def _targets(config: ScenarioConfig, mine: Mapping[str, Any], circuits_rank: int) -> bool:
    """Whether targets can be planned for a demo: by the provider, for a class, in a scenario with layers for them.

    Each request needs a direction of its own of the `circuits_rank` that a circuit has room for.
    """
    by_provider = mine.get("delete", "class") == "class" and mine.get("holder", -1) < 0
    room = mine.get("backend") == "transparent" or mine.get("requests", 1) <= circuits_rank
    return bool(config.targeted) and by_provider and room and mine.get("curvature", "kfac") == "kfac"
