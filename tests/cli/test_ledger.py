"""``zkapex ledger``: create, append, check, witness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import zkapex

from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.ledger.proof import LogProof
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import load_or_create_private_key, sign


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "receipt.json"
    key = load_or_create_private_key(tmp_path / "key.pem")
    path.write_bytes(sign(b"what was signed", "application/vnd.in-toto+json", key).to_bytes())
    return path


def test_a_receipt_is_logged_proved_and_witnessed(signed: Path, tmp_path: Path) -> None:
    log, kept = tmp_path / "log", tmp_path / "kept"
    code, key, _ = zkapex("ledger", "create", log, "--origin", "example.org/deletions")
    assert code == 0
    kept.write_bytes((log / "www" / "checkpoint").read_bytes())
    (tmp_path / "log.vkey").write_text(key)
    command = [sys.executable, "-c", "from zkapex.cli import main; main()", "ledger", "witness"]
    options = [str(tmp_path / "w"), "--name", "w.example", "--logs", str(tmp_path / "log.vkey"), "--port", "0"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout is not None
            witness, address = process.stdout.readline().strip(), process.stdout.readline().split()[-1]
            (log / "policy").write_text(f"log {key.strip()}\nwitness W {witness} {address}\nquorum W\n")
            assert zkapex("ledger", "append", log, signed)[0] == 0
            assert zkapex("ledger", "append", log, signed)[0] == 0  # is logged once
        finally:
            process.terminate()
    code, out, err = zkapex("ledger", "check", log, "--key", log / "policy", "--earlier", kept, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["size"] == 1
    assert json.loads(out)["witnesses"] == ["W"]
    proof = LogProof.from_bytes(signed.with_suffix(".tlog-proof").read_bytes())
    assert proof.verify(sha256_hex(b"what was signed"), LogPolicy.read(log / "policy")).witnesses == ("W",)
    assert zkapex("ledger", "check", log / "www")[0] == 10, "a copy has no key beside it"
    assert zkapex("ledger", "check", log / "www", "--key", tmp_path / "log.vkey")[0] == 0
    (log / "www" / "tile" / "0" / "000.p" / "1").write_bytes(bytes(32))
    code, _, err = zkapex("ledger", "check", log)
    assert code == 27
    assert "not what its entries make it" in err


def test_what_cannot_be_done(tmp_path: Path) -> None:
    assert zkapex("ledger", "create", tmp_path / "log", "--origin", "two words")[0] == 10
    assert zkapex("ledger", "append", tmp_path / "nothing", tmp_path / "file")[0] == 10
    assert zkapex("ledger", "check", tmp_path / "nothing")[0] == 10
