"""The forget set sits with a client: it chooses mask and guard, and what a provider does not have to take from it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import (
    HELD_SPACE,
    REQUEST,
    Altered,
    DelegatingProvider,
    Examples,
    Federation,
    HoldingTask,
    SmallTask,
    honest,
    only,
    refused,
)
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent
from zkapex.client.holder import plan_for_holder
from zkapex.client.state.place import Place
from zkapex.client.state.vault import Vault
from zkapex.errors import Error, InputError, ProtocolError, SignatureError, StorageError, VerificationError
from zkapex.proofs.messages import Delivery, GuardBlock, LayerMask, ModelManifest, Proposal
from zkapex.proofs.records.packing import pack_masks, unpack_masks
from zkapex.proofs.records.sealed import restore, seal
from zkapex.proofs.records.signing import load_private_key
from zkapex.proofs.verify import verify_receipt
from zkapex.transport.wire import pack, unpack

HOLDER, LIMIT = 1, 2**26


def federation_in(folder: Path, largest_loss: float = 0.2, **changes: Any) -> Federation:
    """Two clients, the second of which holds what is to be forgotten."""
    provider = DelegatingProvider(folder / "devices" / f"{HOLDER:03d}", largest_loss)
    settings = {"backend": "transparent", **changes.pop("settings", {})}  # its proofs are quick, and not the subject
    return Federation(folder, provider=provider, task=HoldingTask, settings=settings, **changes)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is stopped where the holder is to be asked. Not to be changed."""
    federation = federation_in(tmp_path_factory.mktemp("asked") / "run")
    seen = federation.run(lambda event: event["event"] == "propose.asked")
    assert seen[-1]["event"] == "propose.asked"
    return federation.folder


@pytest.fixture
def folder(asked: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    shutil.copytree(asked, tmp_path / "run")
    for device in (tmp_path / "run" / "devices").iterdir():
        Place(Vault(device)).mark(Vault(device).inner("enrolment"))  # it would take itself for a copy
    return tmp_path / "run"


# -- what comes of it


def test_the_holders_choice_is_everybodys_request(folder: Path) -> None:
    answers: list[RecordDict] = []

    def device(index: int, path: Path, task: SmallTask) -> Agent:
        return Altered(honest(index, path, task), "propose", lambda reply: answers.append(reply) or reply)  # type: ignore[func-returns-value]

    federation = federation_in(folder, device=device)
    result = federation.serve()
    assert [row["verdict"] for row in result["clients"]] == ["proved", "proved"]
    assert federation.provider.plans == 0
    (answer,) = answers
    assert not any(isinstance(part, ArrayRecord) for part in answer.values()), "weights have left the device"
    proposal = restore(Proposal, unpack(answer, Delivery, LIMIT)[1]["envelope"]).record
    assert result["proposal"] == {"holder": federation.client_id(HOLDER), "claims": proposal.claims.model_dump()}
    with federation.registry() as registry:
        requests = [found.sealed.record for found in registry.requests(REQUEST)]
    assert len(requests) == 2
    for request in requests:
        assert request.mask == proposal.mask
        assert request.guards == proposal.guards
    plan = result["plan"]
    assert plan["forget"] == proposal.claims.forget <= HELD_SPACE.forget_target
    assert plan["masked_weights"] == sum(m.sum() for m in masks_of(federation, proposal).values())
    for row in result["clients"]:
        assert row["accuracy"]["after"]["forget"] < row["accuracy"]["before"]["forget"]
        verify_receipt(federation.folder / row["receipt"])


def masks_of(federation: Federation, proposal: Proposal) -> dict[str, Any]:
    path = federation.state(HOLDER) / "enrolment" / "manifest.json"
    return unpack_masks(ModelManifest.from_bytes(path.read_bytes()), proposal.mask)


def test_it_is_asked_for_once_whoever_is_killed(folder: Path) -> None:
    searches: list[int] = []

    def device(index: int, path: Path, task: SmallTask) -> Agent:
        def planner(*arguments: Any) -> Any:
            searches.append(index)
            if len(searches) == 1:
                raise OSError("power cut")
            return plan_for_holder(*arguments)

        return DeviceAgent(path, task, workers=1, planner=planner)

    federation = federation_in(folder, device=device)
    request = (folder / "provider" / "requests" / "request-1" / "proposal-request.json").read_bytes()
    for name in ("propose.answered", "search.done"):
        assert federation.run(lambda event, name=name: event["event"] == name)[-1]["event"] == name
    assert searches == [HOLDER, HOLDER], "the first search was cut short, no third is needed"
    assert (folder / "provider" / "requests" / "request-1" / "proposal-request.json").read_bytes() == request
    federation.asked.clear()
    federation.run(lambda event: event["event"] == "unlearn.started")
    assert "propose" not in {step for _, step in federation.asked}


def test_other_limits_are_another_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    path = folder / "provider" / "requests" / "request-1" / "proposal-request.json"
    before = path.read_bytes()
    federation = federation_in(folder)
    federation.run(lambda event: event["event"] == "propose.asked")
    assert path.read_bytes() == before
    monkeypatch.setattr("federation.HELD_SPACE", replace(HELD_SPACE, retain_cost=0.5))
    federation.run(lambda event: event["event"] == "propose.asked")
    assert path.read_bytes() != before


# -- holders that are not to be believed


@dataclass
class Scene:
    """A holder that can sign whatever it likes."""

    proposal: Proposal
    manifest: ModelManifest
    key: Any

    def sign(self, **changes: Any) -> RecordDict:
        return pack(Delivery(), {"envelope": seal(self.proposal.model_copy(update=changes), self.key).envelope})

    def first_mask(self, **changes: Any) -> tuple[LayerMask, ...]:
        first, *rest = self.proposal.mask
        return (first.model_copy(update=changes), *rest)

    def first_guard(self, **changes: Any) -> tuple[GuardBlock, ...]:
        first, *rest = self.proposal.guards
        return (first.model_copy(update=changes), *rest)

    def guard_values(self, change: Callable[[Any], Any]) -> tuple[GuardBlock, ...]:
        first = self.proposal.guards[0]
        values = np.frombuffer(first.values, "<i2").reshape(first.width, first.rank)
        return self.first_guard(values=np.ascontiguousarray(change(values.copy()), "<i2").tobytes())

    def mask_of(self, choose: Callable[[Any], Any]) -> tuple[LayerMask, ...]:
        return pack_masks(
            self.manifest,
            {layer.name: choose(np.zeros((layer.rows, layer.cols), bool)) for layer in self.manifest.layers},
        )


def _all(mask: Any) -> Any:
    return ~mask


def _twice(values: Any) -> Any:
    values[:, 1] = values[:, 0]
    return values


REFUSED: dict[str, tuple[Callable[[Scene], RecordDict], type[Error], str]] = {
    "every weight": (lambda s: s.sign(mask=s.mask_of(_all)), ProtocolError, "the budget"),
    "a mask too short": (lambda s: s.sign(mask=s.first_mask(bits=b"\x01")), ProtocolError, "bytes"),
    "a mask of no layer": (lambda s: s.sign(mask=s.first_mask(layer="head")), ProtocolError, "unknown layers"),
    "an empty mask": (
        lambda s: s.sign(mask=s.first_mask(bits=bytes(len(s.proposal.mask[0].bits)))),
        ProtocolError,
        "empty",
    ),
    "factors": (lambda s: s.sign(mask=s.first_mask(factors=b"\x01")), ProtocolError, "factors"),
    "steering": (
        lambda s: s.sign(guards=s.first_guard(steering=bytes(2 * s.proposal.guards[0].rank))),
        ProtocolError,
        "steers",
    ),
    "a guard of no block": (lambda s: s.sign(guards=s.first_guard(block=99)), ProtocolError, "unknown blocks"),
    "a guard too narrow": (
        lambda s: s.sign(guards=s.first_guard(width=4, rank=1, values=bytes(8))),
        ProtocolError,
        "circuit wants",
    ),
    "a guard too long": (lambda s: s.sign(guards=s.guard_values(lambda v: v * 3)), ProtocolError, "guard"),
    "the same direction twice": (lambda s: s.sign(guards=s.guard_values(_twice)), ProtocolError, "orthonormal"),
    "a stranger's signature": (lambda s: Scene(s.proposal, s.manifest, _other_key()).sign(), SignatureError, "key"),
    "no signature": (
        lambda s: pack(Delivery(), {"envelope": s.proposal.to_bytes()}),
        SignatureError,
        "envelope",
    ),
    "nothing": (lambda s: pack(Delivery()), SignatureError, "envelope"),
    "noise": (lambda s: RecordDict({"x": ConfigRecord({"y": 1})}), ProtocolError, "no zkapex record"),
    "an answer to another request": (lambda s: s.sign(nonce="0" * 64), ProtocolError, "another request"),
    "another request's id": (lambda s: s.sign(request_id="request-0"), ProtocolError, "another request"),
    "another manifest": (lambda s: s.sign(manifest_digest="0" * 64), ProtocolError, "another request"),
}


def _other_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def lying(make: Callable[[Scene], RecordDict]) -> Callable[[int, Path, SmallTask], Agent]:
    def device(index: int, path: Path, task: SmallTask) -> Agent:
        def lie(reply: RecordDict) -> RecordDict:
            proposal = restore(Proposal, unpack(reply, Delivery, LIMIT)[1]["envelope"]).record
            manifest = ModelManifest.from_bytes((path / "enrolment" / "manifest.json").read_bytes())
            return make(Scene(proposal, manifest, load_private_key(path / "key.pem")))

        return Altered(honest(index, path, task), "propose", lie)

    return device


@pytest.mark.parametrize("name", REFUSED)
def test_a_proposal_that_is_none_is_refused_and_nobody_is_asked_to_follow_it(name: str, folder: Path) -> None:
    make, kind, what = REFUSED[name]
    federation = federation_in(folder, device=lying(make))
    error = refused(federation.run, kind)
    assert what in f"{error.what} {error.why}"
    assert not (folder / "provider" / "requests" / "request-1" / "plan.json").exists()
    with federation.registry() as registry:
        assert list(registry.requests(REQUEST)) == []
    federation_in(folder).run(lambda event: event["event"] == "search.done")  # an honest answer is taken afterwards
    assert (folder / "provider" / "requests" / "request-1" / "plan.json").exists()


class SpitefulTask(HoldingTask):
    """Calls for the deletion of four digits that nobody wants deleted, by the honest search."""

    def forget_examples(self) -> Examples:
        return only(self._replay, self._replay[1] > 5)

    def retained_examples(self) -> Examples:
        return only(self._replay, self._replay[1] <= 5)


def test_a_proposal_that_harms_is_refused_with_the_figure(folder: Path) -> None:
    """The budget is kept and all is well formed, but it makes the model worse at what is to be kept."""
    federation = federation_in(folder, largest_loss=0.1)
    federation.tasks[HOLDER] = SpitefulTask(HOLDER)
    error = refused(federation.run, VerificationError)
    assert re.search(r"costs too much: 0\.[0-9]{3} of retain accuracy", error.what)
    assert "at most 0.100 is allowed" in error.why
    assert error.exit_code == 20
    with federation.registry() as registry:
        assert list(registry.requests(REQUEST)) == []


def test_a_holder_that_is_away_or_cannot_ends_the_run_with_its_reason(folder: Path) -> None:
    def unable(index: int, path: Path, task: SmallTask) -> Agent:
        return DeviceAgent(path, task, workers=1)

    error = refused(federation_in(folder, device=unable).run, ProtocolError)
    assert "did not propose" in error.what
    assert "without a planner" in error.why or "cannot choose a mask" in error.why
    alone = federation_in(folder, clients=1)
    assert "no node of this run is this client" in refused(alone.run, ProtocolError).what


def test_what_is_kept_about_it_is_checked(folder: Path) -> None:
    (folder / "provider" / "requests" / "request-1" / "proposal-request.json").write_text("{")
    assert "proposal-request.json" in refused(federation_in(folder).run, StorageError).what


@pytest.mark.parametrize(
    "settings",
    [
        {"operator": "mask-only"},
        pytest.param({"backend": "halo2", "curvature": "block-fisher", "guard-rank": 0}, marks=pytest.mark.slow),
    ],
)
def test_other_operators_are_proposed_for_as_well(settings: dict[str, str], tmp_path: Path) -> None:
    federation = federation_in(tmp_path / "run", settings=settings, epochs=10)
    seen = federation.run(lambda event: event["event"] == "unlearn.started")
    assert seen[-1]["event"] == "unlearn.started"
    with federation.registry() as registry:
        assert [found.sealed.record.guards for found in registry.requests(REQUEST)] == [(), ()]


def test_factors_cannot_be_proposed(tmp_path: Path) -> None:
    federation = federation_in(tmp_path / "run", settings={"operator": "dampening"}, epochs=1)
    assert "dampening" in refused(federation.run, InputError).what
