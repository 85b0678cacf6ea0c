"""A request that prescribes the result: planned, applied, proved, trained on with it held, and enrolled again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import LAYERS, Federation, ForgettingTask, SmallTask, honest
from near import BACKENDS

from zkapex.client.agent.agent import STEPS
from zkapex.client.app import QUERIES, Agent
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import verify_receipt
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.deployment.work import Work, work
from zkapex.server.requests.plan import StoredPlan, load_plan
from zkapex.simulation.federation.adversaries import make_cheat
from zkapex.storage import load_arrays
from zkapex.unlearning.operators import Terms

CHEATS = ("ignore", "half", "replay")


INTERRUPTED: list[list[Work]] = []
"""What a deployed server would have had to do whenever the federation was interrupted."""


def at(federation: Federation) -> list[Work]:
    """What a server has to do whose federation this is, with every device online."""
    place = Place(federation.folder.parent / "server")
    if not place.federation.exists():
        place.provider.mkdir(parents=True)
        place.federation.symlink_to(federation.folder)
    settings = ServerSettings(host="localhost", provider="small_deployed:provider", run=federation.settings)
    return work(place, settings, list(federation.grid().get_node_ids()), datetime.now(UTC))


@pytest.fixture(scope="module", params=BACKENDS)
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Finished; the server was killed when the first device was to train on, and when it had."""

    def device(index: int, folder: Path, task: SmallTask) -> Agent:
        return make_cheat(CHEATS[index - 1], folder, task, workers=1) if index else honest(index, folder, task)

    settings = {"backend": request.param, "operator": "targeted-group-obs", "tune-epochs": 2, "tune-lr": 1e-3}
    folder = tmp_path_factory.mktemp("targets") / "run"
    made = Federation(folder, 1 + len(CHEATS), device, settings=settings, task=ForgettingTask)
    INTERRUPTED.clear()
    for last in ("tune.started", "tune.done"):
        made.run(lambda event, last=last: event["event"] == last)
        INTERRUPTED.append(at(made))
    made.serve()
    return made


@pytest.fixture(scope="module")
def plan(federation: Federation) -> StoredPlan:
    found = load_plan(federation.folder / "provider" / "requests" / "request-1")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def exponents(federation: Federation) -> dict[str, int]:
    return {layer["name"]: layer["exponent"] for layer in federation.result()["manifest"]["layers"]}


def missed(plan: StoredPlan, exponents: dict[str, int], arrays: dict[str, np.ndarray]) -> float:
    """How far weights are from what was prescribed, in units of their last place, at most."""
    worst = 0.0
    for name, held in plan.terms.held(exponents).targets.items():
        for one in held:
            part = arrays[f"{name}.weight"][:, one.start : one.start + len(one.directions)].astype(np.float64)
            gap = (part @ one.directions - one.values) * 2.0 ** exponents[name]
            worst = max(worst, float(np.abs(gap / np.linalg.norm(one.directions, axis=0).clip(1)).max()))
    return worst


def test_the_honest_device_is_proved_and_the_cheats_are_not(federation: Federation) -> None:
    result = federation.result()
    row = federation.row(result, 0)
    count = {"halo2": 4, "transparent": len(LAYERS)}[federation.settings["backend"]]
    assert (row["verdict"], row["reason"], row["chunks"], row["chunks_proved"]) == ("proved", None, count, count)
    key = load_public_key(federation.folder / "key.pub")
    assert verify_receipt(federation.folder / row["receipt"], [key]).chunks == count
    for index, cheat in enumerate(CHEATS, 1):
        caught = federation.row(result, index)
        assert (caught["verdict"], caught["chunks_proved"]) == ("quarantined", 0), cheat
        assert "tuned" not in caught["accuracy"]


def test_the_result_is_what_was_prescribed_for_everybody(
    federation: Federation, plan: StoredPlan, exponents: dict[str, int]
) -> None:
    assert {name for name, _ in plan.targets} == set(LAYERS)
    before = load_arrays(federation.folder / "provider" / "global.npz")
    after = load_arrays(federation.folder / "global-request-1.npz")
    assert missed(plan, exponents, before) > 100 > 20 > missed(plan, exponents, after)


def test_a_device_that_trained_on_holds_it(federation: Federation, plan: StoredPlan, exponents: dict[str, int]) -> None:
    row = federation.row(federation.result(), 0)
    assert set(row["accuracy"]) == {"before", "masked", "after", "tuned"}
    now = load_arrays(federation.state(0) / "model.npz")
    assert missed(plan, exponents, now) < 20
    assert row["accuracy"]["tuned"] != row["accuracy"]["after"]
    (client,) = [one for one in federation.registry().clients() if one.client_id == federation.client_id(0)]
    assert (client.revision, client.stale) == (2, "")  # once more because of the interruption


def test_nothing_is_asked_twice(federation: Federation) -> None:
    """The run was interrupted when the device had trained on: it is asked again, and answers from disk."""
    asked = [step for index, step in federation.asked if index == 0]
    assert asked.count("unlearn") == 1
    answered = list((federation.state(0) / "answered").glob("tune-*"))
    assert (asked.count("tune"), len(answered)) == (2, 1)
    before = list(federation.asked)
    federation.serve()
    assert not [step for _, step in federation.asked[len(before) :] if step in ("tune", "enrol", "unlearn", "prove")]


def test_a_server_has_work_until_the_device_has_trained_on(federation: Federation) -> None:
    client = federation.client_id(0)
    before, after = ([(one.what, one.request_id, one.client_id, one.ready) for one in found] for found in INTERRUPTED)
    assert before == [("tune", "request-1", client, True)], "and nobody who cheats is asked"
    assert ("tune", "request-1", client, True) in after
    assert ("enrol", "", client, True) in after
    assert at(federation) == []


def test_the_terms_of_the_plan_are_those_of_the_receipt(federation: Federation, plan: StoredPlan) -> None:
    row: dict[str, Any] = federation.row(federation.result(), 0)
    instance = verify_receipt(federation.folder / row["receipt"]).bundle.dossier.instance
    found = Terms.of(instance).targets
    assert found.keys() == plan.targets.keys()
    assert all(np.array_equal(found[key], plan.targets[key]) for key in found)


def test_flower_knows_every_step_of_a_device() -> None:
    assert set(QUERIES) == set(STEPS)
