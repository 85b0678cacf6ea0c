"""The process that proves layers, one job after the other.

    python -m zkapex.proofs.layer.prover

reads the folders of jobs (`zkapex.proofs.layer.job`) from standard input, a line each, and answers each with a line of
JSON: null, or an error. It is a process of its own because peak memory matters on an edge device: it imports neither
torch nor Flower, nor what messages are made of, and its memory goes back with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
import time
from pathlib import Path

import numpy as np

from zkapex.circuits.transparent.compliance import Compliance, Held
from zkapex.circuits.transparent.dampening import Dampened, Dampening
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.group_obs import Request, Witness
from zkapex.circuits.transparent.layout import Layout, commit
from zkapex.circuits.transparent.params import Parameters
from zkapex.circuits.transparent.prove import Private, prove_change
from zkapex.errors import Error, InputError
from zkapex.proofs.jobs.worker import Cost, leave_proof, peak_rss_mb


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
    y = Layout(**scalars["layout"] | {"parameters": Parameters(**scalars["layout"]["parameters"])})
    public = {name.removeprefix("public/"): a for name, a in arrays.items() if name.startswith("public/")}
    old_seed, new_seed = (bytes.fromhex(seed) for seed in scalars["seeds"])
    before, after = arrays.pop("before"), arrays.pop("after")
    terms: Request | Compliance | Dampening
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
    seed, context = bytes.fromhex(scalars["seed"]), bytes.fromhex(scalars["context"])
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
