"""A federation over several requests: what was deleted stays deleted, whoever is away, killed, or cheats."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aborter import UNDONE, Aborter
from bench import Bench
from federation import HALO2, Died, Federation, SmallTask, honest, refused, step_of
from flwr.app import RecordDict
from life import MASKS, LivingProvider, ask, chains, committed, deployed, left, statuses, traces
from near import by_both

from zkapex.client.agent.agent import STEPS, DeviceAgent
from zkapex.client.agent.common import opened
from zkapex.client.agent.enrol import enrol
from zkapex.client.agent.unlearn import unlearn
from zkapex.client.app import Agent
from zkapex.errors import CommitmentError, InputError, ProtocolError, StorageError
from zkapex.proofs.messages import Delivery, EnrolRequest
from zkapex.proofs.receipts.chain import verify_chain
from zkapex.proofs.verify import verify_receipt
from zkapex.server.events import EventLog
from zkapex.server.federation.lock import one_writer
from zkapex.server.federation.settings import RunSettings
from zkapex.server.service import Federation as Service
from zkapex.simulation.federation.adversaries import make_cheat
from zkapex.transport.grid import Fate, reliable

QUICK = {"operator": "mask-only", "personal-epochs": 1}


def living(folder: Path, clients: int = 1, backend: str = "halo2", **more: Any) -> Federation:
    """A federation whose requests are quickly proved."""
    settings = {**QUICK, "backend": backend, **more.pop("settings", {})}
    return Federation(folder, clients=clients, provider=LivingProvider(), epochs=3, settings=settings, **more)


# -- three requests in one federation ---------------------------------------------------------------------------------


@by_both
def test_what_three_requests_delete_is_never_back(tmp_path: Path, backend: str) -> None:
    """With training and personalisation in between: every enrolment continues the one before, by proof."""
    federation = living(tmp_path / "run", backend=backend, settings={"rounds-between": 1, "personalise-between": True})
    gone: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = []
    for number, request_id in enumerate(MASKS, 1):
        if number > 1:  # weights before this request: those of a device that has personalised and enrolled again
            federation.settings["requests"] = request_id
            federation.run(lambda event: event["event"] == "unlearn.started")
        else:
            federation.settings["requests"] = request_id
            federation.run(lambda event: event["event"] == "unlearn.started")
        weights = deployed(federation, 0)
        gone.append((weights, MASKS[request_id]))
        result = ask(federation, request_id)
        (row,) = result["clients"]
        assert (row["verdict"], row["revision"]) == ("proved", number - 1)
        assert [one["request_id"] for one in result["requests"]] == list(MASKS)[:number]
        for weights, masks in gone:
            assert left(deployed(federation, 0), masks) == left(committed(federation.state(0)), masks) == 0
            assert traces(federation.state(0), weights, masks) == []
        with np.load(federation.folder / f"global-{request_id}.npz") as unlearned:
            for _, masks in gone:
                assert left({name: unlearned[f"{name}.weight"] for name in masks}, masks) == 0
    assert list(chains(federation).values()) == [["proved"] * 3]


@by_both
def test_a_later_request_keeps_the_zeros_of_the_chunks_it_changes(tmp_path: Path, backend: str) -> None:
    """The operator repairs: without them in its mask, it would move weights that the first request deleted."""
    federation = living(tmp_path / "run", backend=backend, settings={"operator": "guarded-group-obs"})
    ask(federation, "request-1")
    (row,) = ask(federation, "request-2")["clients"]
    assert (row["verdict"], row["revision"]) == ("proved", 0)
    for masks in (MASKS["request-1"], MASKS["request-2"]):
        assert left(deployed(federation, 0), masks) == left(committed(federation.state(0)), masks) == 0
    assert list(chains(federation).values()) == [["proved"] * 2]


# -- a device that is away --------------------------------------------------------------------------------------------


@by_both
def test_whoever_is_away_is_asked_when_it_is_back(tmp_path: Path, backend: str) -> None:
    federation = living(tmp_path / "run", backend=backend, clients=2)
    ask(federation, "request-1")
    away = list(federation.grid().get_node_ids())[1]
    federation.network = lambda m: Fate.NODE_DOWN if m.metadata.dst_node_id == away else Fate.DELIVERED
    ask(federation, "request-2")
    assert federation.row(ask(federation, "request-3"), 0)["verdict"] == "proved"
    told = federation.folder / "results" / "request-2.json"
    before = told.stat().st_mtime_ns
    ask(federation, "request-3")
    assert told.stat().st_mtime_ns == before, "it waits for nobody who is here, and was gone on with"
    federation.network = reliable
    ask(federation, "request-3")
    assert sorted(chains(federation).values()) == [["proved"] * 3] * 2
    assert statuses(federation) == ["proved"] * 2
    with_service(federation, lambda service: service.due() == [])


def with_service(federation: Federation, check: Callable[[Service], bool]) -> None:
    settings = RunSettings.from_config(federation.config)
    with (
        EventLog(federation.folder) as events,
        Service(federation.provider, settings, federation.folder, events) as service,
    ):
        assert check(service)


@by_both
def test_a_tick_does_what_is_due_and_says_what_is_left(tmp_path: Path, backend: str) -> None:
    federation = living(tmp_path / "run", backend=backend, clients=2)
    nodes = list(federation.grid().get_node_ids())
    federation.network = lambda m: (
        Fate.NODE_DOWN if m.metadata.dst_node_id == nodes[1] and step_of(m) == "prove" else Fate.DELIVERED
    )
    ask(federation, "request-1")
    lost = federation.client_id(1)
    settings = RunSettings.from_config(federation.config)
    with EventLog(federation.folder) as events:
        provider = federation.provider
        with Service(provider, settings, federation.folder, events) as service:
            assert [(one.what, one.client_id) for one in service.due()] == [("prove", lost)]
            assert service.tick(federation.grid()) == service.due()
            refused(lambda: Service(provider, settings, federation.folder, events).__enter__(), ProtocolError)
            federation.network = reliable
            assert service.tick(federation.grid()) == []
            federation.asked.clear()
            assert service.tick(federation.grid()) == []
            assert {step for _, step in federation.asked} == {"identify"}
    assert sorted(chains(federation).values()) == [["proved"]] * 2


# -- failure has causes -----------------------------------------------------------------------------------------------


@by_both
def test_a_late_answer_is_nobodys_fault(tmp_path: Path, backend: str, later: Callable[[timedelta], None]) -> None:
    """The server goes down when the device has answered, and comes back when the request has expired."""

    def dies(device: DeviceAgent, content: RecordDict) -> RecordDict:
        unlearn(device, content)
        raise Died("the server's machine goes down now")

    class Dies(DeviceAgent):
        steps = {**STEPS, "unlearn": dies}  # noqa: RUF012

    federation = living(tmp_path / "run", backend=backend, device=lambda i, folder, task: Dies(folder, task, workers=1))
    federation.run()
    before = MASKS["request-1"]
    assert left(deployed(federation, 0), before) == 0
    later(timedelta(days=8))
    federation.device = honest
    (row,) = federation.serve()["clients"]
    assert row["verdict"] == "failed"
    assert "time was over" in row["reason"]
    assert statuses(federation) == ["enrolled"], "it has enrolled again already"
    (row,) = ask(federation, "request-2")["clients"]
    assert (row["verdict"], row["revision"]) == ("proved", 1)
    assert left(deployed(federation, 0), before) == 0
    assert list(chains(federation).values()) == [["failed", "proved"]]


@by_both
def test_a_deletion_whose_proof_is_lost_is_not_undone_by_the_next_request(
    tmp_path: Path, backend: str, later: Callable[[timedelta], None]
) -> None:
    federation = living(tmp_path / "run", backend=backend, settings={"operator": "guarded-group-obs"})
    federation.run(lambda event: event["event"] == "unlearn.started")
    before = deployed(federation, 0)
    federation.network = lambda m: Fate.NODE_DOWN if step_of(m) == "prove" else Fate.DELIVERED
    (row,) = federation.serve()["clients"]
    assert (row["verdict"], row["receipt"]) == ("unreachable", None)
    later(timedelta(days=8))
    federation.network = reliable
    (row,) = ask(federation, "request-2")["clients"]
    assert (row["verdict"], row["revision"], row["attempts"]) == ("proved", 1, 1)
    assert left(deployed(federation, 0), MASKS["request-1"]) == left(deployed(federation, 0), MASKS["request-2"]) == 0
    assert traces(federation.state(0), before, MASKS["request-1"]) == []
    assert list(chains(federation).values()) == [["unreachable", "proved"]]
    facts = verify_receipt(federation.folder / row["receipt"]).bundle.receipt.facts
    assert (facts.enrolment_revision, facts.attempts) == (1, 1)


@by_both
def test_a_full_disk_on_a_device_is_asked_again(tmp_path: Path, backend: str) -> None:
    full = [True]

    def unlearn_if_there_is_space(device: DeviceAgent, content: RecordDict) -> RecordDict:
        if full[0]:
            raise StorageError("cannot write it", why="no space left on device")
        return unlearn(device, content)

    class Full(DeviceAgent):
        steps = {**STEPS, "unlearn": unlearn_if_there_is_space}  # noqa: RUF012

    federation = living(tmp_path / "run", backend=backend, device=lambda i, folder, task: Full(folder, task, workers=1))
    (row,) = federation.serve()["clients"]
    assert row["verdict"] == "unreachable"
    assert "no space left on device" in row["reason"]
    full[0] = False
    (row,) = federation.serve()["clients"]
    assert row["verdict"] == "proved"


@pytest.mark.slow  # the three deletions of test_one_federation have such a device as well
def test_aborting_when_drawn_does_not_help(tmp_path: Path, later: Callable[[timedelta], None]) -> None:
    """Five requests, each sampled: a client that was drawn once and failed is from then on drawn whole."""
    audit = {**HALO2, "audit": "sampled", "audit-cheating": 0.5, "audit-detect": 0.5}
    federation = living(
        tmp_path / "run", device=lambda i, folder, task: Aborter(folder, task, workers=1), settings=audit
    )
    drawn = False
    for number in range(1, 6):
        (row,) = ask(federation, f"attempt-{number}")["clients"]
        with federation.registry() as registry:
            request = registry.request(row["client_id"], f"attempt-{number}")
        assert request is not None
        if drawn:
            assert row["verdict"] != "proved"
            assert (request.sealed.record.audit.mode, request.sealed.record.attempts >= 1) == ("full", True)
        if row["verdict"] != "proved":
            assert UNDONE["halo2"] in request.drawn
            drawn = True
        later(timedelta(days=8))


# -- the chain of commitments -----------------------------------------------------------------------------------------


class Regretful(DeviceAgent):
    """Keeps its weights from before the first request, and enrols them again by itself after it."""


def keep_and_unlearn(device: DeviceAgent, content: RecordDict) -> RecordDict:
    kept = device.vault.folder / "before.npz"
    if not kept.exists():
        shutil.copy(device.vault.folder / "model.npz", kept)
    return unlearn(device, content)


def enrol_before(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Puts the weights from before in place of what is deployed, and proves what it can of them."""
    kept = device.vault.folder / "before.npz"
    if kept.exists():
        shutil.copy(kept, device.vault.folder / "model.npz")
        _, blobs = opened(content, Delivery)
        assert device.trust.introduced(EnrolRequest, blobs).demand is not None
    return enrol(device, content)


Regretful.steps = {**STEPS, "unlearn": keep_and_unlearn, "enrol": enrol_before}


@by_both
def test_nobody_enrols_unasked(tmp_path: Path, backend: str) -> None:
    """A client that was proved puts its old weights back and commits to them by itself."""
    federation = living(
        tmp_path / "run", backend=backend, device=lambda i, folder, task: Regretful(folder, task, workers=1)
    )
    ask(federation, "request-1")
    folder = federation.state(0)
    agent = Regretful(folder, SmallTask(0, 1), workers=1)
    shutil.copy(folder / "before.npz", folder / "model.npz")
    bench = Bench(federation, tmp_path / "bench")
    bench.agent, bench.folder = agent, folder
    agent.steps = {**STEPS, "unlearn": keep_and_unlearn}  # type: ignore[misc]
    agent.answer("enrol", bench.enrol("77" * 32))  # a nonce of its own choice
    assert left(committed(folder), MASKS["request-1"]) > 0
    (row,) = ask(federation, "request-2")["clients"]
    assert "identify.failed" in (federation.folder / "events.jsonl").read_text()
    assert row["verdict"] == "proved"  # after it has enrolled again as it was asked to, which put the zeros back
    assert left(committed(folder), MASKS["request-1"]) == left(deployed(federation, 0), MASKS["request-1"]) == 0
    assert list(chains(federation).values()) == [["proved"] * 2]


@by_both
def test_the_chain_of_receipts_is_checked(tmp_path: Path, backend: str) -> None:
    federation = living(tmp_path / "run", backend=backend, settings={"personalise-between": True})
    ask(federation, "request-1", "request-2")
    receipts = federation.folder / "receipts"
    (client,) = chains(federation)
    missing = tmp_path / "missing"
    shutil.copytree(receipts, missing)
    shutil.rmtree(missing / "request-1")
    refused(lambda: verify_chain(missing), CommitmentError)
    refused(lambda: verify_chain(tmp_path / "nothing"), InputError)
    doubled = tmp_path / "doubled"
    shutil.copytree(receipts, doubled)
    shutil.copytree(doubled / "request-1", doubled / "again")
    with pytest.raises(Exception, match="two receipts"):
        verify_chain(doubled)
    assert client == federation.client_id(0)


# -- identity ---------------------------------------------------------------------------------------------------------


@by_both
def test_a_quarantine_survives_a_new_key(tmp_path: Path, backend: str) -> None:
    def second_cheats(index: int, folder: Path, task: SmallTask) -> Agent:
        return make_cheat("ignore", folder, task, workers=1) if index else honest(index, folder, task)

    federation = living(tmp_path / "run", backend=backend, clients=2, device=second_cheats)
    ask(federation, "request-1")
    assert sorted(statuses(federation)) == ["proved", "quarantined"]
    shutil.rmtree(federation.state(1))
    federation.device = honest
    federation.asked.clear()
    federation.settings["rounds-between"] = 1
    result = ask(federation, "request-2")
    assert [row["client_id"] for row in result["clients"]] == [federation.client_id(0)]
    assert {step for index, step in federation.asked if index == 1} == {"identify"}, "it does not train either"
    assert len(statuses(federation)) == 2
    (told,) = result["not_enrolled"]
    assert "waits for an operator" in told["reason"]


def test_whom_an_operator_has_not_listed_waits(tmp_path: Path) -> None:
    federation = living(tmp_path / "run", clients=2, settings={"admission": "listed"})
    federation.device = honest
    settings = RunSettings.from_config(federation.config)
    with (
        EventLog(federation.folder) as events,
        Service(federation.provider, settings, federation.folder, events) as service,
    ):
        service.admission.admit(federation.client_id(0), "the lab's own")
        service.carry_out(federation.grid(), "request-1")
        assert list(service.admission.entries().waiting) == [federation.client_id(1)]
    assert [client for client, step in federation.asked if step in ("train", "enrol")] == [0, 0]
    assert len(statuses(federation)) == 1


# -- one writer -------------------------------------------------------------------------------------------------------


def test_a_folder_has_one_writer_and_a_crash_frees_it(tmp_path: Path) -> None:
    with one_writer(tmp_path / "work"):
        error = refused(lambda: one_writer(tmp_path / "work").__enter__(), ProtocolError)
        assert "another process works" in error.what
    script = f"import os\nfrom pathlib import Path\nfrom zkapex.server.federation.lock import one_writer\n\
one_writer(Path({str(tmp_path / 'work')!r})).__enter__()\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with one_writer(tmp_path / "work"):
        pass
