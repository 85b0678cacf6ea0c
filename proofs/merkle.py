"""Merkle trees over lists of byte strings, as in Certificate Transparency (RFC 6962 section 2.1, RFC 9162 section 2.1).

Leaves and inner nodes are hashed with different prefixes, so neither can be passed off as the other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from zkapex.errors import CommitmentError, InputError
from zkapex.proofs.records.record import encode_parts

_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"
HASH_BYTES = 32


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(_LEAF_PREFIX + data).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE_PREFIX + left + right).digest()


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size` (RFC 6962 section 2.1)."""
    return 1 << (size - 1).bit_length() - 1


def _subtree(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    middle = _split(len(hashes))
    return _node(_subtree(hashes[:middle]), _subtree(hashes[middle:]))


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash of `leaves`, 32 bytes; of an empty list, SHA-256 of nothing."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    return _subtree([_leaf(leaf) for leaf in leaves])


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the audit path of ``leaves[index]``: the sibling hashes from the leaf up.

    Raises
    ------
    InputError
        There is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise InputError(f"there is no leaf {index} in a tree of {len(leaves)}")
    hashes = [_leaf(leaf) for leaf in leaves]
    path: list[bytes] = []
    while len(hashes) > 1:
        middle = _split(len(hashes))
        if index < middle:
            path.append(_subtree(hashes[middle:]))
            hashes = hashes[:middle]
        else:
            path.append(_subtree(hashes[:middle]))
            hashes, index = hashes[middle:], index - middle
    return tuple(reversed(path))


def verify_inclusion(tree_root: bytes, leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> None:
    """Check that `leaf` is number `index` of the `size` leaves under `tree_root` (RFC 9162 section 2.1.3.2).

    Raises
    ------
    CommitmentError
        It is not, or the path has the wrong length for that position.
    """
    if not 0 <= index < size or any(len(step) != HASH_BYTES for step in path):
        raise CommitmentError("a Merkle inclusion proof is malformed", why=f"leaf {index} of {size}")
    first, last = index, size - 1
    node = _leaf(leaf)
    for step in path:
        if last == 0:
            raise CommitmentError("a Merkle inclusion proof is too long")
        if first & 1 or first == last:
            node = _node(step, node)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            node = _node(node, step)
        first, last = first >> 1, last >> 1
    if last != 0:
        raise CommitmentError("a Merkle inclusion proof is too short")
    if not hmac.compare_digest(node, tree_root):
        raise CommitmentError(f"leaf {index} is not in the Merkle tree it is said to be in")


def commitment_leaf(chunk: int, point: str) -> bytes:
    """Encode the leaf for one chunk's commitment; `point` is 128 hex digits."""
    return encode_parts("zkapex:chunk-commitment:v1", chunk, bytes.fromhex(point))


def commitment_root(commitments: Sequence[tuple[int, str]]) -> str:
    """Return the root, as 64 hex digits, over (chunk number, point as 128 hex digits) pairs in the order given."""
    return root([commitment_leaf(chunk, point) for chunk, point in commitments]).hex()
