"""An ETA that follows from what was measured, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkapex.proofs.jobs.progress import Timeline


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def job(number: int) -> Path:
    return Path(str(number))


def test_nothing_is_claimed_before_anything_is_measured() -> None:
    clock = Clock()
    timeline = Timeline(5, before=2, clock=clock)
    assert timeline.progress(2).eta_s is None
    timeline.started(job(0))
    clock.now += 7
    progress = timeline.progress(2)
    assert (progress.done, progress.total, progress.elapsed_s, progress.eta_s) == (2, 5, 7.0, None)


def test_jobs_in_progress_count_for_what_they_still_need() -> None:
    """Each job takes 10 s: after 13 s of the second on one worker, with one queued, 7 + 10 s remain on a worker."""
    clock = Clock()
    timeline = Timeline(3, clock=clock)
    timeline.started(job(0))
    clock.now += 10
    timeline.finished(job(0))
    timeline.started(job(1))
    clock.now += 3
    assert timeline.progress(1).eta_s == pytest.approx(17)
    assert timeline.progress(2).eta_s == pytest.approx(10), "the second worker takes the last job"
    clock.now += 30
    assert timeline.progress(1).eta_s == pytest.approx(10), "an overdue job may end any moment"


def test_a_dropped_job_is_to_be_done_again() -> None:
    clock = Clock()
    timeline = Timeline(2, clock=clock)
    timeline.started(job(0))
    timeline.started(job(1))
    clock.now += 4
    timeline.finished(job(0))
    timeline.dropped(job(1))
    assert timeline.progress(1).eta_s == pytest.approx(4)


@given(st.integers(1, 60), st.integers(1, 9), st.floats(0.1, 100))
def test_equal_jobs_end_when_predicted(total: int, workers: int, each: float) -> None:
    """Simulate list scheduling of equal jobs: after the first wave, the ETA is exact at every wave."""
    clock = Clock()
    timeline = Timeline(total, clock=clock)
    end = clock.now + -(-total // workers) * each
    left = list(range(total))
    while left:
        wave, left = left[:workers], left[workers:]
        for number in wave:
            timeline.started(job(number))
        clock.now += each
        for number in wave:
            timeline.finished(job(number))
        eta = timeline.progress(workers).eta_s
        assert eta is not None
        assert clock.now + eta == pytest.approx(end)
    assert timeline.progress(workers).done == total
