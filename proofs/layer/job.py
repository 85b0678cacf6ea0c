"""The proof of one layer's change as a job on disk, and the process that does such jobs.

    python -m zkapex.proofs.layer.job

reads the folders of jobs from standard input, a line each, and answers each with a line of JSON: null, or an error. A
folder holds ``job.npz`` and ``job.json`` (the witness, secret, readable by its owner only); the proof appears beside
them as ``proof.bin`` with ``cost.json``, as `zkapex.proofs.jobs.worker` leaves it. It is a process of its own because
peak memory matters on an edge device: it imports neither torch nor Flower, and its memory goes back with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zkapex.circuits.statement import StatementSpec
from zkapex.circuits.transparent.compliance import Compliance, Held
from zkapex.circuits.transparent.dampening import Dampened, Dampening
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.group_obs import Request, Witness
from zkapex.circuits.transparent.layout import commit
from zkapex.circuits.transparent.prove import Private, prove_change
from zkapex.errors import Error, InputError
from zkapex.proofs.backends.interface import Changed, Secrets
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.jobs.worker import Cost, leave_proof, peak_rss_mb, private_file
from zkapex.proofs.layer.state import proof_seed, state_seed
from zkapex.proofs.layer.terms import Terms, layout_for

_KINDS: dict[str, type[Terms]] = {"group-obs": Request, "compliance": Compliance, "dampening": Dampening}
_NOT_AN_ARRAY = ("layout", "along")


def write_layer_job(
    folder: Path, terms: Terms, spec: StatementSpec, secrets: Secrets, change: Changed, unit: int, context: bytes,
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
    salts = f"theta/{unit}"
    scalars = {
        "kind": next(kind for kind, of in _KINDS.items() if isinstance(terms, of)),
        "along": getattr(terms, "along", True),
        "spec": spec.model_dump_json(),
        "shape": [y.rows, y.cols, y.kappa],
        "context": context.hex(),
        "seeds": [state_seed(secrets.salts[salts]).hex(), state_seed(change.salts[salts]).hex()],
        "strict": strict,
    }
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with private_file(folder / "job.npz").open("wb") as f:
        np.savez(f, **arrays)
    private_file(folder / "job.json").write_text(json.dumps(scalars))


def _narrow(weights: IntArray) -> npt.NDArray[np.signedinteger[Any]]:
    """In 32 bits where they fit, as honest ones do: a layer's weights are much of a prover's memory."""
    return weights.astype(np.int32) if np.abs(weights).max(initial=0) < 2**31 else weights


def run_layer_job(folder: Path, since: float | None = None) -> Cost:
    """Prove one job and leave the result in its folder; the witness is deleted.

    Parameters
    ----------
    since : float, optional
        From which CPU second of this process on its cost is counted; default: from now.
    """
    start = time.process_time() if since is None else since
    scalars = json.loads((folder / "job.json").read_text())
    with np.load(folder / "job.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    y = layout_for(StatementSpec.model_validate_json(scalars["spec"]), *scalars["shape"])
    public = {name.removeprefix("public/"): a for name, a in arrays.items() if name.startswith("public/")}
    old_seed, new_seed = (bytes.fromhex(seed) for seed in scalars["seeds"])
    before, after = arrays.pop("before"), arrays.pop("after")
    terms: Terms
    witness: Private
    if scalars["kind"] == "group-obs":
        terms = Request(y, **public)
        h = Enrolled(before, arrays["factors"]).curvature(y)
        if h is None:
            raise InputError("a job without curvature is no job of Group-OBS")
        witness = Witness(before, after, arrays["mu"], h)
        old, new = commit(y, before, h, old_seed), commit(y, after, h, new_seed)
    elif scalars["kind"] == "dampening":
        terms, witness = Dampening(y, **public), Dampened(before, after)
        old, new = commit(y, before, None, old_seed), commit(y, after, None, new_seed)
    else:
        terms = Compliance(y, **public, along=scalars["along"])
        witness, old, new = Held(after), None, commit(y, after, None, new_seed)
    del before, after  # the witness forgets them in time
    seed, context = proof_seed(old_seed, new_seed), bytes.fromhex(scalars["context"])
    proof = prove_change(terms, old, new, witness, context, seed, strict=scalars["strict"], forget=True)
    cost = Cost(time.process_time() - start, peak_rss_mb())
    leave_proof(folder, proof, cost)
    return cost


def give_back() -> None:
    """Return what the allocator keeps for later: the next layer is not to be the larger for it."""
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def main() -> int:
    """Do the jobs that standard input names, one after the other, until it ends.

    What it takes to start is part of what the first one costs.
    """
    sys.modules["scipy.linalg"] = None  # type: ignore[assignment]  # numba would look there for what no kernel uses
    since: float | None = 0.0
    for line in sys.stdin:
        answer = None
        try:
            run_layer_job(Path(line.rstrip("\n")), since)
        except Error as e:
            answer = [type(e).__name__, e.what, e.why, e.fix]
        since = None
        give_back()
        print(json.dumps(answer), flush=True)  # noqa: T201 - for whoever started it
    return 0


if __name__ == "__main__":
    sys.exit(main())
