"""SIGKILL at durable writes of the server and of devices: whoever comes back goes on, and nothing else has changed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from faults import SECOND, THIRD, Site
from invariants import check
from kills import Kill

ANEW = {"personalise-between": True}
"""Devices personalise and enrol again before the request."""
STEPS = ("personalise", "enrol", "unlearn", "prove", "evaluate", "receipt")
POINTS = 100
"""More durable writes than the server has in a request."""


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_again_and_again_ends_where_it_would_have(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    killed = 0
    for _ in range(4):
        done = site.spawned(SECOND, kills=(Kill("server", chance.randrange(2, 14)),))
        assert not done.error, done.error
        killed += done.killed
        check(site, over=False)
    assert killed >= 3
    site.campaign(SECOND)
    check(site, over=True)
    site.campaign(THIRD)
    check(site, over=True)


@pytest.mark.slow
def test_a_device_that_is_killed_once_at_every_step_is_asked_again(finished: Site, tmp_path: Path) -> None:
    site = finished.copy(tmp_path / "site", cheats={2: "half"}, trusted=finished.asked, settings=ANEW)
    chance = random.Random(5)
    kills = tuple(Kill("device", chance.randrange(3), step) for step in STEPS)
    done = site.spawned(SECOND, kills=kills)
    assert not done.error, done.error
    assert len(done.value["killed"]) >= 4
    assert done.value["due"] == []
    check(site, over=True)


@pytest.mark.slow
def test_a_device_that_always_dies_at_its_answer_is_asked_when_it_no_longer_does(site: Site) -> None:
    done = site.spawned(SECOND, kills=(Kill("device", 3, "unlearn", times=99),))
    assert not done.error, done.error
    assert [(one.what, one.client_id) for one in done.value["due"]] == [("unlearn", site.client_id(0))]
    verdicts = check(site, over=False)
    assert verdicts[SECOND][site.client_id(1)] == "proved"
    assert site.campaign() == []
    site.campaign(THIRD)
    check(site, over=True)


# -- every single point -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def points(finished: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many durable writes the server, and device 0 at each step, have in a request without faults."""
    site = finished.copy(tmp_path_factory.mktemp("points") / "site", settings=ANEW)
    watched = tuple(Kill("device", -1, step) for step in STEPS)
    done = site.spawned(SECOND, kills=watched)
    found = {who: len(done.points(who)) for who in ("server", *STEPS)}
    assert found["server"] <= POINTS, "some would not be tried"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("at", range(POINTS))
def test_a_server_killed_at_any_write(site: Site, points: dict[str, int], at: int) -> None:
    if at >= points["server"]:
        pytest.skip(f"there are {points['server']} such writes")
    done = site.spawned(SECOND, kills=(Kill("server", at),))
    assert not done.error, done.error
    check(site, over=False)
    site.campaign(SECOND)
    check(site, over=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)  # every write of a step, one after the other
@pytest.mark.parametrize("step", STEPS)
def test_a_device_killed_at_any_write_of_a_step(
    finished: Site, tmp_path: Path, points: dict[str, int], step: str
) -> None:
    """It dies there whenever it is asked; then the server is killed, too; then both are back."""
    for at in range(points[step]):
        cheats = {2: "half"}
        site = finished.copy(tmp_path / f"{at}", cheats=cheats, trusted=finished.asked, settings=ANEW)
        done = site.spawned(SECOND, kills=(Kill("device", at, step, times=99),))
        assert not done.error, f"{step} {at}: {done.error}"
        check(site, over=False)
        site.campaign(SECOND)
        assert site.campaign() == [], f"{step} {at}"
        check(site, over=True)
