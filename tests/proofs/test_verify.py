"""Offline verification believes nothing of a receipt that it can compute for itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import Federation

from zkapex.errors import ReceiptError
from zkapex.proofs.bundle import read_bundle, write_bundle
from zkapex.proofs.receipt import issue
from zkapex.proofs.signing import load_private_key
from zkapex.proofs.verify import verify_receipt


@pytest.mark.parametrize("by", [0.5, 1.0, 2.0])
def test_a_certified_distance_that_does_not_follow_is_refused(
    market: Federation, receipt: Path, tmp_path: Path, by: float
) -> None:
    """Signed by the provider itself, who could claim any."""
    bundle = read_bundle(receipt)
    outcome = bundle.receipt.outcome
    assert outcome.certified_distance is not None
    claimed = outcome.model_copy(update={"certified_distance": outcome.certified_distance * by})
    key = load_private_key(market.folder / "provider" / "key.pem")
    write_bundle(tmp_path / "receipt", issue(bundle.evidence, claimed, key).envelope, bundle.evidence)
    if by == 1.0:
        assert verify_receipt(tmp_path / "receipt").chunks > 0
    else:
        with pytest.raises(ReceiptError, match="certified distance"):
            verify_receipt(tmp_path / "receipt")
