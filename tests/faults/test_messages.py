"""Messages that are lost, doubled, late, out of order, old, or garbage: nobody is blamed, nothing is done twice."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from faults import SECOND, THIRD, Site
from invariants import check
from weather import KINDS, Weather

from zkapex.errors import ProtocolError

ANEW = {"personalise-between": True}


def stormy(site: Site, finished: Site, weather: Weather) -> None:
    """A request in the weather, then in the calm, then another one."""
    weather.old = list(finished.sent)
    with suppress(ProtocolError):  # a server gives up where nobody is heard from; a later campaign goes on
        site.campaign(SECOND, weather=weather)
    assert weather.happened
    check(site, over=False)
    site.campaign(SECOND)
    assert site.campaign() == []
    check(site, over=True)
    site.campaign(THIRD)
    check(site, over=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_everything_at_once(finished: Site, tmp_path: Path, seed: int) -> None:
    site = finished.copy(tmp_path / "site", cheats={2: "half"}, trusted=finished.asked, settings=ANEW)
    stormy(site, finished, Weather(seed, 0.4))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_at_every_other_message(finished: Site, tmp_path: Path, kind: str) -> None:
    site = finished.copy(tmp_path / "site", cheats={2: "half"}, trusted=finished.asked, settings=ANEW)
    weather = Weather(6, 0.5, (kind,))
    stormy(site, finished, weather)
    assert {what for what, _ in weather.happened} == {kind}
