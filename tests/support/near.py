"""Provers without a process of their own, which takes as long to start as a small proof takes.

What processes do is tested where they are the subject (`tests/proofs/test_pool.py`, `tests/faults/test_workers.py`), in
the finished run that many tests look at (`market`), and by everything that starts a demo or a device as a program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zkapex.proofs.jobs import pool
from zkapex.proofs.jobs.interface import OnStart, ignore_start
from zkapex.proofs.jobs.worker import finished, run_job

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit

IN_PROCESSES = pool.prove_all
"""As it is."""


def prove_here(
    circuit: Circuit, folders: Sequence[Path], workers: int | None = None, *, on_start: OnStart = ignore_start
) -> None:
    """As `prove_all`, in this process."""
    for folder in folders:
        if finished(folder) is None:
            on_start(folder)
            run_job(circuit, folder)


@contextmanager
def proving(*, here: bool) -> Iterator[None]:
    """Have devices prove in this process, or in processes of their own after all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "prove_all", prove_here if here else IN_PROCESSES)
        yield
