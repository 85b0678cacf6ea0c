"""The scalar field of BN254, in which every circuit value lives."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

MODULUS = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of BN254's G1, prime; ezkl's field elements are integers modulo this."""

FELT_BYTES = 32


def to_felt(value: int) -> str:
    """A (possibly negative) integer as ezkl reads it from an input file: 32 little-endian bytes in hex."""
    return (value % MODULUS).to_bytes(FELT_BYTES, "little").hex()


def from_felt(text: str) -> int:
    """The inverse of `to_felt`, as the representative in ``[0, MODULUS)``."""
    return int.from_bytes(bytes.fromhex(text), "little")


def felts(values: Iterable[int] | npt.NDArray[np.int64]) -> list[str]:
    """`to_felt` of every value, flattened in row-major order."""
    flat = values.ravel().tolist() if isinstance(values, np.ndarray) else values
    return [to_felt(int(v)) for v in flat]


def random_elements(count: int) -> tuple[int, ...]:
    """`count` uniform field elements from the operating system's generator: salts."""
    return tuple(secrets.randbelow(MODULUS) for _ in range(count))
