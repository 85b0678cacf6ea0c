"""Clocks that are wrong, on either side: requests may end without proof, never with blame, and the next one is done."""

from __future__ import annotations

import pytest
from faults import SECOND, THIRD, Site
from invariants import check

HOUR, DAY = 3600.0, 24 * 3600.0


@pytest.mark.slow
@pytest.mark.parametrize("late_s", [-DAY, -HOUR, HOUR])
def test_a_device_whose_clock_is_off_by_less_than_a_request_lives(site: Site, late_s: float) -> None:
    site.late_s = late_s
    site.campaign(SECOND)
    check(site, over=True)


@pytest.mark.slow
def test_a_device_that_lives_in_another_year(site: Site) -> None:
    """To it every request has expired: it says so, which ends the request; nobody is blamed."""
    site.late_s = 400 * DAY
    site.campaign(SECOND)
    verdicts = check(site, over=False)
    assert {verdicts[SECOND][site.client_id(index)] for index in site.honest()} == {"failed"}
    site.late_s = 0.0
    assert site.campaign() == []
    site.campaign(THIRD)
    verdicts = check(site, over=True, may_fail=[SECOND])
    assert {verdicts[THIRD][site.client_id(index)] for index in site.honest()} == {"proved"}


@pytest.mark.slow
def test_a_device_whose_clock_leaps_between_answer_and_proof(site: Site) -> None:
    """It takes the request for over and forgets what a proof needs; what was deleted stays deleted."""
    with site.service() as service:
        grid = site.grid()
        service.join(grid)
        service.plan(grid, SECOND)
        service.open(grid, SECOND)
        service.distribute(grid, SECOND)
    site.asked = (*site.asked, SECOND)
    site.late_s = 40 * DAY
    site.campaign()
    check(site, over=False)
    site.late_s = 0.0
    site.server_late_s = 8 * DAY
    site.campaign()
    site.campaign(THIRD)
    check(site, over=True, may_fail=[SECOND])


@pytest.mark.parametrize("leap_s", [pytest.param(leap, marks=pytest.mark.slow) for leap in (-30 * DAY, 5 * DAY)])
def test_a_server_whose_clock_leaps(site: Site, leap_s: float) -> None:
    site.server_late_s = leap_s
    site.campaign(SECOND)
    check(site, over=True)
    site.server_late_s = 0.0
    site.campaign(THIRD)
    check(site, over=True)
