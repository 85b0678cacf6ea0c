"""Many proofs checked in worker processes: each gets the verdict it would get alone."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
from tiny import tiny

from zkapex.costs.workload import Shape, Workload, random_mask, random_workload
from zkapex.errors import CommitmentError, ProofError, ResourceError
from zkapex.proofs.chunk.prove import prove_chunk
from zkapex.proofs.jobs.batch import BatchVerifier
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.jobs.interface import VERDICT, Work, leave_verdict, read_verdict
from zkapex.proofs.jobs.process import WorkerProcess
from zkapex.proofs.jobs.progress import Progress
from zkapex.proofs.jobs.worker import Cost


@cache
def workload() -> Workload:
    """Two layers, 6 chunks, some of them padded."""
    shapes = [Shape("fc1", 40, 64), Shape("fc2", 33, 20)]
    return random_workload(tiny(), shapes, random_mask(shapes, 0.01, np.random.default_rng(3)), seed=4)


@cache
def proofs() -> dict[int, bytes]:
    work = workload()
    chunks = work.instance.touched[:2]
    return {c: prove_chunk(tiny(), work.instance.public(c), work.change.witness(work.holdings, c)) for c in chunks}


def test_a_claim_round_trips(tmp_path: Path) -> None:
    claim = workload().claim()
    claim.save(tmp_path / "claim")
    loaded = Claim.load(tmp_path / "claim")
    assert (loaded.manifest, loaded.request) == (claim.manifest, claim.request)
    assert (list(loaded.pre), list(loaded.post)) == (list(claim.pre), list(claim.post))
    assert loaded.curvature == claim.curvature
    chunk, proof = next(iter(proofs().items()))
    assert loaded.verifier(tiny()).verify(chunk, proof) > 0


def verifying() -> set[int]:
    """Processes of this one that verify; another test's may be ending meanwhile."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "verify" in child.cmdline():
                found.add(child.pid)
    return found


def test_verdicts_are_those_of_single_checks_and_workers_stay(tmp_path: Path) -> None:
    (first, a), (second, b) = proofs().items()
    flipped = a[:700] + bytes([a[700] ^ 1]) + a[701:]
    seen: list[Progress] = []
    with BatchVerifier(tiny(), workload().claim(), workers=2) as verifier:
        good = verifier.verify({first: a, second: b}, seen.append)
        before = verifying()
        assert len(before) == 2
        bad = verifier.verify({first: b, second: b[:-1], 10**6: a})
        wrong = verifier.verify({first: flipped})
        assert verifying() == before
    assert [v.error for v in good.values()] == [None, None]
    assert all(0 < v.cpu_s < 10 for v in good.values())
    assert (seen[-1].done, seen[-1].total) == (2, 2)
    assert isinstance(bad[first].error, CommitmentError)
    assert isinstance(bad[second].error, ProofError)
    assert "bytes" in bad[second].error.what
    assert "no chunk" in str(bad[10**6].error)
    assert isinstance(wrong[first].error, ProofError | CommitmentError)
    assert not [p for p in psutil.Process().children() if p.pid in before and p.status() != psutil.STATUS_ZOMBIE]


def test_a_proof_that_ends_its_verifier_is_rejected_and_the_others_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No such proof is known: the process is ended by hand, as a crash in the verifier would."""
    chunk, proof = next(iter(proofs().items()))
    ask, crashed = WorkerProcess.ask, []

    def crash(self: WorkerProcess, folder: Path) -> dict[str, object]:
        if folder.name == "7":
            crashed.append(folder)
            os.kill(self._process.pid, signal.SIGSEGV)
        return ask(self, folder)

    monkeypatch.setattr(WorkerProcess, "ask", crash)
    with BatchVerifier(tiny(), workload().claim(), workers=1) as verifier:
        verdicts = verifier.verify({7: b"malicious", chunk: proof})
    assert crashed
    assert isinstance(verdicts[7].error, ProofError)
    assert "ended the process" in verdicts[7].error.what
    assert verdicts[chunk].error is None


def test_verdicts_keep_the_error(tmp_path: Path) -> None:
    leave_verdict(tmp_path, CommitmentError("what", why="why", fix="fix"), Cost(1.5, 2.0))
    verdict = read_verdict(tmp_path)
    assert isinstance(verdict.error, CommitmentError)
    assert (verdict.error.what, verdict.error.why, verdict.error.fix, verdict.cpu_s) == ("what", "why", "fix", 1.5)
    assert Work(tiny(), "verify").cost(tmp_path) == Cost(1.5, 2.0)
    (tmp_path / VERDICT).unlink()
    assert Work(tiny(), "verify").cost(tmp_path) is None


def test_an_empty_batch_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise ResourceError("started")

    monkeypatch.setattr(WorkerProcess, "__init__", refuse)
    with BatchVerifier(tiny(), workload().claim()) as verifier:
        assert verifier.verify({}) == {}
