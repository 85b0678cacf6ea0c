"""A proving job on disk, and what a worker process (`zkapex.proofs.jobs.service`) does with it.

A job's folder holds ``job.npz`` and ``job.json`` (the witness, secret, readable
by its owner only); the finished proof appears beside them as ``proof.bin`` with ``cost.json``, atomically, cost first.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit
    from zkapex.proofs.chunk.public import PublicInputs
    from zkapex.proofs.chunk.witness import Witness

PROOF, COST = "proof.bin", "cost.json"


@dataclass(frozen=True)
class Cost:
    """What one proof cost.

    Attributes
    ----------
    cpu_s : float
        CPU seconds of the proving process, summed over its threads.
    peak_rss_mb : float
        Largest resident memory of the proving process so far, in 10^6 bytes.
    """

    cpu_s: float
    peak_rss_mb: float


def write_job(folder: Path, public: PublicInputs, witness: Witness) -> None:
    """Put a job where a worker finds it; the folder is made private to its owner."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    salted = witness.salted()
    arrays = {"mask": public.mask, "guard": public.guard, "dampening": public.dampening, "steering": public.steering}
    arrays["mu"] = witness.mu
    given = {name: array for name, array in arrays.items() if array is not None}
    with private_file(folder / "job.npz").open("wb") as f:
        np.savez(f, **given, **{name: vector.values for name, vector in salted.items()})  # type: ignore[arg-type]
    scalars = {
        "tau_stationarity": public.tau_stationarity,
        "tau_guard": public.tau_guard,
        "context": str(public.context),
        "salts": {name: [str(s) for s in vector.salts] for name, vector in salted.items()},
    }
    private_file(folder / "job.json").write_text(json.dumps(scalars))


def read_job(folder: Path) -> tuple[PublicInputs, Witness]:
    """The inverse of `write_job`."""
    from zkapex.proofs.chunk.public import PublicInputs
    from zkapex.proofs.chunk.witness import SaltedVector, Witness

    scalars = json.loads((folder / "job.json").read_text())
    with np.load(folder / "job.npz", allow_pickle=False) as arrays:
        a = {k: arrays[k] for k in arrays.files}
    salted = {n: SaltedVector(a[n], tuple(int(s) for s in salts)) for n, salts in scalars["salts"].items()}
    tolerances = scalars["tau_stationarity"], scalars["tau_guard"]
    optional = a.get("dampening"), a.get("steering")
    public = PublicInputs(a["mask"], a["guard"], *tolerances, int(scalars["context"]), *optional)
    return public, Witness(salted["theta_u"], salted.get("delta"), salted.get("factor"), a.get("mu"))


def finished(folder: Path) -> tuple[bytes, Cost] | None:
    """The proof and cost of a job that is done, or None."""
    try:
        return (folder / PROOF).read_bytes(), Cost(**json.loads((folder / COST).read_text()))
    except FileNotFoundError:
        return None


def run_job(circuit: Circuit, folder: Path) -> Cost:
    """Prove one job and leave the result in its folder; the witness is deleted."""
    from zkapex.proofs.chunk.prove import prove_chunk

    before = _cpu_s()
    proof = prove_chunk(circuit, *read_job(folder))
    cost = Cost(_cpu_s() - before, peak_rss_mb())
    leave_proof(folder, proof, cost)
    return cost


def leave_proof(folder: Path, proof: bytes, cost: Cost) -> None:
    """Finish a job, whole or not at all; its witness is deleted."""
    for name, data in ((COST, json.dumps(cost.__dict__).encode()), (PROOF, proof)):
        partial = private_file(folder / f".{name}")
        with partial.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())  # or a loss of power leaves an empty proof under a name that says it is whole
        partial.rename(folder / name)
    forget_witness(folder)


def forget_witness(folder: Path) -> None:
    """Delete a job's witness, if it is still there."""
    for name in ("job.npz", "job.json"):
        (folder / name).unlink(missing_ok=True)


def peak_rss_mb() -> float:
    """Largest resident memory of this process since it started its program, in 10^6 bytes.

    Not ``ru_maxrss``: that survives ``exec``, so a small process started by a large one would report the large one's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _cpu_s() -> float:
    return time.process_time()


def private_file(path: Path) -> Path:
    """Make a file that only its owner reads."""
    path.touch(mode=0o600)
    return path
