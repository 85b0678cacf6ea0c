"""One deletion from training to receipts, with real proofs: it takes about as long as a cup of tea is poured."""

from pathlib import Path

from mymodel.simulate import simulate

from zkapex.proofs.keys.trust import Trust, read_public_keys
from zkapex.proofs.verify import Policy, verify_receipt


def test_everybody_forgets_and_proves_it(tmp_path: Path) -> None:
    result = simulate(tmp_path, clients=2)
    before, after = result["global"]["before"], result["global"]["after"]
    assert before["forget"] > 0.8, "there is nothing to forget: the global model never learned it"
    assert after["forget"] < 0.1
    assert after["retain"] > before["retain"] - 0.1
    trusted = Policy(Trust.of(read_public_keys(tmp_path / "key.pub")))
    for client in result["clients"]:
        assert client["verdict"] == "proved", client
        verify_receipt(tmp_path / client["receipt"], trusted).require_pinned()
