"""The Merkle tree against RFC 6962's definition, published vectors, and its own proofs."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkapex.errors import CommitmentError, InputError
from zkapex.proofs.merkle import commitment_root, inclusion_proof, root, verify_inclusion

# The reference vectors of Certificate Transparency (google/certificate-transparency, merkle_tree_test.cc).
LEAVES = [
    bytes.fromhex(h)
    for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}

leaf_lists = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


@pytest.mark.parametrize("size", ROOTS)
def test_published_roots(size: int) -> None:
    assert root(LEAVES[:size]).hex() == ROOTS[size]


@given(leaf_lists, st.data())
def test_every_leaf_has_a_proof_and_only_for_its_place(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = inclusion_proof(leaves, index)
    verify_inclusion(root(leaves), leaves[index], index, len(leaves), path)
    other = data.draw(st.integers(0, len(leaves) - 1))
    if leaves[other] != leaves[index]:
        with pytest.raises(CommitmentError):
            verify_inclusion(root(leaves), leaves[other], index, len(leaves), path)
        with pytest.raises(CommitmentError):
            verify_inclusion(root(leaves), leaves[index], other, len(leaves), inclusion_proof(leaves, other))


@given(leaf_lists, st.data())
def test_altered_proofs_fail(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = list(inclusion_proof(leaves, index))
    change = data.draw(st.sampled_from(["drop", "add", "flip"] if path else ["add"]))
    if change == "drop":
        path.pop(data.draw(st.integers(0, len(path) - 1)))
    elif change == "add":
        path.insert(data.draw(st.integers(0, len(path))), bytes(32))
    else:
        at = data.draw(st.integers(0, len(path) - 1))
        path[at] = hashlib.sha256(path[at]).digest()
    with pytest.raises(CommitmentError):
        verify_inclusion(root(leaves), leaves[index], index, len(leaves), path)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_impossible_positions_are_refused(index: int, size: int) -> None:
    with pytest.raises(CommitmentError):
        verify_inclusion(bytes(32), b"", index, size, [])


def test_steps_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(CommitmentError, match="malformed"):
        verify_inclusion(bytes(32), b"", 0, 2, [bytes(31)])


def test_there_is_no_proof_for_a_leaf_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no leaf 2"):
        inclusion_proof([b"a", b"b"], 2)


def test_a_node_is_not_a_leaf() -> None:
    """Second preimage: the two hashes under a root, joined, must not pass for a leaf."""
    left, right = (hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"a", b"b"))
    assert root([left + right]) != root([b"a", b"b"])


def test_commitment_root_binds_number_order_and_point() -> None:
    a, b = "aa" * 64, "bb" * 64
    roots = [commitment_root(p) for p in ([(0, a), (1, b)], [(0, a), (2, b)], [(1, b), (0, a)], [(0, b), (1, a)])]
    assert len(set(roots)) == 4
