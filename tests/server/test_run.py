"""The whole run: what it leaves, and that it survives whatever happens to it on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import here
from federation import (
    HALO2,
    REQUEST,
    TOUCHED,
    Federation,
    SmallProvider,
    SmallTask,
    honest,
    perceptron,
    refused,
    snapshot,
    step_of,
)
from flwr.app import Message
from near import by_both
from torch import nn

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent
from zkapex.errors import InputError, StorageError
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import verify_receipt
from zkapex.server.federation.settings import RunSettings
from zkapex.simulation.federation.adversaries import make_cheat
from zkapex.transport.grid import Fate, reliable

STATES, DATA = {"before", "masked", "after"}, {"forget", "retain", "personal"}
COSTS = ("prove_cpu_s", "prover_peak_rss_mb", "proof_bytes", "verify_s")


def settings_with(**changes: Any) -> dict[str, Any]:
    return {**Federation(Path("unused")).config, **{name.replace("_", "-"): value for name, value in changes.items()}}


# -- what it leaves ---------------------------------------------------------------------------------------------------


def test_the_result_tells_everything_about_every_client(market: Federation, result: dict[str, Any]) -> None:
    assert len(result["clients"]) == market.clients
    for row in result["clients"]:
        assert row["client_id"].startswith(row["id"])
        assert set(row["accuracy"]) == STATES
        assert all(set(scores) == DATA for scores in row["accuracy"].values())
        assert all(row[cost] >= 0 for cost in COSTS)
    for index in (0, 1):
        row = market.row(result, index)
        assert row["prove_cpu_s"] > 0.5
        assert 50 < row["prover_peak_rss_mb"] < 5000
        assert row["proof_bytes"] > 1000
        assert row["verify_s"] > 0


def test_deletion_takes_effect_and_the_repair_helps(market: Federation, result: dict[str, Any]) -> None:
    for index in (0, 1):
        accuracy = market.row(result, index)["accuracy"]
        assert accuracy["after"]["forget"] <= accuracy["before"]["forget"] - 0.3
        assert accuracy["after"]["personal"] >= accuracy["masked"]["personal"]
    assert result["global"]["after"]["forget"] < result["global"]["before"]["forget"]


@pytest.mark.parametrize("index", [0, 1])
def test_receipts_verify_offline_with_the_providers_key(market: Federation, result: dict[str, Any], index: int) -> None:
    key = load_public_key(market.folder / "key.pub")
    verified = verify_receipt(market.folder / market.row(result, index)["receipt"], [key])
    assert verified.chunks == len(TOUCHED)
    assert verified.bundle.receipt.outcome.verdict == "proved"


def test_every_client_has_one_receipt_of_its_own(market: Federation, result: dict[str, Any]) -> None:
    receipts = {row["receipt"] for row in result["clients"]}
    assert receipts == {f"receipts/{REQUEST}/{path.name}" for path in (market.folder / "receipts" / REQUEST).iterdir()}
    assert len(receipts) == market.clients


@pytest.mark.slow
def test_a_sampled_audit_proves_what_is_drawn_and_says_how_likely_it_finds_a_cheat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def second_cheats(index: int, folder: Path, task: SmallTask) -> Agent:
        return make_cheat("ignore", folder, task, workers=1) if index else honest(index, folder, task)

    audit = {**HALO2, "audit": "sampled", "audit-cheating": 0.5, "audit-detect": 0.5}
    federation = Federation(tmp_path / "run", device=second_cheats, settings=audit)
    result = federation.serve()
    rows = [federation.row(result, index) for index in (0, 1)]
    assert [(row["verdict"], row["chunks"], row["chunks_proved"]) for row in rows] == [
        ("proved", 2, 1),
        ("quarantined", 2, 0),
    ]
    folder, key = federation.folder / rows[0]["receipt"], federation.folder / "key.pub"
    verified = verify_receipt(folder, [load_public_key(key)])
    facts = verified.bundle.receipt.facts
    assert verified.chunks == len(facts.chunks_drawn) == 1
    assert (facts.audit_mode, facts.audit_cheating, facts.audit_detection) == ("sampled", 0.5, 0.5)
    assert facts.chunks_drawn == tuple(int(path.stem) for path in (folder / "proofs").iterdir())
    assert here("verify", folder, "--trust", key) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 zero-knowledge proofs verified" in told
    assert "1 of the 2 chunks of weights that the mask touches, drawn at random" in told
    assert "a client that left 50 % of the touched ones undone would be found out with probability 50 %" in told
    assert here("verify", folder, "--trust", key, "--json") == 0
    assert json.loads(capsys.readouterr().out)["audit_detection"] == 0.5
    refused_one = federation.folder / rows[1]["receipt"]  # its draw is on record too, though nothing was proved
    assert len(verify_receipt(refused_one).bundle.receipt.facts.chunks_drawn) == 1


# -- interruption -----------------------------------------------------------------------------------------------------


def event(name: str, **fields: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda one: one["event"] == name and all(one.get(field) == value for field, value in fields.items())


KEYS = event("keys.started")
STAGES = (
    event("train.started"),
    event("train.round", round=1),
    KEYS,
    event("personalise.started"),
    event("personalise.done"),
    event("enrol.started"),
    event("enrol.done", done=1),
    event("search.started"),
    event("search.done"),
    event("unlearn.started"),
    event("unlearn.responded"),
    event("prove.started"),
    event("prove.accepted"),
    event("client.proved"),
    event("receipts.started"),
    event("receipt.issued"),
)
"""One after the other in one folder: where each run ends, and the next goes on."""


@by_both
def test_a_run_that_is_stopped_everywhere_finishes_and_does_nothing_twice(tmp_path: Path, backend: str) -> None:
    federation = Federation(tmp_path / "run", settings={"backend": backend})
    enrolments: dict[str, bytes] = {}
    proofs: dict[str, int] = {}
    for fatal in STAGES:
        if fatal is KEYS and backend == "transparent":
            continue  # it has none
        seen = federation.run(fatal)
        assert fatal(seen[-1]), f"ran on to {seen[-1]}"
        for name, content in enrolments.items():
            assert (federation.folder / name).read_bytes() == content, "enrolled again"
        for path in federation.folder.glob("devices/*/enrolment/enrolment.json"):
            enrolments[str(path.relative_to(federation.folder))] = path.read_bytes()
        assert federation.proofs().items() >= proofs.items(), "proved again"
        proofs = federation.proofs()
    issued = snapshot(federation.folder / "receipts")
    result = federation.serve()

    assert [row["verdict"] for row in result["clients"]] == ["proved", "proved"]
    assert [row["chunks_proved"] for row in result["clients"]] == [2, 2]
    assert federation.proofs() == proofs
    assert len(proofs) == 2 * len(TOUCHED)
    assert federation.provider.plans <= 2
    assert snapshot(federation.folder / "receipts").items() >= issued.items()
    with federation.registry() as registry:
        assert [registry.enrolment(row["client_id"]).revision for row in result["clients"]] == [0, 0]
    # Devices destroyed the weights before when the receipts arrived, and the table still tells them from those after.
    for row in result["clients"]:
        assert row["accuracy"]["before"]["forget"] > row["accuracy"]["after"]["forget"]
        verify_receipt(federation.folder / row["receipt"])

    everything = {**snapshot(federation.folder / "receipts"), "r": (federation.folder / "result.json").read_bytes()}
    federation.asked.clear()
    assert federation.serve() == result
    again = {**snapshot(federation.folder / "receipts"), "r": (federation.folder / "result.json").read_bytes()}
    assert again == everything
    assert {step for _, step in federation.asked} == {"identify"}


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("unlearn.responded", marks=pytest.mark.slow),
        "prove.accepted",
        pytest.param("receipt.issued", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_goes_on(tmp_path: Path, stage: str) -> None:
    script = f"""
    import os, signal
    from pathlib import Path
    import torch
    from federation import Federation
    torch.set_num_threads(1)
    def fatal(event):
        if event["event"] == {stage!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        return False
    Federation(Path({str(tmp_path / "run")!r}), clients=1).run(fatal)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    federation = Federation(tmp_path / "run", clients=1)
    before = federation.proofs()
    issued = snapshot(federation.folder / "receipts")
    (row,) = federation.serve()["clients"]
    assert (row["verdict"], row["chunks_proved"]) == ("proved", 2)
    assert federation.proofs().items() >= before.items()
    assert snapshot(federation.folder / "receipts").items() >= issued.items()
    assert {step for _, step in federation.asked}.isdisjoint({"train", "personalise", "enrol"})


# -- the network ------------------------------------------------------------------------------------------------------


class Unlucky:
    """What happens first to every message of these steps; the second try arrives."""

    def __init__(self, fate: Fate, *steps: str) -> None:
        self.fate, self.steps = fate, steps
        self.met: Counter[tuple[int, str]] = Counter()

    def __call__(self, message: Message) -> Fate:
        step = step_of(message)
        key = (message.metadata.dst_node_id, step)
        self.met[key] += 1
        return self.fate if step in self.steps and self.met[key] == 1 else Fate.DELIVERED


ALL = ("identify", "personalise", "enrol", "propose", "unlearn", "prove", "evaluate", "receipt")


@pytest.mark.parametrize("fate", [Fate.REPLY_LOST, Fate.NODE_DOWN])
@by_both
def test_whatever_is_lost_once_is_asked_for_again(tmp_path: Path, backend: str, fate: Fate) -> None:
    federation = Federation(tmp_path / "run", clients=1, network=Unlucky(fate, *ALL), settings={"backend": backend})
    (row,) = federation.serve()["clients"]
    assert (row["verdict"], row["chunks_proved"], set(row["accuracy"])) == ("proved", 2, STATES)
    assert len(federation.proofs()) == 2
    with federation.registry() as registry:
        assert registry.enrolment(row["client_id"]).revision == 0
    if fate is Fate.REPLY_LOST:  # it acted on both
        steps = Counter(step for _, step in federation.asked)
        assert steps["enrol"] == steps["unlearn"] == 2


@by_both
def test_a_client_that_vanishes_is_unreachable_and_the_others_are_proved(tmp_path: Path, backend: str) -> None:
    federation = Federation(tmp_path / "run", clients=2, settings={"backend": backend})
    gone = federation.grid().get_node_ids()
    lost = list(gone)[1]
    federation.network = lambda message: (
        Fate.NODE_DOWN
        if message.metadata.dst_node_id == lost and step_of(message) in ("prove", "evaluate", "receipt")
        else Fate.DELIVERED
    )
    result = federation.serve()
    assert federation.row(result, 0)["verdict"] == "proved"
    row = federation.row(result, 1)
    assert row["verdict"] == "unreachable"
    assert row["reason"]
    assert row["accuracy"] == {}
    assert row["receipt"] is None, "it may come back"
    federation.network = reliable
    back = federation.row(federation.serve(), 1)
    assert (back["verdict"], set(back["accuracy"])) == ("proved", STATES)


@by_both
def test_a_client_that_is_away_when_a_run_resumes_keeps_what_it_has(tmp_path: Path, backend: str) -> None:
    federation = Federation(tmp_path / "run", clients=2, settings={"backend": backend})
    federation.run(event("prove.started"))
    before = snapshot(federation.state(1))
    away = list(federation.grid().get_node_ids())[1]
    federation.network = lambda m: Fate.NODE_DOWN if m.metadata.dst_node_id == away else Fate.DELIVERED
    result = federation.serve()
    assert federation.row(result, 0)["verdict"] == "proved"
    assert federation.row(result, 1)["verdict"] == "unreachable"
    assert snapshot(federation.state(1)) == before


@by_both
def test_a_lost_identity_does_not_make_a_client_enrol_again(tmp_path: Path, backend: str) -> None:
    federation = Federation(tmp_path / "run", clients=1, settings={"backend": backend})
    federation.run(event("unlearn.started"))
    federation.network = Unlucky(Fate.REPLY_LOST, "identify")
    federation.asked.clear()
    (row,) = federation.serve()["clients"]
    assert row["verdict"] == "proved"
    assert "enrol" not in {step for _, step in federation.asked}


@by_both
def test_a_device_that_dies_while_proving_goes_on_with_its_next_message(tmp_path: Path, backend: str) -> None:
    deaths = []

    class Mortal(DeviceAgent):
        def prove_chunks(self, *arguments: Any) -> None:
            super().prove_chunks(*arguments)
            if not deaths:
                deaths.append(1)
                raise OSError("power cut")

    def mortal(index: int, folder: Path, task: SmallTask) -> Agent:
        return Mortal(folder, task, workers=1)

    federation = Federation(tmp_path / "run", clients=1, device=mortal, settings={"backend": backend})
    (row,) = federation.serve()["clients"]
    assert deaths
    assert row["verdict"] == "proved"
    assert len(federation.proofs()) == 2


# -- further requests -------------------------------------------------------------------------------------------------


@by_both
def test_a_second_request_starts_from_the_first_ones_result(tmp_path: Path, backend: str) -> None:
    federation = Federation(tmp_path / "run", clients=1, settings={"backend": backend})
    federation.serve()
    federation.settings["request-id"] = "request-2"
    (row,) = federation.serve()["clients"]
    assert row["verdict"] == "proved"
    verified = verify_receipt(federation.folder / row["receipt"])
    assert verified.bundle.receipt.facts.request_id == "request-2"
    assert verified.bundle.dossier.pre != verified.bundle.dossier.enrolment.record.theta


# -- settings and storage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 0),
        ("rounds", "3"),
        ("rounds", True),
        ("rounds", None),
        ("personal_epochs", 0),
        ("personal_lr", 0.0),
        ("personal_lr", float("nan")),
        ("personal_lr", 1.5),
        ("guard_rank", -2),
        ("operator", "shred"),
        ("curvature", "none"),
        ("audit", "half"),
        ("audit_detect", 0.0),
        ("audit_detect", 1.5),
        ("audit_cheating", float("nan")),
        ("audit_cheating", -0.1),
        ("batch", 0),
        ("batch", 65),
        ("timeout_s", 0),
        ("seed", -1),
        ("request_id", "../x"),
        ("request_id", ""),
        ("prove_curvature", 1),
        ("profile", 3),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: object) -> None:
    error = refused(lambda: RunSettings.from_config(settings_with(**{name: value})), InputError)
    assert name.replace("_", "-") in error.what
    assert error.fix


@pytest.mark.parametrize("operator", ["mask-only", "dampening"])
def test_settings_an_operator_has_no_use_for_are_refused(operator: str) -> None:
    for guard_rank in (-1, 0):
        RunSettings.from_config(settings_with(operator=operator, guard_rank=guard_rank))
    guard = refused(lambda: RunSettings.from_config(settings_with(operator=operator, guard_rank=4)), InputError)
    assert "guard of rank 4" in guard.what
    curvature = settings_with(operator=operator, curvature="block-fisher")
    assert "block-fisher" in refused(lambda: RunSettings.from_config(curvature), InputError).what


@pytest.mark.parametrize("other", [{"operator": "mask-only"}, {"curvature": "block-fisher"}])
def test_only_the_kfac_curvature_of_a_repair_can_be_proved(other: dict[str, str]) -> None:
    assert RunSettings.from_config(settings_with(prove_curvature=True)).prove_curvature
    error = refused(lambda: RunSettings.from_config(settings_with(prove_curvature=True, **other)), InputError)
    assert "proofs of curvature" in error.what


def test_settings_may_be_whole_numbers_where_fractions_are_meant() -> None:
    with pytest.raises(InputError, match="personal-lr"):
        RunSettings.from_config(settings_with(personal_lr=1))
    assert RunSettings.from_config(settings_with()).personal_lr == 0.003


def test_an_unknown_profile_is_refused_by_name(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", clients=1, settings={"profile": "huge"})
    error = refused(federation.run, InputError)
    assert "huge" in error.what
    last = json.loads((federation.folder / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["error"]) == ("run.failed", "InputError")


@by_both
def test_the_providers_own_full_disk_stops_the_run_and_blames_nobody(tmp_path: Path, backend: str) -> None:
    federation = Federation(tmp_path / "run", clients=1, settings={"backend": backend})
    costs = federation.folder / "provider" / "requests" / REQUEST / ".costs.json.partial"

    def fill(one: dict[str, Any]) -> bool:
        if one["event"] == "prove.started":  # costs.json can no longer be written
            costs.mkdir()
        return False

    error = refused(lambda: federation.run(fill), StorageError)
    assert "costs.json" in error.what
    with federation.registry() as registry:
        (request,) = registry.requests()
        assert request.verdict is None
    costs.rmdir()
    assert federation.serve()["clients"][0]["verdict"] == "proved"


# -- a model that could not be unlearned is found before anything is trained ----------------------------------------


class Tied(SmallProvider):
    """Whose two target layers share a weight."""

    def initial_model(self) -> nn.Module:
        model = perceptron()
        model.fc2 = nn.Linear(64, 32)
        model.fc2.weight = model.fc1.weight
        return model


class Unusable(SmallProvider):
    """Whose public data have a hole."""

    def curvature_inputs(self) -> torch.Tensor:
        inputs = super().curvature_inputs().clone()
        inputs[1, 5] = torch.nan
        return inputs


@pytest.mark.parametrize(("provider", "says"), [(Tied, "is also"), (Unusable, "inputs are not finite")])
def test_nothing_is_trained_that_could_not_be_unlearned(
    tmp_path: Path, provider: type[SmallProvider], says: str
) -> None:
    federation = Federation(tmp_path / "run", clients=1, provider=provider())
    assert says in refused(federation.run, InputError).what
    assert not federation.asked
