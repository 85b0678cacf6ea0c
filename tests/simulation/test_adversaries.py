"""Every way to cheat ends in quarantine for a reason of its own, and the honest neighbours do not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from federation import CHEATERS, HALO2, Federation, SmallTask, honest, refused

from zkapex.client.app import Agent
from zkapex.errors import InputError
from zkapex.proofs.verify import verify_receipt
from zkapex.simulation.demo.settings import DemoSettings
from zkapex.simulation.federation.adversaries import CHEATS, check_cheat, make_cheat

NOT_THE_OPERATOR = "the proof does not show that masked weights are zero and the rest is the guarded repair"
NOT_THE_WEIGHTS = "commitment"


def test_the_market_has_every_cheat() -> None:
    assert set(CHEATERS) == set(CHEATS)


@pytest.mark.parametrize("index", [0, 1])
def test_honest_clients_among_cheats_are_proved(market: Federation, result: dict[str, Any], index: int) -> None:
    row = market.row(result, index)
    assert (row["verdict"], row["reason"], row["chunks"], row["chunks_proved"]) == ("proved", None, 2, 2)


@pytest.mark.parametrize(
    ("cheat", "reason"),
    [
        ("ignore", NOT_THE_OPERATOR),
        ("half", NOT_THE_OPERATOR),
        ("unguarded", NOT_THE_OPERATOR),
        ("decoy", NOT_THE_WEIGHTS),
        ("replay", NOT_THE_WEIGHTS),
    ],
)
def test_a_cheat_is_quarantined_with_the_reason(
    market: Federation, result: dict[str, Any], cheat: str, reason: str
) -> None:
    row = market.row(result, 2 + CHEATERS.index(cheat))
    assert row["verdict"] == "quarantined"
    assert reason in row["reason"]
    assert row["chunks_proved"] == 0


@pytest.mark.parametrize(
    ("replayer", "audit"),
    [
        (0, "sampled"),
        pytest.param(1, "full", marks=pytest.mark.slow),
        pytest.param(0, "full", marks=pytest.mark.slow),
        pytest.param(1, "sampled", marks=pytest.mark.slow),
    ],
)
def test_a_replay_ends_the_same_whoever_is_asked_first(tmp_path: Path, replayer: int, audit: str) -> None:
    """Asked before its neighbour has proved, or after, or for a chunk the neighbour is not asked for."""

    def one_replays(index: int, folder: Path, task: SmallTask) -> Agent:
        return make_cheat("replay", folder, task, workers=1) if index == replayer else honest(index, folder, task)

    settings = {**HALO2, "personal-epochs": 1, "audit": audit, "audit-cheating": 0.5, "audit-detect": 0.5}
    federation = Federation(tmp_path / "run", device=one_replays, epochs=3, settings=settings)
    result = federation.serve()
    row = federation.row(result, replayer)
    assert row["verdict"] == "quarantined"
    assert NOT_THE_WEIGHTS in row["reason"]
    assert federation.row(result, 1 - replayer)["verdict"] == "proved"
    # Its second chunk may be asked for while the proof of the first is being verified; not after that.
    assert 1 <= [step for index, step in federation.asked if index == replayer].count("prove") <= row["chunks"]


def test_a_replay_without_neighbours_is_noise(tmp_path: Path) -> None:
    def replay(index: int, folder: Path, task: SmallTask) -> Agent:
        return make_cheat("replay", folder, task, workers=1)

    federation = Federation(tmp_path / "run", 1, replay, epochs=3, settings={**HALO2, "personal-epochs": 1})
    (row,) = federation.serve()["clients"]
    assert row["verdict"] == "quarantined"
    assert NOT_THE_WEIGHTS in row["reason"]


def test_a_cheats_receipt_is_genuine_and_says_no(market: Federation, result: dict[str, Any]) -> None:
    row = market.row(result, 2)
    verified = verify_receipt(market.folder / row["receipt"])
    assert verified.bundle.receipt.outcome.verdict == "failed"
    assert verified.bundle.receipt.outcome.reasons == (row["reason"],)
    assert verified.chunks == 0


def test_there_is_no_other_way_to_cheat(tmp_path: Path) -> None:
    for attempt in (
        lambda: make_cheat("nicely", tmp_path, SmallTask(0)),
        lambda: check_cheat("nicely", "mask-only"),
    ):
        assert "ignore" in refused(attempt, InputError).fix


@pytest.mark.parametrize(
    ("cheat", "operator"), [("unguarded", "mask-only"), ("unguarded", "dampening"), ("decoy", "mask-only")]
)
def test_what_is_no_cheat_for_an_operator_is_refused(cheat: str, operator: str) -> None:
    error = refused(lambda: check_cheat(cheat, operator), InputError)
    assert operator in error.what
    assert cheat not in error.fix.split()
    refused(lambda: DemoSettings(cheat=cheat, operator=operator), InputError)
    DemoSettings(cheat=cheat, operator=operator, dishonest=0)
