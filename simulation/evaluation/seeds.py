"""Seeds of an evaluation in processes of their own, as many at a time as asked for; their events in one stream.

A seed is a folder that one process writes, so that processes have nothing to agree on. What one of them raises is
raised here, after the others have ended: what they finished is on disk, and is not done again.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from zkapex.errors import InputError

OnEvent = Callable[[dict[str, Any]], None]
OneSeed = Callable[[int, OnEvent], None]

_POLL_S = 0.2
MAX_SEEDS = 100
_events: Any = None
"""Of a worker process: where its events go."""


def check(seeds: int, jobs: int) -> None:
    """Return only if so many seeds can be run, so many at a time. Raises InputError if not."""
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}", fix="choose at least 1")
    if not 1 <= seeds <= MAX_SEEDS:
        raise InputError(f"--seeds is {seeds}", fix=f"choose a number from 1 to {MAX_SEEDS}")


def run_seeds(one: OneSeed, seeds: Sequence[int], jobs: int, on_event: OnEvent, is_done: Callable[[int], bool]) -> None:
    """Do every seed; in this process if there is one job, or nothing to do but to say so.

    Parameters
    ----------
    one : callable (seed, on_event)
        Can be pickled.
    seeds : sequence of int
    jobs : int
        Processes at a time, each of one thread.
    on_event : callable
        Told of what happens in any of them, in this process.
    is_done : callable (seed) -> bool
        Whether a seed is on disk: no process is started for it.

    Raises
    ------
    Exception
        What a seed raised, of the first of them.
    """
    waiting = [seed for seed in seeds if not is_done(seed)]
    apart = waiting if jobs > 1 and len(waiting) > 1 else []
    torch.set_num_threads(1)
    for seed in seeds:
        if seed not in apart:
            one(seed, on_event)
    if not apart:
        return
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    count = min(jobs, len(apart))
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(events,)) as pool:
        with _stopped(pool):
            running = [pool.submit(partial(_tell, one), seed) for seed in apart]
            while wait(running, timeout=0).not_done:
                _pass_on(events, on_event)
                _fail_early(running)
            _pass_on(events, on_event)
        for future in running:
            future.result()


def _begin(events: Any) -> None:
    global _events  # a process has no other place for what its initialiser is given
    _events = events
    torch.set_num_threads(1)


def _tell(one: OneSeed, seed: int) -> None:
    one(seed, _events.put)


def _pass_on(events: Any, on_event: OnEvent) -> None:
    """Every event there is, after a short wait for the first."""
    try:
        on_event(events.get(timeout=_POLL_S))
        while True:
            on_event(events.get_nowait())
    except queue.Empty:
        return


def _fail_early(running: Sequence[Future[None]]) -> None:
    """If a seed has failed, begin no other."""
    if any(future.done() and not future.cancelled() and future.exception() for future in running):
        for future in running:
            future.cancel()


@contextmanager
def _stopped(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Whoever interrupts this process interrupts the seeds: what they have finished is on disk."""
    try:
        yield
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        raise
