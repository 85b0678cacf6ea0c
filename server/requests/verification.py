"""Proofs that wait to be verified, are, and come back with a verdict, while the server does something else."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from zkapex.errors import Error
from zkapex.proofs.backends.interface import Engine, UnitVerifier
from zkapex.proofs.jobs.batch import ClaimsVerifier
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.messages import ChunkProof

MANY = 64
"""Proofs waiting at once for which starting processes pays."""


@dataclass(frozen=True)
class Checked:
    """A proof with its verdict.

    Attributes
    ----------
    client_id : str
    proof : ChunkProof
    error : Error or None
        Why it is not accepted; None if it is.
    cpu_s : float
        CPU seconds the check took.
    """

    client_id: str
    proof: ChunkProof
    error: Error | None
    cpu_s: float


@dataclass(frozen=True)
class _Waiting:
    client_id: str
    claim: Claim
    proof: ChunkProof


class ProofQueue:
    """Verifies proofs of many clients, in a thread of this process or in worker processes.

    Parameters
    ----------
    engine : Engine
    workers : int
        Processes; 0: none, until so many proofs wait that starting one per core pays. Of a backend without a circuit,
        none ever.
    """

    def __init__(self, engine: Engine, workers: int = 0) -> None:
        self._engine = engine
        self._workers = workers
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Checked | BaseException] = queue.SimpleQueue()
        self._held: set[tuple[str, int]] = set()
        self._verifiers: dict[str, UnitVerifier] = {}
        self._pool: ClaimsVerifier | None = None
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> int:
        """Proofs whose verdict has not been collected."""
        return len(self._held)

    def holds(self, client_id: str, chunk: int) -> bool:
        """Whether a client's proof of a chunk waits, or its verdict does."""
        return (client_id, chunk) in self._held

    def put(self, client_id: str, claim: Claim, chunk: int, proof: ChunkProof) -> None:
        """Have a proof verified."""
        self._held.add((client_id, chunk))
        self._waiting.put(_Waiting(client_id, claim, proof))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="verify", daemon=True)
            self._thread.start()

    def collect(self, *, wait: bool = False) -> Iterator[Checked]:
        """The verdicts there are; with `wait`, at least one if any proof is pending.

        Raises
        ------
        Error
            Verifying failed for a reason that is not the proof's.
        """
        while self._held:
            try:
                found = self._done.get(block=wait)
            except queue.Empty:
                return
            wait = False
            if isinstance(found, BaseException):
                raise found
            self._held.discard((found.client_id, found.proof.chunk))
            yield found

    def close(self) -> None:
        """End verifying; what is still waiting is dropped and can be asked for again."""
        if self._thread is not None:
            while True:
                try:
                    self._waiting.get_nowait()
                except queue.Empty:
                    break
            self._waiting.put(None)
            self._thread.join()
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            found = [one for one in batch if one is not None]
            try:
                self._verify(found, self._done.put)
            except BaseException as e:
                self._done.put(e)
                return
            if len(found) < len(batch):
                return

    def _verify(self, waiting: list[_Waiting], report: Callable[[Checked], None]) -> None:
        circuit = self._engine.circuit
        if self._pool is None and circuit is not None and (self._workers or len(waiting) >= MANY):
            self._pool = ClaimsVerifier(circuit, self._workers or os.cpu_count() or 1)
        if self._pool is None:
            for one in waiting:
                report(self._here(one))
            return
        by_key = {f"{number}": one for number, one in enumerate(waiting)}

        def on_verdict(key: str, error: Error | None, cpu_s: float) -> None:
            one = by_key[key]
            report(Checked(one.client_id, one.proof, error, cpu_s))

        jobs = {key: (one.client_id, one.claim, one.proof.chunk, one.proof.proof) for key, one in by_key.items()}
        self._pool.verify(jobs, on_verdict)

    def _here(self, one: _Waiting) -> Checked:
        try:
            if one.client_id not in self._verifiers:
                self._verifiers[one.client_id] = self._engine.verifier(one.claim)
            return Checked(
                one.client_id, one.proof, None, self._verifiers[one.client_id].verify(one.proof.chunk, one.proof.proof)
            )
        except Error as e:
            return Checked(one.client_id, one.proof, e, 0.0)
