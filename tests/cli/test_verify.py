"""``zkapex verify``: exit codes, sentences, and one JSON object."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import start, zkapex
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import TOUCHED, Federation

from zkapex.cli.verify import policy_of
from zkapex.errors import InputError, ReceiptError
from zkapex.proofs.records.signing import save_public_key
from zkapex.proofs.verify import verify_receipt

KEYS = {
    "backend", "review",
    "verified", "verdict", "reasons", "request_id", "client_id", "chunks_touched", "proofs_verified", "verify_cpu_s",
    "audit", "audit_cheating", "audit_detection", "curvature_within",
    "certified_distance", "certified_distance_of_chunks", "server_key_pinned", "shows", "does_not_show",
    "depths", "version", "payload_sha256", "client_ref", "enrolment_sha256", "enrolment_revision", "srs_sha256",
    "srs_origin",
}  # fmt: skip


@pytest.fixture
def copy(receipt: Path, tmp_path: Path) -> Path:
    """A receipt one may spoil."""
    return Path(shutil.copytree(receipt, tmp_path / "receipt"))


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    save_public_key(Ed25519PrivateKey.generate().public_key(), tmp_path / "stranger.pub")
    return tmp_path / "stranger.pub"


def test_a_receipt_that_holds(receipt: Path) -> None:
    code, out, err = zkapex("verify", receipt)
    assert code == 26, "nobody was named whose signature would mean something"
    assert "consistent. Verdict: proved" in out
    assert re.search("signature +not reached", out)
    assert "--trust" in err


def test_a_receipt_of_the_provider_one_trusts(market: Federation, receipt: Path) -> None:
    code, out, err = zkapex("verify", receipt, "--trust", market.folder / "key.pub")
    assert (code, err) == (0, "")
    assert "genuine. Verdict: proved" in out
    assert f"{len(TOUCHED)} zero-knowledge proofs verified" in out
    assert "It does not show:" in out
    assert re.findall("^  (signature|evidence|proofs) +reached", out, re.MULTILINE) == [
        "signature",
        "evidence",
        "proofs",
    ]
    assert re.findall("^  (time|ledger) +not reached", out, re.MULTILINE) == ["time", "ledger"]


def test_a_receipt_in_the_providers_log(market: Federation, receipt: Path) -> None:
    options = ("--trust", market.folder / "key.pub", "--ledger", market.folder / "provider" / "ledger" / "log.vkey")
    code, out, err = zkapex("verify", receipt, *options)
    assert (code, err) == (0, "")
    assert re.search("ledger +reached +entry [0-9]+ of [0-9]+ in .*; its request is entry", out)


def test_output_that_nobody_reads_to_its_end(market: Federation, receipt: Path) -> None:
    process = start("verify", receipt, "--trust", market.folder / "key.pub")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_several_keys_in_a_file_or_none_too_many(
    market: Federation, receipt: Path, stranger: Path, tmp_path: Path
) -> None:
    ours = (market.folder / "key.pub").read_bytes()
    both = tmp_path / "both.pub"
    both.write_bytes(b"# a stranger\n" + stranger.read_bytes() + b"\n# the provider\n" + ours)
    policy = policy_of([both])
    assert len(policy.trust.keys) == 2
    assert verify_receipt(receipt, policy).bundle.receipt.pinned
    for junk in (b"hello\n" + ours, ours + ours.replace(b"PUBLIC", b"PRIVATE"), ours[:-10], b""):
        both.write_bytes(junk)
        with pytest.raises(InputError):
            policy_of([both])


def test_whoever_knows_the_clients(market: Federation, receipt: Path, stranger: Path) -> None:
    with pytest.raises(ReceiptError, match="none of those that were named"):
        verify_receipt(receipt, policy_of([market.folder / "key.pub"], client_key=[stranger]))


def test_another_reference_string_than_one_trusts(market: Federation, receipt: Path) -> None:
    with pytest.raises(ReceiptError, match="another reference string"):
        verify_receipt(receipt, policy_of([market.folder / "key.pub"], srs="ab" * 32))


def test_a_devices_own_copy(market: Federation, tmp_path: Path) -> None:
    [archive] = [
        path
        for path in market.folder.rglob("receipt.zip")
        if market.client_id(0) in path.read_bytes().decode("latin-1")
    ][:1]
    assert verify_receipt(archive, policy_of([market.folder / "key.pub"])).chunks == len(TOUCHED)


def test_a_receipt_of_another_provider(receipt: Path, stranger: Path) -> None:
    code, out, err = zkapex("verify", receipt, "--trust", stranger, "--json")
    assert code == 21
    assert json.loads(out)["error"] == "SignatureError"
    assert err.startswith("zkapex: ")


def test_json_is_one_object(market: Federation, receipt: Path) -> None:
    code, out, err = zkapex("verify", receipt, "--json", "--trust", market.folder / "key.pub")
    found: dict[str, Any] = json.loads(out)
    assert (code, err, set(found)) == (0, "", KEYS)
    assert found["verified"] is True
    assert found["server_key_pinned"] is True
    assert found["proofs_verified"] == found["chunks_touched"] == len(TOUCHED)
    assert found["client_id"] == market.client_id(0)
    assert found["certified_distance"] > 0


def test_a_genuine_receipt_that_says_no(market: Federation, result: dict[str, Any]) -> None:
    row = market.row(result, 2)
    pinned = ("--trust", market.folder / "key.pub")
    code, out, err = zkapex("verify", market.folder / row["receipt"], "--json", *pinned)
    found = json.loads(out)
    assert code == 25
    assert set(found) == KEYS | {"error", "exit_code", "what", "why", "fix"}
    assert (found["verified"], found["verdict"], found["exit_code"]) == (False, "failed", 25)
    assert found["reasons"] == [row["reason"]]
    assert "did not prove" in err
    assert "rightly rejected" in found["depths"]["proofs"]["note"], "the proof that was refused is with it"
    code, out, _ = zkapex("verify", market.folder / row["receipt"], *pinned)
    assert code == 25
    assert "Verdict: failed" in out


@pytest.mark.parametrize(
    ("spoil", "code", "what"),
    [
        (lambda d: (d / "receipt.json").write_bytes((d / "receipt.json").read_bytes()[:-2]), 21, "envelope"),
        (lambda d: (d / "proofs" / "0.bin").write_bytes(b"x"), 24, "proofs/0.bin"),
        (lambda d: (d / "proofs" / "0.bin").unlink(), 24, "proofs/0.bin"),
        (lambda d: (d / "note.txt").write_text("hello"), 24, "note.txt"),
        (lambda d: (d / "request.json").write_bytes(b""), 24, "request.json"),
        (lambda d: (d / "receipt.json").unlink(), 10, "no receipt"),
        (lambda d: shutil.rmtree(d), 10, "no receipt"),
    ],
)
def test_a_receipt_that_was_spoilt(copy: Path, spoil: Any, code: int, what: str) -> None:
    (copy / "proofs" / "0.bin").exists()
    spoil(copy)
    found, out, err = zkapex("verify", copy, "--json")
    assert found == code
    assert json.loads(out)["exit_code"] == code
    assert what in err


def test_a_key_that_is_none(receipt: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("not a key")
    for path in (tmp_path / "key", tmp_path / "missing", tmp_path):
        code, _, err = zkapex("verify", receipt, "--trust", path)
        assert code in (10, 12)
        assert str(path) in err


def test_verifying_needs_neither_torch_nor_flower(receipt: Path) -> None:
    script = f"""
import sys
sys.argv = ["zkapex", "verify", {str(receipt)!r}]
from zkapex.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 26, end.code
heavy = {{"torch", "flwr", "ray", "sklearn", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
