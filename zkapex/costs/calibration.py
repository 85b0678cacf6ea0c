"""What one chunk costs on this machine, measured once per statement, processor and release, and kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zkapex.circuits.cache import cache_root
from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.jobs.resources import cores


class Rates(BaseModel):
    """What one chunk costs.

    Attributes
    ----------
    prove_cpu_s : float
        CPU seconds of proving while every core proves, one thread each; and so its wall seconds, if the cores have
        nothing else to do.
    verify_cpu_s : float
        CPU seconds of verifying.
    commit_cpu_s : float
        CPU seconds of one commitment to a chunk's weights.
    proof_bytes : int
    peak_rss_mb : float
        Of one prover, in 10^6 bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prove_cpu_s: float = Field(gt=0)
    verify_cpu_s: float = Field(gt=0)
    commit_cpu_s: float = Field(gt=0)
    proof_bytes: int = Field(gt=0)
    peak_rss_mb: float = Field(gt=0)


class LayerRates(BaseModel):
    """What a layer costs with the transparent backend, by what is fixed and by weight.

    Attributes
    ----------
    start : float
        CPU seconds of a process that proves before its first layer: imports, and loading machine code.
    prove, verify, commit, enrol, verify_enrolment : tuple of float
        CPU seconds of a layer, and of a weight: of proving a request (with the commitments to its states), verifying
        it, committing to a state, committing to and proving an enrolled one, and verifying that.
    proof_bytes, enrolment_bytes, peak_rss_mb : tuple of float
        Likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start: float = Field(ge=0)
    prove: tuple[float, float]
    verify: tuple[float, float]
    commit: tuple[float, float]
    enrol: tuple[float, float]
    verify_enrolment: tuple[float, float]
    proof_bytes: tuple[float, float]
    enrolment_bytes: tuple[float, float]
    peak_rss_mb: tuple[float, float]


R = TypeVar("R", bound=BaseModel)


def machine() -> dict[str, str | int]:
    """The processor, the cores this process may use, and the releases that decide what proving costs."""
    releases: dict[str, str | int] = {"zkapex_version": version("zkapex")}
    for name in ("ezkl", "numba"):
        with contextlib.suppress(PackageNotFoundError):
            releases[f"{name}_version"] = version(name)
    return {"cpu": _cpu_model(), "cores": cores(), **releases}


def calibrated(spec: StatementSpec, measure: Callable[[], R], fresh: bool = False, kind: type[R] = Rates) -> R:  # type: ignore[assignment]
    """The rates of a statement on this machine: those kept from before, or else what `measure` returns, which is kept.

    Parameters
    ----------
    fresh : bool
        Measure in any case.
    kind : type
        What is measured.
    """
    path = calibration_file(spec, "" if kind is Rates else kind.__name__)
    if not fresh:
        try:
            return kind.model_validate_json(path.read_text())
        except (OSError, ValidationError):
            pass  # none yet, or damaged: measuring again is always right
    rates = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(rates.model_dump_json())
    partial.rename(path)
    return rates


def calibration_file(spec: StatementSpec, kind: str = "") -> Path:
    """Where the rates of a statement on this machine are kept."""
    statement = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    identity = json.dumps({"statement": statement, "kind": kind, **machine()}, sort_keys=True)
    return cache_root() / "calibration" / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
