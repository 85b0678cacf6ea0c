"""What a run of the provider can be told, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zkapex.circuits.operators import declared, operator_names
from zkapex.circuits.profiles import CURVATURES, profile
from zkapex.errors import InputError
from zkapex.proofs.messages import MAX_BATCH

AUDITS = ("full", "sampled")


@dataclass(frozen=True)
class RunSettings:
    """What a run can be told; the keys of ``[tool.flwr.app.config]`` with ``-`` for ``_``.

    Attributes
    ----------
    rounds : int
        Rounds of federated averaging.
    personal_epochs, personal_lr : int, float
        Personalisation on each device.
    profile : str
        Circuit profile, see `zkapex.circuits.profiles`.
    operator, curvature : str
        What is done to the weights, see ``docs/operators.md``. Only guarded-group-obs looks at the curvature.
    guard_rank : int
        -1: the profile's for guarded-group-obs, and 0 for operators without a guard.
    request_id : str
    audit : str
        ``full``: every touched chunk is proved. ``sampled``: as many, drawn at random, as the next two ask for.
    audit_detect, audit_cheating : float
        Probability of finding out a client that leaves this fraction of its touched chunks undone, one at least.
    prove_curvature : bool
        Whether devices prove, when they enrol, that their curvature is the second moment of committed activations.
    batch : int
        Chunks proved per message.
    timeout_s : int
        How long to wait for the answer to one message.
    seed : int
    """

    rounds: int
    personal_epochs: int
    personal_lr: float
    profile: str
    operator: str
    curvature: str
    guard_rank: int
    request_id: str
    audit: str
    audit_detect: float
    audit_cheating: float
    prove_curvature: bool
    batch: int
    timeout_s: int
    seed: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RunSettings:
        """From Flower's run configuration.

        Raises
        ------
        InputError
            A setting is missing, of another type or out of range.
        """
        values = {}
        for name, kind in cls.__annotations__.items():
            value = config.get(name.replace("_", "-"))
            wanted = {"int": int, "float": float, "str": str, "bool": bool}[kind]
            accepted = (int, float) if wanted is float else wanted
            if isinstance(value, bool) != (wanted is bool) or not isinstance(value, accepted):
                raise InputError(
                    f"run setting {name.replace('_', '-')} is {value!r}", fix=f"give a value of type {kind}"
                )
            values[name] = wanted(value)
        return cls(**values)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rounds", 1, 10_000),
            ("personal_epochs", 1, 10_000),
            ("guard_rank", -1, 64),
            ("batch", 1, MAX_BATCH),
            ("timeout_s", 1, 10**7),
            ("seed", 0, 2**20 - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"run setting {name.replace('_', '-')} is {getattr(self, name)}",
                    fix=f"give a number from {low} to {high}",
                )
        for name in ("audit_detect", "audit_cheating"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"run setting {name.replace('_', '-')} is {getattr(self, name)}",
                    fix="give a number above 0, and at most 1",
                )
        for name, choices in (("audit", AUDITS), ("operator", operator_names()), ("curvature", CURVATURES)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"run setting {name} is {getattr(self, name)!r}", fix=f"choose one of {', '.join(choices)}"
                )
        profile(self.profile)
        check_operator(self.operator, self.curvature, self.guard_rank, self.prove_curvature)
        if not 0 < self.personal_lr < 1:
            raise InputError(f"run setting personal-lr is {self.personal_lr}", fix="give a number between 0 and 1")
        if not re.fullmatch("[a-z0-9][a-z0-9-]{0,63}", self.request_id):
            raise InputError(
                f"run setting request-id is {self.request_id!r}", fix="use lower-case letters, digits and hyphens"
            )


def check_operator(operator: str, curvature: str, guard_rank: int = -1, prove_curvature: bool = False) -> None:
    """Refuse what an operator has no use for.

    Raises
    ------
    InputError
        A guard is asked for, or curvature other than by default, and the operator has none; or proofs of curvature
        for which there is no circuit.
    """
    curvatures = declared(operator).statement.curvatures
    provable = [name for name in operator_names() if "kfac" in declared(name).statement.curvatures]
    repairing = [name for name in operator_names() if declared(name).statement.curvatures]
    if prove_curvature and (operator not in provable or curvature != "kfac"):
        raise InputError(
            f"proofs of curvature are asked for, and operator {operator} with {curvature} curvature",
            why=f"only the kfac curvature of {' or '.join(provable)} can be proved",
            fix=f"leave prove-curvature out, or choose operator {' or '.join(provable)} and curvature kfac",
        )
    if guard_rank > 0 and "guards" not in declared(operator).terms:
        raise InputError(
            f"a guard of rank {guard_rank} is asked for, and operator {operator}",
            why="it repairs nothing that a guard could guard",
            fix=f"leave guard-rank out, or choose operator {' or '.join(repairing)}",
        )
    if curvature not in (curvatures or CURVATURES[:1]):
        raise InputError(
            f"{curvature} curvature is asked for, and operator {operator}",
            why="it looks at no curvature" if not curvatures else f"it knows {', '.join(curvatures)}",
            fix=f"leave curvature out, or choose operator {' or '.join(repairing)}",
        )
