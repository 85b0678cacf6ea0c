"""A device that is asked to choose a mask: what it answers, whom it refuses, and that it answers once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import LIMIT, STATE, STRANGER, Bench
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import HELD_SPACE, Examples, HoldingTask, SmallTask, refused, snapshot
from flwr.app import RecordDict

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.agent.proposal import HoldsForgetSet, Planner
from zkapex.client.holder import plan_for_holder
from zkapex.errors import Error, InputError, ProtocolError, SignatureError
from zkapex.proofs.messages import Delivery, Proposal, ProposeRequest
from zkapex.proofs.records.packing import unpack_guards, unpack_masks
from zkapex.proofs.records.record import arrays_digest
from zkapex.proofs.records.sealed import seal, unseal
from zkapex.proofs.records.signing import load_private_key
from zkapex.transport.wire import pack, pack_arrays, unpack


def request(bench: Bench, **changes: Any) -> ProposeRequest:
    fields = {
        "request_id": "request-9",
        "client_id": bench.agent.client_id,
        "manifest_digest": bench.manifest.digest(),
        "weights_digest": arrays_digest(STATE),
        "scorers": HELD_SPACE.scorers,
        "fractions": HELD_SPACE.fractions,
        "concentration": 0.0,
        "forget_target": HELD_SPACE.forget_target,
        "margin": 0.0,
        "retain_cost": 0.05,
        "nonce": "cd" * 32,
    }
    return ProposeRequest(**fields | changes)


def content(
    bench: Bench, key: Ed25519PrivateKey | None = None, arrays: dict[str, Any] | None = None, **changes: Any
) -> RecordDict:
    envelope = seal(request(bench, **changes), key or bench.key).envelope
    return pack_arrays(STATE | (arrays or {}), pack(Delivery(), {"envelope": envelope}))


def holder(bench: Bench, task: SmallTask | None = None, planner: Planner | None = plan_for_holder) -> DeviceAgent:
    return DeviceAgent(bench.folder, task or HoldingTask(0, epochs=1), workers=1, planner=planner)


def test_it_answers_with_a_signed_mask_and_guard_and_the_same_again(bench: Bench) -> None:
    searches: list[int] = []

    def counted(*arguments: Any) -> Any:
        searches.append(len(arguments[0]))
        return plan_for_holder(*arguments)

    agent = holder(bench, planner=counted)
    first = agent.answer("propose", content(bench))
    key = load_private_key(bench.folder / "key.pem").public_key()
    proposal = unseal(Proposal, unpack(first, Delivery, LIMIT)[1]["envelope"], [key]).record
    asked = request(bench)
    assert (proposal.nonce, proposal.request_id, proposal.client_id) == (asked.nonce, "request-9", agent.client_id)
    masked = sum(int(mask.sum()) for mask in unpack_masks(bench.manifest, proposal.mask).values())
    assert 0 < masked <= round(asked.fractions[-1] * (32 * 64 + 40 * 32))
    assert unpack_guards(bench.manifest, proposal.guards)
    assert proposal.claims.forget <= 1
    kept = snapshot(bench.folder)
    assert kept[f"proposals/{asked.nonce}"] == unpack(first, Delivery, LIMIT)[1]["envelope"]
    again = holder(bench, planner=counted).answer("propose", content(bench))  # as after a restart
    assert str(again) == str(first)
    assert searches == [2], "the global model and its own"
    assert snapshot(bench.folder) == kept
    assert str(agent.answer("propose", content(bench, nonce="ef" * 32))) != str(first)


HOSTILE: dict[str, tuple[dict[str, Any], type[Error], str]] = {
    "signed by a stranger": ({"key": STRANGER}, SignatureError, "key"),
    "another client's": ({"client_id": "0" * 64}, ProtocolError, "another client"),
    "of another manifest": ({"manifest_digest": "0" * 64}, ProtocolError, "another manifest"),
    "with other weights": ({"arrays": {"head.bias": STATE["head.bias"] + 1}}, SignatureError, "digest"),
    "with an unknown scorer": ({"scorers": ("horoscope",)}, InputError, "horoscope"),
    "with weights of another model": (
        {"arrays": {"head.bias": np.zeros(3, np.float32)}, "weights_digest": None},
        ProtocolError,
        "does not fit",
    ),
    "with weights that are no numbers": (
        {"arrays": {"head.bias": STATE["head.bias"] * np.float32("nan")}, "weights_digest": None},
        ProtocolError,
        "no numbers",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_changes_nothing(name: str, bench: Bench) -> None:
    changes, kind, what = HOSTILE[name]
    if "weights_digest" in changes:
        changes = {**changes, "weights_digest": arrays_digest(STATE | changes["arrays"])}
    agent, before = holder(bench), snapshot(bench.folder)
    error = refused(lambda: agent.answer("propose", content(bench, **changes)), kind)
    assert what in f"{error.what} {error.why}"
    assert snapshot(bench.folder) == before


def test_a_task_of_before_says_what_it_lacks(bench: Bench) -> None:
    assert not isinstance(SmallTask(0), HoldsForgetSet)
    assert isinstance(HoldingTask(0), HoldsForgetSet)
    error = refused(lambda: holder(bench, SmallTask(0)).answer("propose", content(bench)), ProtocolError)
    assert "forget_examples" in error.why
    assert "HoldsForgetSet" in error.fix
    error = refused(lambda: holder(bench, planner=None).answer("propose", content(bench)), ProtocolError)
    assert "without a planner" in error.why


class Leaving(HoldingTask):
    def personal_examples(self) -> Examples | None:
        return None


def test_a_model_that_has_no_future_is_not_tried(bench: Bench) -> None:
    tried: list[int] = []

    def counted(*arguments: Any) -> Any:
        tried.append(len(arguments[0]))
        return plan_for_holder(*arguments)

    holder(bench, Leaving(0), counted).answer("propose", content(bench))
    assert tried == [1]


class Nothing(HoldingTask):
    def forget_examples(self) -> Examples:
        return torch.zeros(0, 64), torch.zeros(0, dtype=torch.int64)


class NothingElse(HoldingTask):
    def retained_examples(self) -> Examples:
        return torch.zeros(0, 64), torch.zeros(0, dtype=torch.int64)


def test_who_holds_nothing_of_it_says_so(bench: Bench) -> None:
    for task, what in ((Nothing(0), "holds nothing"), (NothingElse(0), "nothing to compare with")):
        agent, before = holder(bench, task), snapshot(bench.folder)
        error = refused(lambda agent=agent: agent.answer("propose", content(bench)), ProtocolError)
        assert what in error.what
        assert snapshot(bench.folder) == before


def test_a_device_that_has_not_enrolled_has_nothing_to_propose(tmp_path: Path, bench: Bench) -> None:
    fresh = DeviceAgent(tmp_path / "fresh", HoldingTask(0), workers=1, planner=plan_for_holder)
    assert "not enrolled" in refused(lambda: fresh.answer("propose", content(bench)), ProtocolError).what


@pytest.mark.parametrize("fractions", [(), (0.0, 0.1), (0.1, 0.1), (0.2, 0.1), (0.5, 1.5)])
def test_limits_that_make_no_sense_are_no_request(fractions: tuple[float, ...], bench: Bench) -> None:
    with pytest.raises(ValueError, match="fractions"):
        request(bench, fractions=fractions)
