"""The proof of one layer's change as a job on disk.

A folder holds ``job.npz`` and ``job.json`` (the witness, secret, readable by its owner only);
`zkapex.proofs.layer.prover` leaves the proof beside them as ``proof.bin`` with ``cost.json``, as
`zkapex.proofs.jobs.worker` does.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.compliance import Compliance
from zkapex.circuits.transparent.dampening import Dampening
from zkapex.circuits.transparent.group_obs import Request
from zkapex.proofs.backends.interface import Changed, Secrets
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.jobs.worker import private_file
from zkapex.proofs.layer.state import proof_seed, state_seed
from zkapex.proofs.layer.terms import Terms

_KINDS: dict[str, type[Terms]] = {"group-obs": Request, "compliance": Compliance, "dampening": Dampening}
_NOT_AN_ARRAY = ("layout", "along")


def write_layer_job(
    folder: Path, terms: Terms, secrets: Secrets, change: Changed, unit: int, context: bytes,
    strict: bool = True,
) -> None:  # fmt: skip
    """Put a job into a folder, which is made private to its owner.

    Parameters
    ----------
    terms : Request or Compliance
        What is public.
    context : bytes
        What the proof is bound to.
    strict : bool
        See `zkapex.circuits.transparent.iop.Prover`.
    """
    name, y = secrets.manifest.layers[unit].name, terms.layout
    arrays = {f"public/{f.name}": getattr(terms, f.name) for f in fields(terms) if f.name not in _NOT_AN_ARRAY}
    arrays |= {"before": _narrow(secrets.weights[name]), "after": _narrow(change.weights[name])}
    if y.factor_rank:
        mu = change.mu.get(name, np.zeros((y.blocks, y.rows, y.rank), np.int64))
        arrays["mu"] = np.pad(mu, ((0, 0), (0, 0), (0, y.rank - mu.shape[2])))
        arrays["factors"] = secrets.curvature[name]
    seeds = [state_seed(salts[f"theta/{unit}"]) for salts in (secrets.salts, change.salts)]
    scalars = {
        "kind": next(kind for kind, of in _KINDS.items() if isinstance(terms, of)),
        "along": getattr(terms, "along", True),
        "layout": asdict(y),
        "context": context.hex(),
        "seeds": [seed.hex() for seed in seeds],
        "seed": proof_seed(*seeds).hex(),
        "strict": strict,
    }
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with private_file(folder / "job.npz").open("wb") as f:
        np.savez(f, **arrays)
    private_file(folder / "job.json").write_text(json.dumps(scalars))


def _narrow(weights: IntArray) -> npt.NDArray[np.signedinteger[Any]]:
    """In 32 bits where they fit, as honest ones do: a layer's weights are much of a prover's memory."""
    return weights.astype(np.int32) if np.abs(weights).max(initial=0) < 2**31 else weights
