"""Seeds side by side: each is done once, their events arrive, and what one of them raises is raised."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zkapex.errors import InputError
from zkapex.simulation.evaluation.seeds import OnEvent, check, run_seeds


def one(folder: Path, failing: int, seed: int, on_event: OnEvent) -> None:
    """A seed that says who did it."""
    if seed == failing:
        raise InputError(f"seed {seed} makes no sense")
    on_event({"event": "seed", "seed": seed})
    (folder / str(seed)).write_text(str(os.getpid()))


def nothing_yet(seed: int) -> bool:
    return False


def test_processes_do_every_seed_and_tell_of_it(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run_seeds(partial(one, tmp_path, -1), range(3), 2, events.append, nothing_yet)
    assert sorted(event["seed"] for event in events) == [0, 1, 2]
    workers = {(tmp_path / str(seed)).read_text() for seed in range(3)}
    assert str(os.getpid()) not in workers


def test_what_a_seed_raises_is_raised_and_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed 1 makes no sense"):
        run_seeds(partial(one, tmp_path, 1), range(2), 2, lambda event: None, nothing_yet)
    assert (tmp_path / "0").exists()


def test_one_at_a_time_needs_no_process(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run_seeds(partial(one, tmp_path, -1), range(2), 1, events.append, nothing_yet)
    assert [event["seed"] for event in events] == [0, 1]
    assert (tmp_path / "0").read_text() == str(os.getpid())


def test_nothing_is_started_for_what_is_done(tmp_path: Path) -> None:
    for done in ((0, 1, 2), (1, 2)):
        events: list[dict[str, Any]] = []
        run_seeds(partial(one, tmp_path, -1), range(3), 2, events.append, lambda seed, done=done: seed in done)
        assert [event["seed"] for event in events] == [0, 1, 2]
        assert {(tmp_path / str(seed)).read_text() for seed in range(3)} == {str(os.getpid())}
    run_seeds(partial(one, tmp_path, -1), range(3), 2, lambda event: None, lambda seed: seed == 1)
    assert [(tmp_path / str(seed)).read_text() == str(os.getpid()) for seed in range(3)] == [False, True, False]


@pytest.mark.parametrize(("seeds", "jobs", "named"), [(0, 1, "--seeds"), (101, 1, "--seeds"), (1, 0, "--jobs")])
def test_numbers_that_make_no_sense_are_refused(seeds: int, jobs: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        check(seeds, jobs)
