"""The salt budget: no commitment is opened more often than its salts can hide it, whatever crashes in between."""

from __future__ import annotations

import json
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from federation import HALO2, REQUEST, TOUCHED, Federation, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from zkapex.circuits.statement import FACTOR_SALTS, SALTS
from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.place import MARK, NOTE, Place
from zkapex.client.state.salts import AGAIN, LOG, SaltLedger
from zkapex.client.state.vault import Vault
from zkapex.errors import ProverError, SaltsSpentError, StorageError
from zkapex.proofs.backends import halo2
from zkapex.proofs.jobs import pool
from zkapex.proofs.jobs.worker import finished
from zkapex.proofs.messages import ProveResponse
from zkapex.transport.wire import unpack

A, B, WIDE = {"a": (1, 2, 3, 4)}, {"b": (5, 6, 7, 8)}, {"wide": tuple(range(64))}


def ledger(folder: Path) -> SaltLedger:
    """As after a restart."""
    return SaltLedger(Vault(folder))


def spend(folder: Path, vectors: dict[str, tuple[int, ...]], times: int) -> None:
    for _ in range(times):
        ledger(folder).spend(vectors)


def test_a_vector_is_opened_once_less_than_it_has_salts(tmp_path: Path) -> None:
    spend(tmp_path, A, 3)
    error = refused(lambda: ledger(tmp_path).spend(A), SaltsSpentError)
    assert isinstance(error, ProverError)
    assert error.exit_code == 42
    assert "a would be opened 4 times, its 4 salts allow 3" in error.why
    assert "enrol" in error.fix
    spend(tmp_path, B, 3)
    spend(tmp_path, WIDE, 63)
    refused(lambda: ledger(tmp_path).spend(WIDE), SaltsSpentError)


def test_a_proof_is_counted_whole_or_not_at_all(tmp_path: Path) -> None:
    spend(tmp_path, A, 3)
    before = (tmp_path / LOG).read_bytes()
    refused(lambda: ledger(tmp_path).spend({**B, **A}), SaltsSpentError)
    assert (tmp_path / LOG).read_bytes() == before
    spend(tmp_path, B, 3)


def test_asking_counts_nothing_and_adds_up_what_a_batch_shares(tmp_path: Path) -> None:
    for _ in range(10):
        ledger(tmp_path).require([{**A, "x": (9, 8, 7)}])
    ledger(tmp_path).require([A, A, A])
    refused(lambda: ledger(tmp_path).require([A, B, A, A, A]), SaltsSpentError)
    assert not (tmp_path / LOG).exists()


def test_a_vector_is_known_by_its_salts_not_by_its_name(tmp_path: Path) -> None:
    spend(tmp_path, {"after": A["a"]}, 2)
    spend(tmp_path, {"before": A["a"]}, 1)
    refused(lambda: ledger(tmp_path).spend(A), SaltsSpentError)
    spend(tmp_path, {"a": (4, 3, 2, 1)}, 3)


def test_fresh_salts_start_from_nothing(tmp_path: Path) -> None:
    spend(tmp_path, A, 3)
    ledger(tmp_path).keep({})
    ledger(tmp_path).keep({})
    spend(tmp_path, A, 3)


def test_the_log_is_its_owners_alone_and_names_no_salts(tmp_path: Path) -> None:
    spend(tmp_path, {"big": (12345678901234567890, 1, 2)}, 1)
    assert stat.S_IMODE((tmp_path / LOG).stat().st_mode) == 0o600
    assert b"12345678901234567890" not in (tmp_path / LOG).read_bytes()


@settings(deadline=None)  # every count waits for the disk
@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=12), st.integers(0, 32), st.data())
def test_whatever_a_crash_leaves_no_count_is_lost(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], torn: int, data: st.DataObject
) -> None:
    """A crash may cut the last line short; it never makes room for more openings, and never takes any away."""
    folder = tmp_path_factory.mktemp("ledger")
    known, counts = {"a": (1, 1, 1), "b": (2, 2, 2, 2), "c": (3,) * 9}, Counter[str]()
    for name in names:
        written = (folder / LOG).read_bytes() if (folder / LOG).exists() else b""
        if data.draw(st.booleans()) and written[-1:] in (b"", b"\n"):
            with (folder / LOG).open("ab") as log:
                log.write(b"0123456789abcdef0123456789abcdef"[:torn])
        try:
            ledger(folder).spend({name: known[name]})
            counts[name] += 1
        except SaltsSpentError:
            assert counts[name] == len(known[name]) - 1
        assert counts[name] < len(known[name])


@pytest.mark.parametrize("damage", [b"\x00" * 33, b"\n", b"short\n", b"G" * 32 + b"\n", b"0" * 40, b"\xff\n"])
def test_a_damaged_log_is_an_error_and_no_budget(tmp_path: Path, damage: bytes) -> None:
    spend(tmp_path, A, 1)
    with (tmp_path / LOG).open("ab") as log:
        log.write(damage)
    for action in (lambda: ledger(tmp_path).spend(B), lambda: ledger(tmp_path).require([B])):
        assert LOG in refused(action, StorageError).what


def test_a_disk_that_takes_nothing_allows_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert "No space left" in refused(lambda: ledger(tmp_path).spend(A), StorageError).why
    (tmp_path / "gone").write_text("no folder")
    refused(lambda: ledger(tmp_path / "gone").spend(A), StorageError)


SAME = b"the same statement"


def killed_while_counting(folder: Path, vectors: dict[str, tuple[int, ...]], statement: bytes, lines: int) -> None:
    """The statement is noted, and only so many lines of its count are in the log."""
    with pytest.MonkeyPatch.context() as patch:
        whole = SaltLedger._append
        patch.setattr(SaltLedger, "_append", lambda self, end, names: whole(self, end, names[:lines]))
        marked(folder).spend(vectors, statement)


def marked(folder: Path) -> SaltLedger:
    """One that knows that its state is no copy."""
    vault = Vault(folder)
    if not vault.inner("enrolment").has(NOTE):
        Place(vault).mark(vault.inner("enrolment"))
    return ledger(folder)


def test_a_statement_that_is_proved_again_is_counted_once_wherever_the_device_is_killed(tmp_path: Path) -> None:
    both = {**A, **B}
    for _ in range(9):
        killed_while_counting(tmp_path, both, SAME, 0)
        assert not (tmp_path / LOG).read_bytes(), "noted, and not counted"
    for _ in range(9):
        marked(tmp_path).spend(both, SAME)
    assert (tmp_path / LOG).read_bytes().count(b"\n") == 2
    marked(tmp_path).require([both] * 9, [SAME] * 9)
    for number in range(2):
        marked(tmp_path).spend(both, b"another %d" % number)
    refused(lambda: marked(tmp_path).spend(both, b"one too many"), SaltsSpentError)
    marked(tmp_path).spend(both, SAME)


@pytest.mark.parametrize("lines", [0, 1])
@pytest.mark.parametrize("between", [{**A, **B}, B])
@pytest.mark.parametrize("statement", [b"between", b""])
def test_what_is_counted_after_a_kill_counts_for_nothing_else(
    tmp_path: Path, lines: int, between: dict[str, tuple[int, ...]], statement: bytes
) -> None:
    """Its lines are where those of the statement before would have been."""
    both = {**A, **B}
    killed_while_counting(tmp_path, both, SAME, lines)
    marked(tmp_path).spend(between, statement)
    before = (tmp_path / LOG).read_bytes().count(b"\n")
    marked(tmp_path).spend(both, SAME)
    assert (tmp_path / LOG).read_bytes().count(b"\n") == before + 2


def test_what_an_earlier_release_noted_is_counted_once_more(tmp_path: Path) -> None:
    marked(tmp_path).spend(A, SAME)
    digests = list(json.loads((tmp_path / AGAIN).read_text()))
    (tmp_path / AGAIN).write_text(json.dumps(digests))
    for _ in range(2):
        marked(tmp_path).spend(A, SAME)
    assert (tmp_path / LOG).read_bytes().count(b"\n") == 2


def test_a_copy_of_an_enrolment_is_known_as_one(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state")
    place, enrolment = Place(vault), vault.inner("enrolment")
    assert not place.known()
    place.mark(vault.inner("enrolling"))
    assert not place.known(), "it is not what the device stands by yet"
    (vault.folder / "enrolling").rename(enrolment.folder)
    assert place.known()
    shutil.copytree(vault.folder, tmp_path / "backup")
    place.mark(vault.inner("enrolling"))
    assert place.known(), "a new enrolment is under way, and the old one stands"
    shutil.rmtree(enrolment.folder)
    (vault.folder / "enrolling").rename(enrolment.folder)
    place.forget_others()
    assert place.known()
    assert len(list(vault.folder.glob(f"{MARK}*"))) == 1
    shutil.rmtree(enrolment.folder)
    shutil.copytree(tmp_path / "backup" / "enrolment", enrolment.folder)
    assert not place.known(), "an enrolment of before, in a state that is where it was"
    shutil.rmtree(vault.folder)
    shutil.copytree(tmp_path / "backup", vault.folder)
    assert not place.known()


def test_several_provers_at_once_lose_no_count(tmp_path: Path) -> None:
    """Each with a ledger of its own, as processes that answer the same request side by side have."""
    refusals: list[SaltsSpentError] = []

    def prover() -> None:
        for _ in range(10):
            try:
                ledger(tmp_path).spend(WIDE)
            except SaltsSpentError as e:
                refusals.append(e)

    threads = [threading.Thread(target=prover) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len((tmp_path / LOG).read_bytes().splitlines()) == 63
    assert len(refusals) == 80 - 63


# -- the device


@pytest.fixture
def answered(enrolled: Federation, tmp_path: Path) -> Bench:
    """A device that has answered the request and proved nothing yet."""
    bench = Bench(enrolled, tmp_path / "answered")
    bench.agent.answer("unlearn", bench.ask())
    return bench


def openings(bench: Bench) -> list[dict[str, tuple[int, ...]]]:
    holdings = Holdings.load(bench.manifest, Vault(bench.folder / "enrolment"))
    change = Change.load(Vault(bench.folder / "requests" / REQUEST))
    return [halo2.opened_by(holdings, change, chunk) for chunk in TOUCHED]


def logged(bench: Bench) -> int:
    path = bench.folder / LOG
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def test_a_proof_opens_weights_before_and_after_and_the_curvature(answered: Bench) -> None:
    lengths = [sorted(map(len, proof.values())) for proof in openings(answered)]
    assert lengths == [sorted((SALTS, SALTS, FACTOR_SALTS))] * len(TOUCHED)
    vectors = [salts for proof in openings(answered) for salts in proof.values()]
    assert len(set(vectors)) == len(vectors)


def test_every_proof_is_counted_before_it_starts_and_once(answered: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = pool.prove_all

    def watched(circuit: Any, folders: Any, workers: Any, on_start: Callable[[Path], None]) -> None:
        def started(folder: Path) -> None:
            on_start(folder)
            assert finished(folder) is None
            seen.append(logged(answered))

        original(circuit, folders, workers, on_start=started)

    monkeypatch.setattr(pool, "prove_all", watched)
    reply, _ = unpack(answered.agent.answer("prove", answered.prove(*TOUCHED)), ProveResponse, 2**26)
    assert len(reply.proofs) == len(TOUCHED)
    assert seen == [3, 6]
    answered.agent.answer("prove", answered.prove(*TOUCHED))  # from disk: nothing is opened
    assert logged(answered) == 6


def test_a_crash_between_count_and_proof_costs_budget_until_there_is_none(
    answered: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pool.prove_all

    def power_cut(circuit: Any, folders: Any, workers: Any, on_start: Callable[[Path], None]) -> None:
        for folder in folders:
            on_start(folder)
        raise OSError("power cut")

    monkeypatch.setattr(pool, "prove_all", power_cut)
    for attempt in range(1, SALTS):
        agent = DeviceAgent(answered.folder, answered.task, workers=1)  # started again
        with pytest.raises(OSError, match="power cut"):
            agent.answer("prove", answered.prove(*TOUCHED))
        assert logged(answered) == 6 * attempt
    monkeypatch.setattr(pool, "prove_all", original)
    before = logged(answered)
    error = refused(lambda: agent.answer("prove", answered.prove(TOUCHED[0])), SaltsSpentError)
    assert error.what == SaltsSpentError.SENTENCE
    assert logged(answered) == before
    assert not list(answered.folder.rglob("proof.bin"))

    agent.answer("enrol", answered.enrol("01" * 32))  # fresh salts
    assert logged(answered) == 0
    fresh = Holdings.load(answered.manifest, Vault(answered.folder / "enrolment")).salts
    SaltLedger(Vault(answered.folder)).require([fresh] * (SALTS - 1))


def test_a_settled_request_hands_its_count_on(settled: Bench) -> None:
    """The weights after one request are those before the next, opened once already."""
    holdings = Holdings.load(settled.manifest, Vault(settled.folder / "enrolment"))
    after = {"after": holdings.salts[f"theta/{TOUCHED[0]}"]}
    book = SaltLedger(Vault(settled.folder))
    book.require([after] * (SALTS - 2))
    refused(lambda: book.require([after] * (SALTS - 1)), SaltsSpentError)


# -- the federation


def test_a_client_whose_salts_are_used_up_is_reported_and_enrols_again(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", clients=1, epochs=3, settings={**HALO2, "personal-epochs": 1})
    federation.run(lambda event: event["event"] == "prove.started")
    salts = Vault(federation.state(0) / "enrolment").get_salts("salts.json")
    for _ in range(SALTS - 1):
        SaltLedger(Vault(federation.state(0))).spend({"theta/0": salts["theta/0"]})
    (row,) = federation.serve()["clients"]
    assert row["verdict"] == "failed"
    assert SaltsSpentError.SENTENCE in row["reason"]

    federation.settings["request-id"] = "request-2"
    federation.asked.clear()
    (row,) = federation.serve()["clients"]
    assert row["verdict"] == "proved"
    assert [step for _, step in federation.asked].count("enrol") == 1
    assert "personalise" not in {step for _, step in federation.asked}
    with federation.registry() as registry:
        assert registry.enrolment(federation.client_id(0)).revision == 1
