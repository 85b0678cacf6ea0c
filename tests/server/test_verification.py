"""Proofs wait, are verified beside the protocol, one by one or in worker processes, and each gets its own verdict."""

from __future__ import annotations

import threading
import time
from functools import cache

import numpy as np
import psutil
import pytest
from tiny import tiny

from zkapex.costs.workload import Shape, Workload, random_mask, random_workload
from zkapex.errors import CommitmentError, ProofError, ResourceError
from zkapex.proofs.backends.halo2 import Halo2Engine
from zkapex.proofs.chunk.prove import prove_chunk
from zkapex.proofs.chunk.verifier import ChunkVerifier
from zkapex.proofs.jobs.batch import ClaimsVerifier
from zkapex.proofs.messages import ChunkProof
from zkapex.server.requests import verification
from zkapex.server.requests.verification import Checked, ProofQueue


def engine() -> Halo2Engine:
    """Verifies proofs of the small circuit."""
    return Halo2Engine(workload(1).instance.manifest, tiny())


@cache
def workload(seed: int) -> Workload:
    """One client's request, of a layer in two chunks."""
    shapes = [Shape("fc1", 33, 20)]
    return random_workload(tiny(), shapes, random_mask(shapes, 0.05, np.random.default_rng(seed)), seed=seed)


@cache
def proofs(seed: int) -> dict[int, bytes]:
    work = workload(seed)
    return {
        c: prove_chunk(tiny(), work.instance.public(c), work.change.witness(work.holdings, c))
        for c in work.instance.touched
    }


def proof(chunk: int, data: bytes) -> ChunkProof:
    return ChunkProof(chunk=chunk, proof=data, prove_cpu_s=1.0, peak_rss_mb=1.0)


def collected(queue: ProofQueue) -> dict[tuple[str, int], Checked]:
    found = {}
    while queue.pending:
        found |= {(one.client_id, one.proof.chunk): one for one in queue.collect(wait=True)}
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_verdicts_of_many_clients_are_those_of_single_checks(workers: int) -> None:
    """The same in this process and in others; a proof of one client is none for another's, at the same chunk."""
    mine, other = proofs(1), proofs(2)
    chunk = next(iter(mine))
    with ProofQueue(engine(), workers) as queue:
        for number, data in mine.items():
            queue.put("a", workload(1).claim(), number, proof(number, data))
        queue.put("b", workload(2).claim(), chunk, proof(chunk, other[chunk]))
        queue.put("c", workload(2).claim(), chunk, proof(chunk, mine[chunk]))
        queue.put("d", workload(1).claim(), chunk, proof(chunk, mine[chunk][:-1]))
        assert all(queue.holds(client, chunk) for client in "abcd")
        found = collected(queue)
        started = [p.pid for p in psutil.Process().children() if "verify" in p.cmdline()]
        assert len(started) == workers
    assert {key[0]: one.error for key, one in found.items() if key[0] in "ab"} == {"a": None, "b": None}
    assert len(found) == len(mine) + 3
    assert isinstance(found["c", chunk].error, CommitmentError)
    assert isinstance(found["d", chunk].error, ProofError)
    assert all(one.cpu_s > 0 for one in found.values() if one.error is None)
    assert not queue.holds("a", chunk)


def test_many_at_once_are_verified_in_processes_of_their_own_accord(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(ClaimsVerifier):
        def __init__(self, *arguments: object) -> None:
            made.append(1)
            super().__init__(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "ClaimsVerifier", Counted)
    monkeypatch.setattr(verification, "MANY", 2)
    first = threading.Event()
    check = ChunkVerifier.verify

    def slowly(self: ChunkVerifier, chunk: int, data: bytes) -> float:
        first.wait(10)  # so that the others have come before it is done
        return check(self, chunk, data)

    monkeypatch.setattr(ChunkVerifier, "verify", slowly)
    chunk, data = next(iter(proofs(1).items()))
    with ProofQueue(engine()) as queue:
        queue.put("a", workload(1).claim(), chunk, proof(chunk, data))
        while not queue._waiting.empty():
            time.sleep(0.001)
        queue.put("b", workload(1).claim(), chunk, proof(chunk, data))
        queue.put("c", workload(1).claim(), chunk, proof(chunk, data))
        first.set()
        found = collected(queue)
    assert [one.error for one in found.values()] == [None] * 3
    assert made == [1]


def test_asking_goes_on_while_a_proof_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(ChunkVerifier, "verify", lambda self, chunk, data: go.wait(10) and 0.5)
    chunk, data = next(iter(proofs(1).items()))
    with ProofQueue(engine()) as queue:
        queue.put("a", workload(1).claim(), chunk, proof(chunk, data))
        assert list(queue.collect()) == [], "nobody waits for a verdict"
        go.set()
        assert [one.cpu_s for one in queue.collect(wait=True)] == [0.5]


def test_what_is_no_fault_of_a_proof_ends_the_run_and_what_waits_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be asked for again: nothing was stored, and nobody is blamed."""

    def full(self: ClaimsVerifier, jobs: object, on_verdict: object) -> None:
        raise ResourceError("memory is short")

    monkeypatch.setattr(ClaimsVerifier, "verify", full)
    chunk, data = next(iter(proofs(1).items()))
    with ProofQueue(engine(), workers=1) as queue:
        queue.put("a", workload(1).claim(), chunk, proof(chunk, data))
        with pytest.raises(ResourceError):
            list(queue.collect(wait=True))
        queue.put("b", workload(1).claim(), chunk, proof(chunk, data))
    assert queue.pending == 2
