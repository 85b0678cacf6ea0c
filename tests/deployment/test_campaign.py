"""Campaigns over encrypted devices, in one process: what is due is done, whoever is away, killed, or asked nonsense."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from federation import Died, step_of
from here import DEVICE, SETTINGS, Here, without

from zkapex.client.deployment.settings import Place as DevicePlace
from zkapex.client.deployment.status import device_status
from zkapex.errors import InputError, ProtocolError
from zkapex.server.deployment.outcomes import forget_setback, outcome_of, setbacks
from zkapex.server.deployment.reading import clients_by_node, snapshot
from zkapex.server.deployment.settings import run_settings
from zkapex.server.federation.lock import one_writer
from zkapex.transport.grid import Fate, reliable


def test_two_deletions_weeks_apart_with_a_device_away_and_a_server_killed(tmp_path: Path) -> None:
    """Ends in two chained receipts per device, which keeps its own, encrypted."""
    here = Here(tmp_path)
    nodes = sorted(here.grid().get_node_ids())
    assert [(one.what, one.ready) for one in here.work(nodes[0])] == [("train", False)]
    assert "trained when 2 devices are online" in here.campaign(devices=1).problems["campaign"]
    here.order("r-1", "request-1")
    assert [(one.what, one.ready) for one in here.work(*nodes)] == [("train", True), ("plan", True)]

    fatal = [True]

    def dies(message: Any) -> Fate:
        if step_of(message) == "prove" and fatal:
            fatal.clear()
            raise Died("the server's machine goes down now")
        return Fate.DELIVERED

    here.network = dies
    with pytest.raises(Died):
        here.campaign("0" * 32)
    assert outcome_of(here.place, "0" * 32) is None
    assert {one.what for one in here.work(*nodes)} == {"prove"}
    assert here.campaign("1" * 32) == outcome_of(here.place, "1" * 32)
    assert here.work(*nodes) == []

    here.now += timedelta(days=15)
    here.order("r-2", "request-2")
    here.network = without(nodes[1])
    left = here.campaign().left
    away = clients_by_node(here.place)[str(nodes[1])]
    assert {(one.request_id, one.client_id) for one in left} == {("r-2", away)}
    assert [one.ready for one in here.work(nodes[0])] == [False], "whoever is there has nothing to do"
    assert here.chains() == [["proved"], ["proved", "proved"]]

    here.now += timedelta(days=2)
    here.network = reliable
    assert [one.ready for one in here.work(*nodes)] == [True]
    outcome = here.campaign()
    assert (outcome.left, outcome.problems, here.work(*nodes)) == ((), {}, [])
    assert here.chains() == [["proved", "proved"]] * 2
    for device in here.devices:
        assert device_status(DevicePlace(device), DEVICE)["receipted"] == ["r-1", "r-2"]


def test_nonsense_is_told_and_keeps_nothing_else_from_being_done(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.order("nonsense", "nothing")
    here.now += timedelta(seconds=1)
    here.order("r-1", "request-1")
    nodes = sorted(here.grid().get_node_ids())
    outcome = here.campaign()
    assert outcome.problems == {"request:nonsense": "there is no mask nothing"}
    assert {one.verdict for one in snapshot(here.place).requests} == {"proved"}
    assert [(one.what, one.request_id, one.ready) for one in here.work(*nodes)] == [("plan", "nonsense", False)]
    forget_setback(here.place, "request:nonsense")
    assert [one.ready for one in here.work(*nodes)] == [True]
    here.campaign()
    assert list(setbacks(here.place)) == ["request:nonsense"]
    here.now += timedelta(hours=2)
    assert [one.ready for one in here.work(*nodes)] == [True]


def test_what_nobody_answered_in_time_is_given_up_and_the_device_goes_on(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.order("r-1", "request-1")
    nodes = sorted(here.grid().get_node_ids())
    away: Callable[[Any], Fate] = lambda m: (  # noqa: E731
        Fate.NODE_DOWN if m.metadata.dst_node_id == nodes[1] and step_of(m) == "unlearn" else Fate.DELIVERED
    )
    here.network = away
    here.campaign()
    here.now += timedelta(days=31)
    assert ("expire", True) in {(one.what, one.ready) for one in here.work()}, "that needs no device"
    here.network = reliable
    assert here.campaign().left == ()
    assert here.chains() == [["proved"], ["unreachable"]]
    here.order("r-2", "request-2")
    assert here.campaign().left == ()
    assert here.chains() == [["proved", "proved"], ["unreachable", "proved"]]


def test_settings_that_are_none_are_refused(tmp_path: Path) -> None:
    for run, what in (({"rouns": 1}, "no setting rouns"), ({"rounds": 0}, "rounds is 0"), ({"request-id": "x"}, "no")):
        with pytest.raises(InputError, match=what):
            run_settings(SETTINGS.model_copy(update={"run": run}))


def test_two_campaigns_at_once_are_refused(tmp_path: Path) -> None:
    here = Here(tmp_path)
    with one_writer(here.place.federation / "provider"), pytest.raises(ProtocolError, match="another process"):
        here.campaign()
