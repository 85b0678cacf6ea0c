"""Targets of one request hold after the next, after training, and in every enrolment; who lets go of them is seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from federation import Federation, refused
from life import TargetingProvider, along, ask, chains, committed, deployed, statuses
from near import by_both

from zkapex.client.agent import enrol as enrolling
from zkapex.client.state.memory import Memory
from zkapex.errors import ProtocolError, ReceiptError
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.messages import Demand, ModelManifest
from zkapex.server.requests import opening, planning

IDS = ("request-1", "request-2", "request-3")


def living(folder: Path, **more: Any) -> Federation:
    """A federation whose requests prescribe targets."""
    settings = {"operator": "targeted-group-obs", "personal-epochs": 1, "personalise-between": True, "tune-epochs": 0}
    settings |= more
    return Federation(folder, clients=1, provider=TargetingProvider(), epochs=3, settings=settings)


def integers(federation: Federation, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    manifest = ModelManifest.from_bytes((federation.folder / "provider" / "manifest.json").read_bytes())
    return {
        layer.name: np.rint(weights[layer.name].astype(np.float64) * 2.0**layer.exponent).astype(np.int64)
        for layer in manifest.layers
    }


@by_both
def test_what_three_requests_prescribe_in_one_block_stays(tmp_path: Path, backend: str) -> None:
    """With training and personalisation in between, and every enrolment a proof that all earlier targets hold."""
    federation = living(tmp_path / "run", backend=backend, **{"rounds-between": 1})
    for number, request_id in enumerate(IDS, 1):
        (row,) = ask(federation, request_id)["clients"]
        assert (row["verdict"], row["revision"]) == ("proved", number - 1)
        for weights in (committed(federation.state(0)), integers(federation, deployed(federation, 0))):
            assert along(federation, weights, *IDS[:number]) == 0
        with np.load(federation.folder / f"global-{request_id}.npz") as unlearned:
            state = {name: unlearned[f"{name}.weight"] for name in ("fc1", "fc2")}
        assert along(federation, integers(federation, state), *IDS[:number]) == 0
    assert list(chains(federation).values()) == [["proved"] * 3]
    with federation.registry() as registry:
        (client,) = registry.clients()
        held = registry.enrolment(client.client_id).continuation
    assert held is not None
    assert held.held is not None
    assert [guard.rank for guard in held.held.guards] == [2, 1], "of the two requests before the third"


REFUSED = {
    "halo2": "an enrolment holds something else than what all earlier requests demand",
    "transparent": "an enrolment does not prove every layer that earlier requests have touched",
}
"""What is said to whoever shows too little."""


def without_targets(manifest: ModelManifest, mask: Any, guards: Any) -> Demands:
    return Demands(Demands.unpacked(manifest, mask, guards).zeros)


def only_zeros(manifest: ModelManifest, demand: Demand) -> Demands:
    return without_targets(manifest, demand.mask, demand.guards)


@by_both
def test_whoever_lets_go_of_targets_cannot_enrol_again(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains without holding them, and proves the zeros alone, which was enough before."""
    federation = living(tmp_path / "run", backend=backend)
    ask(federation, "request-1")
    with monkeypatch.context() as patch:
        patch.setattr(Memory, "held_targets", lambda self: {})
        patch.setattr(enrolling, "_demands", only_zeros)
        patch.setattr(f"zkapex.proofs.backends.{backend}.Demands", SimpleNamespace(unpacked=without_targets))
        result = ask(federation, "request-2")
        assert along(federation, committed(federation.state(0)), "request-1") > 0
    assert result["clients"] == []
    assert REFUSED[backend] in (federation.folder / "events.jsonl").read_text()
    assert statuses(federation) == ["proved"], "nobody is blamed: nothing was proved that is not so"
    (row,) = ask(federation, "request-2")["clients"]  # as soon as it holds them again
    assert row["verdict"] == "proved"
    assert along(federation, committed(federation.state(0)), "request-1", "request-2") == 0


@by_both
def test_a_request_that_gives_up_targets_is_refused_by_everybody(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = living(tmp_path / "run", backend=backend, **{"personalise-between": False})
    ask(federation, "request-1")
    monkeypatch.setattr(planning, "keep", lambda plan, earlier, manifest: plan)
    federation.settings["requests"] = "request-2"
    assert "would bring back" in refused(federation.run, ProtocolError).what
    monkeypatch.setattr(opening, "require_kept", lambda demands, instance: None)
    (row,) = ask(federation, "request-2")["clients"]
    assert row["verdict"] == "failed"
    assert "would bring back" in row["reason"], "the device does not do it"
    monkeypatch.setattr(Memory, "refuse_return", lambda self, instance: None)
    (row,) = ask(federation, "request-3")["clients"]
    assert row["verdict"] == "proved", "each of them by itself is"
    assert along(federation, committed(federation.state(0)), "request-1") > 0
    refused(lambda: chains(federation), ReceiptError)
