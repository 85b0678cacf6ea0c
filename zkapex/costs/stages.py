"""Where the time of one proof goes: CPU seconds of each stage of proving and verifying a random chunk."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import ezkl
import numpy as np

from zkapex.circuits.halo2.srs import local_srs
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.statement import StatementSpec
from zkapex.costs.workload import Shape, Workload, random_workload
from zkapex.errors import ProverError
from zkapex.proofs.chunk.commitment import commit
from zkapex.proofs.chunk.prove import challenge, complete, leading_points, verify_raw

_SEED = 1
_T = TypeVar("_T")


class _KeyLoading(logging.Handler):
    """CPU seconds between ezkl's log messages before and after it reads the proving key."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Note the time of the two messages."""
        message = record.getMessage()
        for start in ("loading proving key", "loaded proving key"):
            if message.startswith(start):
                self.at[start] = time.process_time()

    def cpu_s(self) -> float:
        """Raise ProverError if ezkl did not say."""
        if len(self.at) != 2:
            raise ProverError("ezkl's log does not say when it reads the proving key", why="it is another release")
        return self.at["loaded proving key"] - self.at["loading proving key"]


def stages(spec: StatementSpec) -> dict[str, float]:
    """CPU seconds by stage, in this process, of a circuit from the cache. The second of two proofs is the one timed.

    Ezkl must not have logged anything in this process: it remembers that nobody listened.
    """
    log, handler = logging.getLogger("ezkl.pfsys"), _KeyLoading()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    built = circuit(spec, local_srs(spec.log2_rows))
    shape = Shape("random", spec.rows_per_chunk, spec.block_width)
    mask = np.random.default_rng(_SEED).random((shape.rows, shape.cols)) < 0.01
    mask[0, 0] = True
    work = random_workload(built, [shape], {shape.name: mask}, _SEED)
    _stages(built, work, handler)
    return _stages(built, work, handler)


def _stages(built: Circuit, work: Workload, handler: _KeyLoading) -> dict[str, float]:
    public, witness = work.instance.public(0), work.change.witness(work.holdings, 0)
    spent: dict[str, float] = {}
    with TemporaryDirectory(prefix="zkapex-stages-") as tmp:
        data, out, proof_file = (Path(tmp) / n for n in ("input.json", "witness.json", "proof.json"))
        private = _timed(spent, "compute the witness", lambda: witness.private(built.spec, public))
        vectors = _timed(spent, "commit, derive the challenge", lambda: complete(built, public, private))
        _timed(spent, "write the input", lambda: data.write_text(json.dumps({"input_data": vectors})))
        files = (str(data), str(built.compiled), str(out), str(built.vk), str(built.srs.path))
        _timed(spent, "fill the circuit", lambda: ezkl.gen_witness(*files))
        prove = (str(out), str(built.compiled), str(built.pk), str(proof_file), str(built.srs.path))
        _timed(spent, "make the proof", lambda: ezkl.prove(*prove))
        proof = bytes(json.loads(proof_file.read_text())["proof"])
    spent["read the proving key"] = handler.cpu_s()
    spent["make the proof"] -= spent["read the proving key"]
    vector = public.vector(built.spec, challenge(built, public, leading_points(built.spec, proof)))
    _timed(spent, "verify: commit to what is public", lambda: commit(built, vector))
    _timed(spent, "verify: check the proof", lambda: verify_raw(built, public.outputs(built.spec), proof))
    return spent


def _timed(spent: dict[str, float], name: str, action: Callable[[], _T]) -> _T:
    start = time.process_time()
    result = action()
    spent[name] = time.process_time() - start
    return result
