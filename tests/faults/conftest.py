"""A federation in which one request was carried out, made once; every test goes on with a copy of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import FIRST, Site
from invariants import check
from near import BACKENDS


@pytest.fixture(scope="session", params=BACKENDS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Three honest devices that were proved once. Not to be changed."""
    site = Site(tmp_path_factory.mktemp("faults") / "finished", settings={"backend": request.param})
    with site.service() as service:
        service.train(grid := site.grid())
        service.join(grid)
        service.personalise(grid)
        service.enrol(grid)
    site.campaign(FIRST)
    check(site, over=True)
    return site


@pytest.fixture
def site(finished: Site, tmp_path: Path) -> Site:
    """A copy of it whose last device leaves every other weight as it is from now on, and says otherwise."""
    return finished.copy(tmp_path / "site", cheats={2: "half"}, trusted=(FIRST,))
