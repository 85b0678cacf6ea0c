"""Randomness: the challenges of Fiat and Shamir, and secret randomness that is a function of the statement."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.field import Array, P

DOMAIN = "zkapex:transparent:v1"


class Transcript:
    """A hash chain over everything sent, with its label and length; every challenge depends on all that came before."""

    def __init__(self, label: str) -> None:
        self._state = b""
        self.absorb(DOMAIN, label.encode())

    def absorb(self, label: str, data: bytes) -> None:
        """Bind everything that follows to these bytes."""
        name = label.encode()
        head = len(name).to_bytes(8, "little") + name + len(data).to_bytes(8, "little")
        self._state = hashlib.sha512(b"absorb" + self._state + head + data).digest()

    def bytes(self, label: str, size: int) -> bytes:
        """A challenge of uniform bytes."""
        self.absorb(label, b"squeeze" + size.to_bytes(8, "little"))
        return hashlib.shake_256(b"squeeze" + self._state).digest(size)

    def field(self, label: str, *shape: int) -> Array:
        """Uniform elements of K, ``[*shape, 3]``."""
        count = 3 * int(np.prod(shape))
        words = np.frombuffer(self.bytes(label, 8 * (count + 64)), "<u8")
        words = words[words < P]  # one in 2^32 is dropped; that 65 are has a probability below 2^-1000
        if len(words) < count:
            raise AssertionError("a challenge ran dry")
        return words[:count].astype(np.uint64).reshape(*shape, 3)

    def distinct(self, label: str, count: int, below: int) -> npt.NDArray[np.int64]:
        """A uniform set of numbers below a power of two, ascending."""
        words = np.frombuffer(self.bytes(label, 8 * (4 * count + 256)), "<u8") % np.uint64(below)
        _, first = np.unique(words, return_index=True)
        chosen = words[np.sort(first)[:count]]
        if len(chosen) < count:
            raise AssertionError("the queries ran dry")
        return np.sort(chosen).astype(np.int64)


class Secret:
    """Secret randomness, a function of its parts: a statement proved again is the same bytes and shows no more."""

    def __init__(self, *parts: bytes) -> None:
        self._key = hashlib.sha512(b"".join(len(x).to_bytes(8, "little") + x for x in parts)).digest()
        self._count = 0

    def __call__(self, size: int) -> bytes:
        """The next bytes of it."""
        self._count += 1
        return hashlib.shake_256(b"secret" + self._key + self._count.to_bytes(8, "little")).digest(size)
