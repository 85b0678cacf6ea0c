"""What this machine has to spare, and what proving takes: memory, cores, disk. Refusals come before any work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from zkapex.errors import ResourceError

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit

MEMORY_BASE, MEMORY_PER_KEY = 9e7, 2.5
"""A prover's peak memory with one thread: so many bytes, and a multiple of its proving key. Measured: 104 MB with a key
of 11 MB, 193 MB with one of 47 MB, 522 MB with one of 189 MB; rounded up."""

MEMORY_PER_THREAD, MEMORY_OF_THREADS = 0.05, 1.0
"""What every further thread adds, and all of them at most, in multiples of the key. Measured: 33 MB with
16 threads and a key of 47 MB, 124 MB with a key of 189 MB; 38 MB with 64 threads and the smaller key."""

SCRATCH_PER_VALUE = 400
"""Bytes a prover writes to its scratch folder per committed value: ezkl's input, witness and proof are text. Measured:
5.1 MB for 21,700 values at 2^15 rows; rounded up."""

RESULT_BYTES = 8192
"""Disk a finished job takes beside its proof: its cost, and the rounding of two files up to whole blocks."""

_CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def free_memory() -> int:
    """Bytes this process and its children can still take: the machine's free memory, or less in a container."""
    return min([psutil.virtual_memory().available, *_container_room()])


def worker_memory(circuit: Circuit, threads: int = 1) -> float:
    """Peak memory of one prover with so many threads, in bytes."""
    of_threads = min((threads - 1) * MEMORY_PER_THREAD, MEMORY_OF_THREADS)
    return MEMORY_BASE + circuit.pk.stat().st_size * (MEMORY_PER_KEY + of_threads)


def affordable_workers(circuit: Circuit, wanted: int | None = None, memory_mb: float | None = None) -> int:
    """As many workers as were asked for (default: one per core), lowered to what memory carries.

    Parameters
    ----------
    memory_mb : float, optional
        What all workers together may take, in 10^6 bytes; default: all that is free.

    Raises
    ------
    ResourceError
        If not even one fits.
    """
    each = worker_memory(circuit)
    if memory_mb is not None and each > memory_mb * 1e6:
        raise ResourceError(
            f"proving needs about {each / 1e6:.0f} MB, the limit is {memory_mb:.0f} MB",
            fix="raise the limit or use a smaller profile",
        )
    room = _room(memory_mb)
    if each > room:
        raise ResourceError(
            f"proving needs about {each / 1e6:.0f} MB, {room / 1e6:.0f} MB are free",
            fix="free memory or use a smaller profile",
        )
    return max(1, min(wanted or cores(), int(room / each)))


def threads_each(circuit: Circuit, workers: int, memory_mb: float | None = None) -> int:
    """Threads each of so many workers may use: its share of the cores, or fewer if memory is short."""
    room = _room(memory_mb)
    share = max(1, cores() // workers)
    return max((n for n in range(1, share + 1) if workers * worker_memory(circuit, n) <= room), default=1)


def _room(memory_mb: float | None) -> float:
    return free_memory() if memory_mb is None else min(free_memory(), memory_mb * 1e6)


def check_disk(needs: Mapping[Path, float]) -> None:
    """Refuse to start what a disk cannot hold.

    Parameters
    ----------
    needs : mapping of Path to float
        Bytes that will be written below each existing folder; folders on one file system are added up.

    Raises
    ------
    ResourceError
        If one has less room.
    """
    total: dict[int, float] = {}
    where: dict[int, Path] = {}
    for folder, amount in needs.items():
        device = folder.stat().st_dev
        total[device] = total.get(device, 0.0) + amount
        where.setdefault(device, folder)
    for device, amount in total.items():
        free = shutil.disk_usage(where[device]).free
        if free < amount:
            raise ResourceError(
                f"proving will write up to {amount / 1e6:.1f} MB below {where[device]}, {free / 1e6:.1f} MB are free",
                fix="free disk space, prove fewer chunks at a time, or set TMPDIR to another disk",
            )


def scratch_bytes(circuit: Circuit) -> int:
    """Bytes one prover needs for temporary files."""
    return sum(circuit.spec.input_lengths().values()) * SCRATCH_PER_VALUE


def _container_room() -> Iterator[int]:
    """Bytes left in each control group that limits this process. Cached files do not count: the kernel drops them."""
    try:
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    group = _CGROUPS / line.removeprefix("0::").lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(_CGROUPS):
            return
        try:
            limit = (folder / "memory.max").read_text().strip()
            used = int((folder / "memory.current").read_text())
            cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit != "max":
            yield max(0, int(limit) - used + int(cached.get("inactive_file", 0)))
