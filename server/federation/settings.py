"""What a run of the provider can be told, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zkapex.circuits.operators import declared, operator_names
from zkapex.circuits.profiles import CURVATURES, profile
from zkapex.errors import InputError
from zkapex.proofs.backends import check_backend
from zkapex.proofs.messages import MAX_BATCH

AUDITS = ("full", "sampled")
ADMISSIONS = ("open", "listed")
DECISIVE = (
    "rounds", "personal_epochs", "personal_lr", "profile", "operator", "curvature", "guard_rank",
    "prove_curvature", "seed", "backend",
)  # fmt: skip
"""Settings on which what is already done depends. Others may differ when a run is gone on with."""
_ID = re.compile("[a-z0-9][a-z0-9-]{0,63}")


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
    requests : str
        Ids of several requests, carried out one after the other, with commas between; empty for `request_id` alone.
    rounds_between : int
        Rounds of federated averaging before every request but the first.
    personalise_between : bool
        Whether devices personalise the global model anew before every request but the first.
    tune_epochs, tune_lr : int, float
        How long, and with which learning rate, devices train on after a request that prescribes what the result is
        along directions, which costs accuracy: with all of that held, and proved to be. No epochs: they do not.
    lifetime_days : float
        How long clients may take to answer a request and prove it.
    admission : str
        ``open``: whoever comes is enrolled. ``listed``: only clients and nodes an operator has admitted are.
    verify_workers : int
        Processes that verify proofs; 0: this process, in a thread of its own.
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
    srs : str
        Reference string of the proof system: ``local`` (made here, convinces nobody else), a file, or the digest of one
        imported with `zkapex srs import`.
    backend : str
        What proves: ``halo2``, or ``transparent``, see `zkapex.proofs.backends`.
    tsa : str
        Address of a timestamping authority that stamps every receipt; empty: none.
    """

    rounds: int
    personal_epochs: int
    personal_lr: float
    profile: str
    operator: str
    curvature: str
    guard_rank: int
    request_id: str
    requests: str
    rounds_between: int
    personalise_between: bool
    lifetime_days: float
    admission: str
    verify_workers: int
    audit: str
    audit_detect: float
    audit_cheating: float
    prove_curvature: bool
    batch: int
    timeout_s: int
    seed: int
    srs: str = "local"
    tsa: str = ""
    backend: str = "halo2"
    tune_epochs: int = 0
    tune_lr: float = 2e-3

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
            value = config.get(name.replace("_", "-"), getattr(cls, name, None))
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
            ("rounds_between", 0, 10_000),
            ("tune_epochs", 0, 10_000),
            ("verify_workers", 0, 1024),
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
        choices_of = (
            ("audit", AUDITS),
            ("operator", operator_names()),
            ("curvature", CURVATURES),
            ("admission", ADMISSIONS),
        )
        for name, choices in choices_of:
            if getattr(self, name) not in choices:
                raise InputError(
                    f"run setting {name} is {getattr(self, name)!r}", fix=f"choose one of {', '.join(choices)}"
                )
        profile(self.profile)
        check_operator(self.operator, self.curvature, self.guard_rank, self.prove_curvature)
        check_backend(self.backend, self.operator, self.curvature, self.audit)
        for name in ("personal_lr", "tune_lr"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(
                    f"run setting {name.replace('_', '-')} is {getattr(self, name)}",
                    fix="give a number between 0 and 1",
                )
        if not 0 < self.lifetime_days <= 3650:
            raise InputError(f"run setting lifetime-days is {self.lifetime_days}", fix="give a number of days above 0")
        if not _ID.fullmatch(self.request_id):
            raise InputError(
                f"run setting request-id is {self.request_id!r}", fix="use lower-case letters, digits and hyphens"
            )
        ids = self.request_ids
        if not all(_ID.fullmatch(one) for one in ids) or len(set(ids)) != len(ids):
            raise InputError(
                f"run setting requests is {self.requests!r}",
                fix="give different ids of lower-case letters, digits and hyphens, with commas between them",
            )

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The requests of this run, in order."""
        return tuple(self.requests.split(",")) if self.requests else (self.request_id,)


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
