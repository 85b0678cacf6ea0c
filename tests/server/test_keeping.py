"""What the provider logs of requests: of the one that was sent, whatever was signed before a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zkapex.errors import LedgerError
from zkapex.proofs.ledger.log import Log
from zkapex.proofs.ledger.proof import LogProof
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import sign
from zkapex.server.requests.keeping import Keeper

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
FIRST, SECOND = (sign(f'{{"nonce": "{nonce}"}}'.encode(), "application/vnd.test", KEY).to_bytes() for nonce in "ab")


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path, Log.create(tmp_path / "ledger", "example.org/log"))


def logged(keeper: Keeper) -> LogProof:
    return LogProof.from_bytes((keeper.folder / "opened" / "r" / "c.tlog-proof").read_bytes())


def test_a_request_that_is_signed_anew_after_a_crash_is_logged_anew(keeper: Keeper) -> None:
    """The server was killed between logging the first and remembering that it had signed it."""
    keeper.opened("r", "c", FIRST)
    logged(keeper).check_inclusion(sha256_hex(peek(FIRST)))
    keeper.opened("r", "c", SECOND)
    logged(keeper).check_inclusion(sha256_hex(peek(SECOND)))
    with pytest.raises(LedgerError):
        logged(keeper).check_inclusion(sha256_hex(peek(FIRST)))


def test_what_is_logged_is_not_logged_again(keeper: Keeper) -> None:
    assert keeper.log is not None
    keeper.opened("r", "c", FIRST)
    before = logged(keeper)
    keeper.opened("r", "c", FIRST)
    assert logged(keeper) == before
    assert keeper.log.checkpoint().size == 1


def test_a_proof_that_is_none_is_replaced(keeper: Keeper) -> None:
    keeper.opened("r", "c", FIRST)
    (keeper.folder / "opened" / "r" / "c.tlog-proof").write_bytes(b"nonsense")
    keeper.opened("r", "c", FIRST)
    logged(keeper).check_inclusion(sha256_hex(peek(FIRST)))
