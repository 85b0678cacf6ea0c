"""One side of a deployment is upgraded before the other: what they cannot read is said, blames nobody, and passes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from here import DEVICE, SETTINGS, Here

from zkapex.client.app import Agent, make_client_app
from zkapex.client.deployment.app import agent_of_folder
from zkapex.client.deployment.init import renew_guard as renew_device_guard
from zkapex.client.deployment.settings import Place as DevicePlace
from zkapex.errors import ProtocolError
from zkapex.host.bundle import bundle_bytes, bundle_digest
from zkapex.host.guard import PINS, check_bundle, read_pins
from zkapex.server.deployment.init import renew_guard
from zkapex.server.deployment.reading import clients_by_node, snapshot
from zkapex.transport import wire
from zkapex.transport.grid import InProcessGrid

OTHER = wire.WIRE_VERSION + 1


class OtherRelease:
    """A device whose release frames its messages otherwise.

    Parameters
    ----------
    reads : bool
        It still reads what this release sends, as a newer one would that is careful.
    """

    def __init__(self, inner: Agent, reads: bool) -> None:
        self._inner, self._reads = inner, reads

    def train(self, content: RecordDict) -> RecordDict:
        return self._spoken(lambda: self._inner.train(content))

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        return self._spoken(lambda: self._inner.answer(query, content))

    def _spoken(self, act: Any) -> RecordDict:
        if self._reads:
            reply: RecordDict = act()
            record = reply["zkapex.record"]
            record["wire"] = OTHER  # type: ignore[index]
            return reply
        known = wire.WIRE_VERSION
        try:
            wire.WIRE_VERSION = OTHER  # type: ignore[misc]
            return act()  # type: ignore[no-any-return]
        finally:
            wire.WIRE_VERSION = known  # type: ignore[misc]


class Mixed(Here):
    """The second device is of another release, until it is upgraded."""

    def __init__(self, root: Path, reads: bool) -> None:
        super().__init__(root)
        self.reads: bool | None = reads

    def upgrade(self) -> None:
        self.reads = None

    def grid(self, devices: int | None = None) -> InProcessGrid:
        def agent(context: Context) -> Agent:
            index = int(context.node_config["partition-id"])
            found = agent_of_folder(self.devices[index])
            return found if index == 0 or self.reads is None else OtherRelease(found, self.reads)

        return InProcessGrid(make_client_app(agent), devices or len(self.devices), {}, self.network)


@pytest.mark.parametrize(
    "reads",
    [
        pytest.param(False, id="the device reads nothing"),
        pytest.param(True, id="the server reads no answer", marks=pytest.mark.slow),
    ],
)
def test_a_device_of_another_release_waits_and_is_blamed_for_nothing(tmp_path: Path, reads: bool) -> None:
    here = Mixed(tmp_path, reads)
    here.order("r-1", "request-1")
    outcome = here.campaign()
    (problem,) = [reason for what, reason in outcome.problems.items() if what.startswith("node:")]
    assert f"version {OTHER if reads else wire.WIRE_VERSION} of the framing" in problem
    assert "run the same release of zkapex" in problem
    assert len(clients_by_node(here.place)) == 1, "the other device goes on"
    assert [one.verdict for one in snapshot(here.place).requests] == ["proved"]
    here.upgrade()
    here.order("r-2", "request-2")
    here.campaign()
    found = snapshot(here.place)
    assert [one.status for one in found.clients if one.status == "quarantined"] == []
    assert sorted((one.request_id, one.verdict) for one in found.requests if one.request_id == "r-2") == [
        ("r-2", "proved"), ("r-2", "proved"),
    ]  # fmt: skip


def test_a_client_whose_device_is_of_another_release_is_asked_when_it_no_longer_is(tmp_path: Path) -> None:
    here = Mixed(tmp_path, reads=False)
    here.reads = None
    here.order("r-1", "request-1")
    here.campaign()
    here.reads = False
    here.order("r-2", "request-2")
    outcome = here.campaign()
    assert [(one.request_id, one.what) for one in outcome.left] == [("r-2", "open")]
    (problem,) = outcome.problems.values()
    assert "of the framing" in problem
    here.upgrade()
    outcome = here.campaign()
    assert (outcome.left, outcome.problems) == ((), {})
    assert here.chains() == [["proved", "proved"]] * 2


def test_a_bundle_of_the_next_release_runs_where_it_was_pinned_before(tmp_path: Path) -> None:
    """Both sides, by their own configuration: a device may have pinned it before its server has it, or after."""
    here = Here(tmp_path, devices=1)
    new = bundle_bytes() + b"\0"
    digest = hashlib.sha256(new).hexdigest()
    device = DevicePlace(here.devices[0])
    for guard, renew in (
        (here.place.guard, lambda pins: renew_guard(here.place, SETTINGS.model_copy(update={"bundles": pins}))),
        (device.guard, lambda pins: renew_device_guard(device, DEVICE.model_copy(update={"bundles": pins}))),
    ):
        renew(())
        with pytest.raises(ProtocolError, match=digest) as caught:
            check_bundle(new, digest, read_pins(guard / PINS))
        assert "pin it in the machine's configuration" in caught.value.fix
        renew((digest,))
        check_bundle(new, digest, read_pins(guard / PINS))
        check_bundle(bundle_bytes(), bundle_digest(), read_pins(guard / PINS))
