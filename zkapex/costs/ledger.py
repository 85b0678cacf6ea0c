"""What a log of many entries costs: appending, proving, and checking it whole."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zkapex.errors import InputError
from zkapex.proofs.ledger.entry import entry
from zkapex.proofs.ledger.log import Log, check_log
from zkapex.proofs.ledger.policy import LogPolicy

_SAMPLE = 100


def measure_log(entries: int, batch: int, folder: Path | None = None) -> dict[str, Any]:
    """Fill a log, then measure one more append, a proof, its verification, and a check of everything.

    Parameters
    ----------
    entries, batch : int
        How many entries, and how many of them are appended together.
    folder : Path, optional
        Where; by default in a temporary folder that is removed again.

    Returns
    -------
    dict
        CPU and wall seconds by what was done, bytes and files that are published, and the length of a proof in bytes.

    Raises
    ------
    InputError
        There would be nothing to measure.
    """
    if entries < 1 or batch < 1:
        raise InputError("a log of no entries costs nothing", fix="--entries and --batch are at least 1")
    with tempfile.TemporaryDirectory(prefix="zkapex-ledger-", dir=folder) as tmp:
        return _measured(Path(tmp) / "log", entries, batch)


def _measured(folder: Path, entries: int, batch: int) -> dict[str, Any]:
    log = Log.create(folder, "zkapex.example/bench")
    nonces = [hashlib.sha256(b"nonce %d" % number).digest() for number in range(entries)]
    payloads = [hashlib.sha256(b"payload %d" % number).hexdigest() for number in range(entries)]
    bodies = [entry(nonce, payload) for nonce, payload in zip(nonces, payloads, strict=True)]
    found: dict[str, Any] = {"entries": entries, "batch": batch}

    def filled() -> None:
        for start in range(0, entries, batch):
            log.append(bodies[start : start + batch])

    found["append_all"] = _timed(filled, 1)
    singles = iter([entry(hashlib.sha256(b"more %d" % number).digest(), payloads[0]) for number in range(10)])
    found["append_one"] = _timed(lambda: log.append([next(singles)]), 10)
    policy = LogPolicy((log.verifier,))
    sample = [number * (entries - 1) // max(1, _SAMPLE - 1) for number in range(_SAMPLE)]
    proofs = []
    numbers = iter(sample)

    def prove() -> None:
        number = next(numbers)
        proofs.append((number, log.prove(bodies[number], nonces[number])))

    found["prove_one"] = _timed(prove, _SAMPLE)
    rest = iter(proofs)

    def verify() -> None:
        number, proof = next(rest)
        proof.verify(payloads[number], policy)

    found["verify_one"] = _timed(verify, _SAMPLE)
    found["consistency"] = _timed(lambda: log.consistency(entries // 2), 1)
    found["check_all"] = _timed(lambda: check_log(log.www, log.verifier), 1)
    published = [path for path in log.www.rglob("*") if path.is_file()]
    found["published_files"] = len(published)
    found["published_mb"] = round(sum(path.stat().st_size for path in published) / 1e6, 3)
    found["proof_bytes"] = len(proofs[-1][1].to_bytes())
    return found


def _timed(action: Callable[[], object], times: int) -> dict[str, float]:
    """CPU and wall seconds of an action, the mean of so many times."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        action()
    return {
        "cpu_s": round((time.process_time() - cpu) / times, 6),
        "wall_s": round((time.perf_counter() - wall) / times, 6),
    }
