"""Three deletions in one federation that everything happens to: what is deleted stays so, and no honest one is blamed.

Four devices, training and personalisation between the requests. One is away for the second request; one puts its old
weights back after the first and enrols them; one aborts whenever it is to prove what it left undone; the server is
killed after every kind of event of the third.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aborter import Aborter
from federation import Federation, SmallTask
from flwr.app import RecordDict
from life import MASKS, LivingProvider, ask, chains, committed, deployed, left, traces
from near import by_both

from zkapex.client.agent.agent import STEPS, DeviceAgent
from zkapex.client.agent.enrol import enrol
from zkapex.client.agent.unlearn import unlearn
from zkapex.client.app import Agent
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.messages import Demand, ModelManifest
from zkapex.transport.grid import Fate, reliable

HONEST, AWAY, REGRETFUL, ABORTING = range(4)
IDS = tuple(MASKS)
Before = dict[tuple[int, str], dict[str, np.ndarray]]
"""The weights that a device served before a request, by its number and the request's id."""


class Regretful(DeviceAgent):
    """Keeps its weights from before the first request; enrols these whenever it is asked to, as if nothing had been."""


def keep_and_unlearn(device: DeviceAgent, content: RecordDict) -> RecordDict:
    kept = device.vault.folder / "before.npz"
    if not kept.exists():
        shutil.copy(device.vault.folder / "model.npz", kept)
    return unlearn(device, content)


def enrol_before(device: DeviceAgent, content: RecordDict) -> RecordDict:
    kept = device.vault.folder / "before.npz"
    if not kept.exists():
        return enrol(device, content)
    shutil.copy(kept, device.vault.folder / "model.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zkapex.client.agent.enrol._demands", nothing)
        for backend in ("halo2", "transparent"):
            patch.setattr(f"zkapex.proofs.backends.{backend}.Demands", SimpleNamespace(unpacked=lambda *_: Demands()))
        return enrol(device, content)


NOTHING_SHOWN = {
    "halo2": "an enrolment holds something else than what all earlier requests demand",
    "transparent": "an enrolment does not prove every layer that earlier requests have touched",
}
"""What is said to whoever enrols its old weights again."""


def nothing(manifest: ModelManifest, demand: Demand) -> Demands:
    """What it would rather prove."""
    return Demands()


Regretful.steps = {**STEPS, "unlearn": keep_and_unlearn, "enrol": enrol_before}


def devices(before: Before) -> Callable[[int, Path, SmallTask], Agent]:
    """Of each number its kind; the honest ones note what they served before they changed it."""

    def noted(index: int) -> Callable[[DeviceAgent, RecordDict], RecordDict]:
        def step(device: DeviceAgent, content: RecordDict) -> RecordDict:
            with np.load(device.vault.folder / "model.npz") as arrays:
                served = {name: arrays[f"{name}.weight"] for name in ("fc1", "fc2")}
            carried_out = set(device.memory.carried_out())
            answer = unlearn(device, content)
            for request_id in set(device.memory.carried_out()) - carried_out:
                before[index, request_id] = served
            return answer

        return step

    def device(index: int, folder: Path, task: SmallTask) -> Agent:
        if index == REGRETFUL:
            return Regretful(folder, task, workers=1)
        if index == ABORTING:
            return Aborter(folder, task, workers=1)
        steps = {**STEPS, "unlearn": noted(index)}
        return type("Noting", (DeviceAgent,), {"steps": steps})(folder, task, workers=1)

    return device


@by_both
def test_three_deletions_in_one_federation(tmp_path: Path, later: Callable[[timedelta], None], backend: str) -> None:
    before: Before = {}
    settings = {"operator": "mask-only", "backend": backend}
    settings |= {"personal-epochs": 1, "rounds-between": 1, "personalise-between": True}
    federation = Federation(
        tmp_path / "run", clients=4, device=devices(before), provider=LivingProvider(), epochs=3, settings=settings
    )

    def verdicts(result: dict[str, Any]) -> list[str | None]:
        rows = {row["client_id"]: row["verdict"] for row in result["clients"]}
        return [rows.get(federation.client_id(index)) for index in range(4)]

    def holds(index: int, *request_ids: str) -> bool:
        """Nothing of these is there, in what is served, in what is stood by, or in any file of the device."""
        kept = [deployed(federation, index), committed(federation.state(index))]
        zero = all(left(weights, MASKS[one]) == 0 for one in request_ids for weights in kept)
        gone = [traces(federation.state(index), before[index, one], MASKS[one]) for one in request_ids]
        return zero and not any(gone)

    assert verdicts(ask(federation, IDS[0])) == ["proved", "proved", "proved", "unreachable"]
    assert holds(HONEST, IDS[0])
    assert holds(AWAY, IDS[0])

    later(timedelta(days=8))  # the aborting client's time is over
    nodes = list(federation.grid().get_node_ids())
    federation.network = lambda m: Fate.NODE_DOWN if m.metadata.dst_node_id == nodes[AWAY] else Fate.DELIVERED
    second = ask(federation, IDS[1])
    assert verdicts(second)[HONEST] == "proved"
    assert verdicts(second)[AWAY] is verdicts(second)[REGRETFUL] is None, "neither was asked"
    assert NOTHING_SHOWN[backend] in (federation.folder / "events.jsonl").read_text()
    assert holds(HONEST, *IDS[:2])

    federation.network = reliable
    federation.settings["requests"] = IDS[2]
    killed: list[str] = []

    def fatal(event: dict[str, Any]) -> bool:
        if event["event"] in killed:
            return False
        killed.append(event["event"])
        return True

    alive = False
    while not alive:
        deaths = len(killed)
        federation.run(fatal)
        alive = len(killed) == deaths
    assert {"enrol.done", "search.done", "unlearn.responded", "prove.accepted", "receipt.issued"} <= set(killed)
    third = ask(federation, IDS[2])
    assert verdicts(third) == ["proved", "proved", None, "unreachable"]
    for index in (HONEST, AWAY):
        assert holds(index, *IDS)
        assert {request_id for number, request_id in before if number == index} == set(IDS)
    for request_id in IDS:
        with np.load(federation.folder / f"global-{request_id}.npz") as unlearned:
            state = {name: unlearned[f"{name}.weight"] for name in ("fc1", "fc2")}
        done = IDS[: IDS.index(request_id) + 1]
        assert [left(state, MASKS[one]) for one in done] == [0] * len(done)

    later(timedelta(days=8))
    ask(federation, IDS[2])
    found = chains(federation)
    names = [federation.client_id(index) for index in range(4)]
    assert found[names[HONEST]] == found[names[AWAY]] == ["proved"] * 3
    assert found[names[REGRETFUL]] == ["proved"], "of the first request, which it carried out"
    assert found[names[ABORTING]] == ["unreachable", "proved", "unreachable"], (
        "the second touches nothing it left undone"
    )
    with federation.registry() as registry:
        assert {str(client.status) for client in registry.clients()} <= {"proved", "enrolled", "unreachable"}
