"""The program of a worker process: ``python -m zkapex.proofs.jobs.service KIND CIRCUIT SRS [SHARED]``.

Answers one line once the circuit is open, then reads folders of jobs from standard input, one a line, and answers one
line of JSON for each. Ends when standard input closes, and so with its owner, however that ends.

It is a process of its own because peak memory matters on an edge device: it imports neither torch nor Flower, its
memory goes back to the system with it, and a verifier that a malicious proof should bring down takes nobody along.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from zkapex.circuits.halo2.store import Circuit
from zkapex.errors import Error, ProverError
from zkapex.proofs.jobs.claim import Checker
from zkapex.proofs.jobs.worker import Cost, run_job


def job_of(kind: str, circuit: Circuit, shared: Path | None) -> Callable[[Path], Cost]:
    """What to do with a folder of the given kind."""
    if kind == "verify":
        return Checker(circuit, shared).run_job
    if kind == "prove":
        return partial(run_job, circuit)
    raise ProverError(f"there are no jobs of the kind {kind!r}")


def _guarded(action: Callable[[], dict[str, object]]) -> dict[str, object]:
    try:
        return action()
    except Error as e:
        return {"error": [e.what, e.why, e.fix]}
    except Exception as e:  # whatever a damaged archive or a full disk raises, the next job may be sound
        return {"error": ["a proving job could not be read or stored", repr(e), "free disk space, retry"]}


def _cost(job: Callable[[Path], Cost], folder: Path) -> dict[str, object]:
    return {"cost": asdict(job(folder))}


def main() -> None:
    """Serve jobs until standard input closes."""
    kind, folder, srs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    shared = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    jobs: list[Callable[[Path], Cost]] = []

    def begin() -> dict[str, object]:
        jobs.append(job_of(kind, Circuit.open(folder, srs), shared))
        return {"ready": kind}

    # ezkl prints to standard output and error; answers go to a duplicate of the original standard output.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        answers.write(json.dumps(_guarded(begin)) + "\n")
        for line in sys.stdin if jobs else ():
            answers.write(json.dumps(_guarded(partial(_cost, jobs[0], Path(line.rstrip("\n"))))) + "\n")


if __name__ == "__main__":
    main()
