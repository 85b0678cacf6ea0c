"""Proofs that cost tests little: of the cheaper backend, and without a process of their own, which is long to start.

What processes do is tested where they are the subject (`tests/proofs/test_pool.py`, `tests/faults/test_workers.py`), in
the finished run that many tests look at (`market`), and by everything that starts a demo or a device as a program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zkapex.proofs.backends import transparent
from zkapex.proofs.jobs import pool
from zkapex.proofs.jobs.interface import OnStart, ignore_start
from zkapex.proofs.jobs.worker import finished, run_job
from zkapex.proofs.layer.prover import run_layer_job

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit

BACKENDS = ("transparent", pytest.param("halo2", marks=pytest.mark.slow))
by_both = pytest.mark.parametrize("backend", BACKENDS)
"""For what is tested of server and devices, whatever their proofs are: the default run takes those that are quick."""

IN_PROCESSES = {"chunks": pool.prove_all, "layers": transparent.prove_layers}
"""As it is."""


def prove_chunks(
    circuit: Circuit, folders: Sequence[Path], workers: int | None = None, *, on_start: OnStart = ignore_start
) -> None:
    """As `prove_all` of the Halo2 backend, in this process."""
    for folder in folders:
        if finished(folder) is None:
            on_start(folder)
            run_job(circuit, folder)


def prove_layers(folders: Sequence[Path], workers: int, on_start: OnStart) -> None:
    """As `prove_layers` of the transparent backend, in this process."""
    for folder in folders:
        on_start(folder)
        run_layer_job(folder)


@contextmanager
def proving(*, here: bool) -> Iterator[None]:
    """Have devices prove in this process, or in processes of their own after all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "prove_all", prove_chunks if here else IN_PROCESSES["chunks"])
        patch.setattr(transparent, "prove_layers", prove_layers if here else IN_PROCESSES["layers"])
        yield
