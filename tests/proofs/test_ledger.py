"""The log: tiles, proofs, checkpoints, witnesses, and what being killed does to it."""

from __future__ import annotations

import hashlib
import os
import random
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zkapex.errors import CommitmentError, InputError, LedgerError
from zkapex.proofs import merkle
from zkapex.proofs.ledger.checkpoint import Checkpoint
from zkapex.proofs.ledger.entry import entry, new_nonce
from zkapex.proofs.ledger.log import Log, check_log
from zkapex.proofs.ledger.note import LOG_KEY, WITNESS_KEY, Note, VerifierKey, cosign_note, sign_note
from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.ledger.proof import LogProof
from zkapex.proofs.ledger.tiles import TileReader, tile_path
from zkapex.proofs.ledger.waiting import Queue
from zkapex.proofs.ledger.witness import Witness, ask_witnesses, serve

ORIGIN = "example.org/deletions"


def bodies(count: int, salt: str = "") -> list[bytes]:
    return [hashlib.sha256(f"{salt}{number}".encode()).digest() for number in range(count)]


# -- trees -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [1, 2, 3, 7, 8, 13, 33])
def test_consistency_of_all_earlier_trees(new: int) -> None:
    leaves = bodies(new)
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]

    def ranges(low: int, high: int) -> bytes:
        return merkle.root(leaves[low:high]) if high > low else hashes[low]

    for old in range(new + 1):
        path = merkle.consistency_path(old, new, ranges)
        roots = merkle.root(leaves[:old]), merkle.root(leaves)
        merkle.verify_consistency(old, roots[0], new, roots[1], path)
        for wrong in ((*path, bytes(32)), path[:-1], (bytes(32), *path[1:])):
            if wrong != path:
                with pytest.raises(CommitmentError):
                    merkle.verify_consistency(old, roots[0], new, roots[1], wrong)
        if 0 < old < new:
            with pytest.raises(CommitmentError):
                merkle.verify_consistency(old, merkle.root(bodies(old, "x")), new, roots[1], path)


def test_paths_of_tiles_are_those_of_the_specification() -> None:
    assert tile_path(0, 1234067, 256) == "tile/0/x001/x234/067"
    assert tile_path("entries", 273, 112) == "tile/entries/273.p/112"
    assert tile_path(2, 0, 1) == "tile/2/000.p/1"
    assert tile_path(0, 1000, 256) == "tile/0/x001/000"


@pytest.mark.parametrize("steps", [[1, 1, 1], [255, 1, 1], [256, 256], [300, 700, 3], [70_000, 1]])
def test_a_log_grows_and_proves(tmp_path: Path, steps: list[int]) -> None:
    log, all_of_them, notes = Log.create(tmp_path / "log", ORIGIN), [], [Log.create(tmp_path / "log", ORIGIN).note()]
    for number, count in enumerate(steps):
        new = bodies(count, f"{number}/")
        assert log.append(new) == list(range(len(all_of_them), len(all_of_them) + count))
        all_of_them += new
        notes.append(log.note())
        root = merkle.root(all_of_them)
        assert check_log(log.www, log.verifier, notes) == Checkpoint(ORIGIN, len(all_of_them), root)
    for index in {0, len(all_of_them) // 2, len(all_of_them) - 1}:
        proof = log.prove(all_of_them[index])
        assert proof.index == index
        merkle.verify_inclusion(root, all_of_them[index], index, len(all_of_them), proof.path)
    size = 0
    for count in steps:
        size += count
        old = merkle.root(all_of_them[:size])
        merkle.verify_consistency(size, old, len(all_of_them), root, log.consistency(size))
    assert not list((log.www / "tile" / "0").glob("000.p/*")) or len(all_of_them) < 256


def test_an_entry_is_logged_once_and_found_without_the_queue(tmp_path: Path) -> None:
    log, entries = Log.create(tmp_path, ORIGIN), bodies(5)
    assert log.append(entries) == [0, 1, 2, 3, 4]
    assert log.append([entries[3], *bodies(1, "new")]) == [3, 5]
    for path in tmp_path.glob("queue.sqlite*"):
        path.unlink()
    assert log.prove(entries[2]).index == 2
    with pytest.raises(InputError, match="not in the log"):
        log.prove(bytes(32))


def test_what_is_altered_is_found(tmp_path: Path) -> None:
    log = Log.create(tmp_path / "log", ORIGIN)
    log.append(bodies(600))
    kept = log.note()
    files = [path for path in log.www.rglob("*") if path.is_file()]
    assert len(files) == 8  # checkpoint; three tiles, three bundles, one tile above
    rng = random.Random(1)
    for path in files:
        original = path.read_bytes()
        for _ in range(20):
            changed = bytearray(original)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(LedgerError):
                check_log(log.www, log.verifier, [kept])
        path.write_bytes(original[:-1])
        with pytest.raises(LedgerError):
            check_log(log.www, log.verifier, [kept])
        path.unlink()
        with pytest.raises(LedgerError):
            check_log(log.www, log.verifier, [kept])
        path.write_bytes(original)
    check_log(log.www, log.verifier, [kept])


def test_a_rewritten_or_shortened_log_is_found_by_whoever_kept_a_checkpoint(tmp_path: Path) -> None:
    log = Log.create(tmp_path / "log", ORIGIN)
    log.append(bodies(10))
    kept = log.note()
    rewritten = Log.create(tmp_path / "other", ORIGIN)
    shutil.copy(log.folder / "key.pem", rewritten.folder / "key.pem")
    shutil.copy(log.folder / "log.vkey", rewritten.folder / "log.vkey")
    rewritten._publish(Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT))
    rewritten.append(bodies(4))
    with pytest.raises(LedgerError, match="cut short"):
        check_log(rewritten.www, log.verifier, [kept])
    rewritten.append(bodies(20, "other"))
    with pytest.raises(LedgerError, match="does not continue"):
        check_log(rewritten.www, log.verifier, [kept])


# -- proofs ------------------------------------------------------------------------------------------------------------


def logged(log: Log, payload: str) -> LogProof:
    nonce = new_nonce()
    log.append([entry(nonce, payload)])
    return log.prove(entry(nonce, payload), nonce)


def test_a_proof_as_a_file(tmp_path: Path) -> None:
    log, payload = Log.create(tmp_path, ORIGIN), "ab" * 32
    log.append(bodies(9))
    proof = logged(log, payload)
    policy = LogPolicy.parse(f"log {log.verifier}\nquorum none\n")
    data = proof.to_bytes()
    found = LogProof.from_bytes(data).verify(payload, policy)
    assert (found.origin, found.index, found.size, found.witnesses, found.witnessed) == (ORIGIN, 9, 10, (), None)
    with pytest.raises(LedgerError, match="not in the log"):
        proof.verify("cd" * 32, policy)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(LedgerError):
            LogProof.from_bytes(bytes(changed)).verify(payload, policy)
    other = Log.create(tmp_path / "other", "example.org/other")
    with pytest.raises(LedgerError, match="none that is relied on"):
        proof.verify(payload, LogPolicy.parse(f"log {other.verifier}\nquorum none\n"))


def test_keys_have_the_form_of_the_specification() -> None:
    key = VerifierKey.of(ORIGIN, LOG_KEY, Ed25519PrivateKey.generate().public_key())
    assert VerifierKey.parse(str(key)) == key
    for wrong in (str(key)[:-4], str(key).replace("deletions", "deletion"), "", "a+b+c", str(key) + "+"):
        with pytest.raises(InputError):
            VerifierKey.parse(wrong)


def test_the_example_key_of_the_go_implementation() -> None:
    """From the documentation of golang.org/x/mod/sumdb/note."""
    known = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    body = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    signed = f"{text}\n— PeterNeumann {body}\n"
    Note.from_bytes(signed.encode()).verify(known)


# -- policies and witnesses --------------------------------------------------------------------------------------------


def witness_keys(count: int) -> list[tuple[Ed25519PrivateKey, VerifierKey]]:
    keys = [Ed25519PrivateKey.generate() for _ in range(count)]
    return [(key, VerifierKey.of(f"w{i}.example", WITNESS_KEY, key.public_key())) for i, key in enumerate(keys)]


def test_a_quorum_of_groups(tmp_path: Path) -> None:
    log = Log.create(tmp_path, ORIGIN)
    keys = witness_keys(4)
    text = f"# two and one\nlog {log.verifier}\n" + "".join(f"witness W{i} {v}\n" for i, (_, v) in enumerate(keys))
    policy = LogPolicy.parse(text + "group A 2 W0 W1 W2\ngroup B any W3\ngroup Q all A B\nquorum Q\n")
    note = log.note()

    def signed(*who: int) -> Note:
        times = {i: datetime(2026, 1, 1 + i, tzinfo=UTC) for i in who}
        return note.add([cosign_note(note.text, keys[i][1].name, keys[i][0], times[i]) for i in who])

    for few in ((), (0, 1), (0, 3), (3,)):
        with pytest.raises(LedgerError, match="too few"):
            policy.check(signed(*few))
    _, names, when = policy.check(signed(0, 2, 3))
    assert names == ("W0", "W2", "W3")
    assert when == datetime(2026, 1, 4, tzinfo=UTC)
    _, _, when = LogPolicy.parse(text + "group A 2 W0 W1 W2\nquorum A\n").check(signed(0, 1, 2))
    assert when == datetime(2026, 1, 2, tzinfo=UTC)
    broken = signed(0, 2, 3)
    bad = broken.signatures[-1]
    broken = Note(
        broken.text,
        (*broken.signatures[:-1], type(bad)(bad.name, bad.key_id, bad.body[:-1] + bytes([bad.body[-1] ^ 1]))),
    )
    with pytest.raises(LedgerError, match="wrong"):
        policy.check(broken)


@pytest.mark.parametrize(
    "line",
    [
        "quorum nobody", "quorum none\nquorum none", "group G 1 nobody\nquorum none", "log x\nquorum none",
        "", "witness none KEY\nquorum none", "witness A KEY\nwitness A KEY\nquorum none",
        "witness A KEY\ngroup G 2 A\nquorum G", "witness A KEY\ngroup G 0 A\nquorum G", "other x\nquorum none",
        "witness A KEY\ngroup G any A\ngroup H any A\nquorum H", "log KEY\nquorum none",
    ],
)  # fmt: skip
def test_policies_that_are_wrong(line: str) -> None:
    with pytest.raises(InputError):
        LogPolicy.parse(line.replace("KEY", str(witness_keys(1)[0][1])))


@contextmanager
def running(witness: Witness) -> Iterator[str]:
    server = serve(witness, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_witness_signs_what_grows_and_nothing_else(tmp_path: Path) -> None:
    log = Log.create(tmp_path / "log", ORIGIN)
    witness = Witness(tmp_path / "witness", "w.example", [log.verifier])
    problems: list[tuple[str, str]] = []
    with running(witness) as url:
        text = f"log {log.verifier}\nwitness W {witness.verifier} {url}\nquorum W\n"
        policy = LogPolicy.parse(text)
        ask = ask_witnesses(policy, lambda name, why: problems.append((name, why)))
        log.append(bodies(3), ask)
        log.append(bodies(300, "more"), ask)  # the witness is told where it was
        proof = logged(log, "ab" * 32)
        with pytest.raises(LedgerError, match="too few"):
            proof.verify("ab" * 32, policy)
        log.cosign(ask)
        place = log.prove(entry(proof.extra, "ab" * 32), proof.extra)
        found = place.verify("ab" * 32, policy)
        assert found.witnesses == ("W",)
        assert found.witnessed is not None
        assert abs((datetime.now(UTC) - found.witnessed).total_seconds()) < 60
        assert problems == []
        # Another history under the same key: the witness remembers, also once it was started again.
        fork = Log.create(tmp_path / "fork", ORIGIN)
        for name in ("key.pem", "log.vkey"):
            shutil.copy(log.folder / name, fork.folder / name)
        fork._publish(Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT))
        fork.append(bodies(2), ask)
        assert "cut short" in problems.pop()[1]
        fork.append(bodies(500, "fork"), ask)
        assert "does not sign" in problems.pop()[1]
    stranger = Log.create(tmp_path / "stranger", "example.org/stranger")
    again = Witness(tmp_path / "witness", "w.example", [log.verifier])
    assert again.add_checkpoint(b"old 0\n\n" + stranger.note().to_bytes()).status == 404
    assert again.add_checkpoint(b"old 0\n\n" + log.note().to_bytes()).status == 409
    size = log.checkpoint().size
    assert again.add_checkpoint(f"old {size}\n\n".encode() + log.note().to_bytes()).status == 200
    assert again.add_checkpoint(f"old {size}\n\n".encode() + fork.note().to_bytes()).status == 422
    forged = Note(log.note().text, (sign_note(log.note().text, ORIGIN, Ed25519PrivateKey.generate()),))
    assert again.add_checkpoint(b"old 0\n\n" + forged.to_bytes()).status == 403
    for junk in (b"", b"old -1\n\n", b"old x\n\nhello", b"old 0\n!\n\n" + log.note().to_bytes()):
        assert again.add_checkpoint(junk).status == 400


def test_a_log_does_without_a_witness_that_is_away(tmp_path: Path) -> None:
    log = Log.create(tmp_path / "log", ORIGIN)
    witness = Witness(tmp_path / "witness", "w.example", [log.verifier])
    policy = LogPolicy.parse(f"log {log.verifier}\nwitness W {witness.verifier} http://127.0.0.1:9\nquorum W\n")
    problems: list[str] = []
    assert log.append(bodies(1), ask_witnesses(policy, lambda name, why: problems.append(name))) == [0]
    assert problems == ["W"]
    with pytest.raises(LedgerError, match="too few"):
        policy.check(log.note())


# -- crashes -----------------------------------------------------------------------------------------------------------


def _append_forever(folder: Path, seed: int, acknowledged: int) -> None:
    """In a child that will be killed: append, and say so."""
    log, rng = Log.open(folder), random.Random(seed)
    while True:
        new = [rng.randbytes(32) for _ in range(rng.choice((1, 1, 1, 2, 40)))]
        places = log.append(new)
        os.write(
            acknowledged, b"".join(place.to_bytes(8, "big") + body for place, body in zip(places, new, strict=True))
        )


@pytest.mark.parametrize("kills", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    folder, rng = tmp_path / "log", random.Random(7)
    log = Log.create(folder, ORIGIN)
    known: dict[int, bytes] = {}
    notes = [log.note()]
    for number in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                _append_forever(folder, number, writing)
            finally:
                os._exit(1)
        os.close(writing)
        if number % 4:  # on a busy machine the rest would all be killed before they have begun
            select.select([reading], [], [], 30)
        time.sleep(rng.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            data = pipe.read()
        for at in range(0, len(data) // 40 * 40, 40):
            known[int.from_bytes(data[at : at + 8], "big")] = data[at + 8 : at + 40]
        if number % 10 == 9:
            check_log(log.www, log.verifier, notes)
            notes.append(log.note())
    log.append([])
    size = check_log(log.www, log.verifier, notes).size
    assert Queue(folder / "queue.sqlite").waiting() == 0
    reader = TileReader(log.www, size)
    held = [body for number in range(-(-size // 256)) for body in reader.entries(number)]
    assert len(known) > 200
    assert all(held[place] == body for place, body in known.items())
