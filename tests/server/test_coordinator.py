"""Whatever a client sends ends as a recorded reason: no answer stops the run, and none harms a neighbour."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from federation import HALO2, REQUEST, Altered, Federation, SmallTask, honest, refused
from flwr.app import ConfigRecord, RecordDict
from near import by_both

from zkapex.client.agent.agent import STEPS, DeviceAgent
from zkapex.client.agent.identify import identify
from zkapex.client.app import Agent
from zkapex.errors import ProtocolError, ProverError
from zkapex.proofs.jobs.worker import COST, PROOF
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    ChunkProof,
    Delivery,
    Enrolment,
    EvaluateReply,
    ProveResponse,
    UnlearnResponse,
)
from zkapex.proofs.records.record import Record
from zkapex.proofs.records.sealed import seal
from zkapex.proofs.records.signing import CHALLENGE_TYPE, Envelope, create_private_key, load_private_key, sign
from zkapex.transport import peers
from zkapex.transport.wire import pack, unpack

R = TypeVar("R", bound=Record)
OFF_CURVE = "11" * 64
LIMIT = 2**22


@dataclass(frozen=True)
class Liar:
    """What one client does to its honest reply to a step, given its folder, and what must be heard of it."""

    step: str
    alter: Callable[[Path, RecordDict], RecordDict]
    heard: str
    verdict: str = "quarantined"


class Lazy(DeviceAgent):
    """Leaves a proof that is none: what follows is about what becomes of it, and takes no time."""

    def prove_chunks(self, engine: Any, instance: Any, holdings: Any, change: Any, folders: Any) -> None:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / COST).write_text(json.dumps({"cpu_s": 0.0, "peak_rss_mb": 0.0}))
            (folder / PROOF).write_bytes(bytes(engine.circuit.proof_bytes))


def nothing(folder: Path, reply: RecordDict) -> RecordDict:
    return RecordDict()


def noise(folder: Path, reply: RecordDict) -> RecordDict:
    head = {"wire": 1, "kind": reply_kind(reply), "body": b"\x00\xff{" * 100}
    return RecordDict({"zkapex.record": ConfigRecord(head)})


def huge(folder: Path, reply: RecordDict) -> RecordDict:
    reply["zkapex.blobs"] = ConfigRecord({"envelope": bytes(LIMIT + 1)})
    return reply


def newer(folder: Path, reply: RecordDict) -> RecordDict:
    head = reply["zkapex.record"]
    assert isinstance(head, ConfigRecord)
    head["wire"] = 2
    return reply


def extra_entry(folder: Path, reply: RecordDict) -> RecordDict:
    reply["surprise"] = ConfigRecord({"a": 1})
    return reply


def refuse(folder: Path, reply: RecordDict) -> RecordDict:
    raise ProverError("the battery is empty")


def crash(folder: Path, reply: RecordDict) -> RecordDict:
    raise ZeroDivisionError("a bug\nin two lines")


def reply_kind(reply: RecordDict) -> str:
    head = reply["zkapex.record"]
    assert isinstance(head, ConfigRecord)
    return str(head["kind"])


def resigned(kind: type[R], **changes: Any) -> Callable[[Path, RecordDict], RecordDict]:
    """The signed record in the reply with some fields changed, signed again by the client; callables get the record."""

    def alter(folder: Path, reply: RecordDict) -> RecordDict:
        _, blobs = unpack(reply, Delivery, LIMIT)
        record = kind.from_bytes(Envelope.from_bytes(blobs["envelope"]).payload)
        values = {name: change(record) if callable(change) else change for name, change in changes.items()}
        altered = record.model_copy(update=values)
        return pack(Delivery(), {"envelope": seal(altered, load_private_key(folder / "key.pem")).envelope})

    return alter


def forged(kind: type[R]) -> Callable[[Path, RecordDict], RecordDict]:
    """The same record signed by somebody else."""

    def alter(folder: Path, reply: RecordDict) -> RecordDict:
        _, blobs = unpack(reply, Delivery, LIMIT)
        record = kind.from_bytes(Envelope.from_bytes(blobs["envelope"]).payload)
        return pack(Delivery(), {"envelope": seal(record, create_private_key(folder / "other.pem")).envelope})

    return alter


def proofs(change: Callable[[tuple[ChunkProof, ...]], tuple[ChunkProof, ...]]) -> Callable[..., RecordDict]:
    def alter(folder: Path, reply: RecordDict) -> RecordDict:
        record, _ = unpack(reply, ProveResponse, LIMIT)
        return pack(record.model_copy(update={"proofs": change(record.proofs)}))

    return alter


def of_the_neighbour(folder: Path, reply: RecordDict) -> RecordDict:
    envelope = (folder.parent / "000" / "enrolment" / "enrolment.json").read_bytes()
    return pack(Delivery(), {"envelope": envelope})


def scores_of_the_neighbour(folder: Path, reply: RecordDict) -> RecordDict:
    record, _ = unpack(reply, EvaluateReply, LIMIT)
    return pack(record.model_copy(update={"client_id": "0" * 64}))


def fewer(record: UnlearnResponse) -> Any:
    return record.commitments[:-1]


def fewer_root(record: UnlearnResponse) -> str:
    return commitment_root([(c.chunk, c.theta) for c in record.commitments[:-1]])


def off_curve(record: UnlearnResponse) -> Any:
    return (record.commitments[0].model_copy(update={"theta": OFF_CURVE}), *record.commitments[1:])


NOT_SIGNED = "signature"
LIARS = {
    "personalise: nothing": Liar("personalise", nothing, "no zkapex record"),
    "personalise: noise": Liar("personalise", noise, "malformed"),
    "personalise: crash": Liar("personalise", crash, "a bug in two lines"),
    "enrol: nothing": Liar("enrol", nothing, "no zkapex record"),
    "enrol: noise": Liar("enrol", noise, "malformed"),
    "enrol: huge": Liar("enrol", huge, "too large"),
    "enrol: refuse": Liar("enrol", refuse, "the battery is empty"),
    "enrol: nonce": Liar("enrol", resigned(Enrolment, nonce="0" * 64), "nonce"),
    "enrol: neighbour's": Liar("enrol", of_the_neighbour, "nonce"),
    "enrol: forged": Liar("enrol", forged(Enrolment), NOT_SIGNED),
    "enrol: other manifest": Liar("enrol", resigned(Enrolment, manifest_digest="0" * 64), "manifest"),
    "enrol: other federation": Liar("enrol", resigned(Enrolment, federation="other"), "federation"),
    "enrol: later revision": Liar("enrol", resigned(Enrolment, revision=5), "revision"),
    "enrol: off curve": Liar("enrol", resigned(Enrolment, theta=lambda r: (OFF_CURVE, *r.theta[1:])), "curve"),
    "enrol: too few": Liar("enrol", resigned(Enrolment, theta=lambda r: r.theta[1:]), "wrong number"),
    "unlearn: nothing": Liar("unlearn", nothing, "no zkapex record", "unreachable"),
    "unlearn: huge": Liar("unlearn", huge, "too large", "unreachable"),
    "unlearn: newer": Liar("unlearn", newer, "version 2", "unreachable"),
    "unlearn: refuse": Liar("unlearn", refuse, "the client reported", "failed"),
    "unlearn: nonce": Liar("unlearn", resigned(UnlearnResponse, nonce="0" * 64), "nonce"),
    "unlearn: other request": Liar("unlearn", resigned(UnlearnResponse, request_id="other"), "not this client's"),
    "unlearn: forged": Liar("unlearn", forged(UnlearnResponse), NOT_SIGNED),
    "unlearn: off curve": Liar(
        "unlearn",
        resigned(
            UnlearnResponse,
            commitments=off_curve,
            root=lambda r: commitment_root([(c.chunk, c.theta) for c in off_curve(r)]),
        ),
        "curve",
    ),
    "unlearn: too few": Liar(
        "unlearn", resigned(UnlearnResponse, commitments=fewer, root=fewer_root), "touched chunks"
    ),
    "unlearn: root": Liar("unlearn", resigned(UnlearnResponse, root="0" * 64), "Merkle root"),
    "prove: nothing": Liar("prove", nothing, "no zkapex record", "unreachable"),
    "prove: noise": Liar("prove", noise, "malformed", "unreachable"),
    "prove: huge": Liar("prove", huge, "too large", "unreachable"),
    "prove: entry": Liar("prove", extra_entry, "entries that zkapex does not send", "unreachable"),
    "prove: crash": Liar("prove", crash, "the client reported", "unreachable"),
    "prove: other chunk": Liar("prove", proofs(lambda p: (p[0].model_copy(update={"chunk": 1}),)), "asked for"),
    "prove: one more": Liar("prove", proofs(lambda p: (*p, p[0].model_copy(update={"chunk": 3}))), "asked for"),
    "prove: zeros": Liar("prove", proofs(lambda p: p), "not a point on the curve"),
    "prove: one byte": Liar("prove", proofs(lambda p: (p[0].model_copy(update={"proof": b"x"}),)), "proof"),
    "prove: longer": Liar("prove", proofs(lambda p: (p[0].model_copy(update={"proof": p[0].proof + b"x"}),)), "proof"),
    "evaluate: nothing": Liar("evaluate", nothing, "no zkapex record"),
    "evaluate: neighbour's": Liar("evaluate", scores_of_the_neighbour, "another client's"),
    "receipt: noise": Liar("receipt", noise, ""),
}
NAMES = tuple(LIARS)


def crowd(index: int, folder: Path, task: SmallTask) -> Agent:
    """The first is honest, every other one lies in one way."""
    if index == 0:
        return honest(index, folder, task)
    liar = LIARS[NAMES[index - 1]]
    return Altered(Lazy(folder, task), liar.step, lambda reply: liar.alter(folder, reply))


@pytest.fixture(scope="module")
def liars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, dict[str, Any]]:
    federation = Federation(
        tmp_path_factory.mktemp("liars") / "run",
        clients=1 + len(LIARS),
        device=crowd,
        epochs=3,
        settings={**HALO2, "personal-epochs": 1},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "MAX_REPLY_BYTES", LIMIT)
        return federation, federation.serve()


def test_an_honest_client_in_a_crowd_of_liars_is_proved(liars: tuple[Federation, dict[str, Any]]) -> None:
    federation, result = liars
    assert federation.row(result, 0)["verdict"] == "proved"
    assert [row["verdict"] for row in result["clients"]].count("proved") == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_lie_is_recorded(liars: tuple[Federation, dict[str, Any]], name: str) -> None:
    federation, result = liars
    index, liar = 1 + NAMES.index(name), LIARS[name]
    client, node = federation.client_id(index), str(list(federation.grid().get_node_ids())[index])
    rows = [row for row in result["clients"] if row["client_id"] == client]
    events = [json.loads(line) for line in (federation.folder / "events.jsonl").read_text().splitlines()]
    mine = [event for event in events if client == event.get("client") or node == event.get("node")]
    if liar.step == "enrol":
        (event,) = [event for event in mine if event["event"] == "enrol.failed"]
        assert liar.heard in event["reason"]
        assert rows == []
        (told,) = [one for one in result["not_enrolled"] if one["node"] == node]
        assert told["reason"] == f"enrol: {event['reason']}"
        return
    (row,) = rows
    if liar.step in ("unlearn", "prove"):
        assert row["verdict"] == liar.verdict
        assert liar.heard in row["reason"]
        assert "\n" not in row["reason"]
        # Who may come back has no receipt before its time is over.
        assert (row["receipt"] is None) == (liar.verdict == "unreachable")
    elif liar.step != "receipt":
        (event,) = [event for event in mine if event["event"] == f"{liar.step}.failed"]
        assert liar.heard in event["reason"]
    if liar.step == "evaluate":
        assert row["accuracy"] == {}


def identity_of_the_neighbour(folder: Path, content: bytes) -> RecordDict:
    """The neighbour's enrolment, which anybody may have seen, and one's own signature under the challenge."""
    signed = sign(content, CHALLENGE_TYPE, load_private_key(folder / "key.pem")).to_bytes()
    envelope = (folder.parent / "000" / "enrolment" / "enrolment.json").read_bytes()
    return pack(Delivery(), {"envelope": envelope, "challenge": signed})


class Impostor(DeviceAgent):
    """Claims to be its neighbour, in one of several ways, when a provider that was restarted asks who is there."""

    way = ""


def deceive(device: Impostor, content: RecordDict) -> RecordDict:
    _, blobs = unpack(content, Delivery, LIMIT)
    folder = device.vault.folder
    match device.way:
        case "nothing":
            return RecordDict()
        case "shown":
            return identity_of_the_neighbour(folder, blobs["challenge"])
        case "unsigned":
            envelope = (folder.parent / "000" / "enrolment" / "enrolment.json").read_bytes()
            return pack(Delivery(), {"envelope": envelope})
        case "stale":  # its own, signed under another challenge
            signed = sign(bytes(32), CHALLENGE_TYPE, device.key).to_bytes()
            mine = device.vault.inner("enrolment").get("enrolment.json")
            return pack(Delivery(), {"envelope": mine, "challenge": signed})
        case _:
            return identify(device, content)


Impostor.steps = {**STEPS, "identify": deceive}  # type: ignore[dict-item]
WAYS = ("nothing", "shown", "unsigned", "stale", "clone")


@by_both
def test_nobody_can_pass_for_a_neighbour_when_a_run_resumes(tmp_path: Path, backend: str) -> None:
    federation = Federation(
        tmp_path / "run", clients=1 + len(WAYS), epochs=3, settings={"personal-epochs": 1, "backend": backend}
    )
    federation.run(lambda event: event["event"] == "unlearn.started")
    ids = [federation.client_id(index) for index in range(federation.clients)]

    def impostors(index: int, folder: Path, task: SmallTask) -> Agent:
        if index == 0:
            return honest(index, folder, task)
        if WAYS[index - 1] == "clone":
            return honest(index, tmp_path / "clone", task)
        impostor = Impostor(folder, task)
        impostor.way = WAYS[index - 1]
        return impostor

    shutil.copytree(federation.state(0), tmp_path / "clone")
    federation.device = impostors
    events = federation.run()
    rows = {row["client_id"]: row for row in federation.result()["clients"]}
    assert rows[ids[0]]["verdict"] == "proved"
    assert [rows[one]["verdict"] for one in ids[1:]] == ["unreachable"] * len(WAYS)
    failed = [event["reason"] for event in events if event["event"] == "identify.failed"]
    assert len(failed) == len(WAYS)
    assert any("now shows another key" in reason for reason in failed)
    assert any("another challenge" in reason for reason in failed)


@by_both
def test_a_quarantined_client_is_not_asked_again(tmp_path: Path, backend: str) -> None:
    def second_lies(index: int, folder: Path, task: SmallTask) -> Agent:
        return Lazy(folder, task) if index else honest(index, folder, task)

    federation = Federation(
        tmp_path / "run", device=second_lies, epochs=3, settings={"personal-epochs": 1, "backend": backend}
    )
    federation.serve()
    federation.settings["request-id"] = "request-2"
    events = federation.run()
    assert [row["client_id"] for row in federation.result()["clients"]] == [federation.client_id(0)]
    skipped = [event["client"] for event in events if event["event"] == "client.skipped"]
    assert skipped == [federation.client_id(1)]
    with federation.registry() as registry:
        assert registry.request(federation.client_id(1), "request-2") is None
        assert registry.request(federation.client_id(1), REQUEST) is not None


def test_no_client_at_all_ends_the_run_with_an_error(tmp_path: Path) -> None:
    def nobody(index: int, folder: Path, task: SmallTask) -> Agent:
        return Altered(honest(index, folder, task), "enrol", lambda reply: refuse(folder, reply))

    federation = Federation(tmp_path / "run", clients=1, device=nobody, epochs=1, settings={"personal-epochs": 1})
    error = refused(federation.run, ProtocolError)
    assert error.what == "no client enrolled"
