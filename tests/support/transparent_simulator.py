"""Proofs without a witness, for whoever may choose the challenges: what a proof shows, it shows of no secret.

The simulator opens uniform symbols, chooses P, S and V uniformly among those that their public conditions allow, and
solves for the opened symbols of the masks. Its proofs have the distribution of honest ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zkapex.circuits.transparent.field import Array, P, minus, plus, times, uniform
from zkapex.circuits.transparent.iop import MASKS, Side, fold, interpolated, stitches
from zkapex.circuits.transparent.merkle import DIGEST, leaf_head, missing
from zkapex.circuits.transparent.params import Parameters
from zkapex.circuits.transparent.program import Program, accumulate, sum_over_slots
from zkapex.circuits.transparent.transcript import Secret, Transcript


class Programmed(Transcript):
    """Challenges that depend on nothing that was absorbed, as for whoever programs the hash function."""

    def absorb(self, label: str, data: bytes) -> None:
        pass

    def __init__(self, label: str) -> None:
        self._state = b"programmed"

    def bytes(self, label: str, size: int) -> bytes:
        return hashlib.shake_256(b"programmed" + label.encode()).digest(size)


class Simulator(Side):
    """A side that knows which columns will be asked for, and no witness. Its transcript has to be `Programmed`."""

    strict = False

    def __init__(self, parameters: Parameters, statement: str, secret: Secret) -> None:
        super().__init__(parameters, statement, b"", minimum=0.0)
        self._secret = secret
        self.symbols: dict[str, Array] = {}
        self.columns = Programmed("").distinct("columns", parameters.queries, parameters.n)
        self.roots: list[bytes] = []
        self.proof = b""

    def commit(
        self, label: str, sizes: Mapping[str, int], make: Callable[[], Any], masks: bool = False, prefix: str = ""
    ) -> None:
        every = dict(sizes) | MASKS if masks else dict(sizes)
        self._attach(prefix, label, every, b"")
        for name, size in every.items():
            self.symbols[prefix + name] = uniform((size, self.parameters.queries), self._secret)

    def finish(self, program: Program) -> None:
        k, t, slots, code = self.parameters.k, self.parameters.queries, self.parameters.slots, self.code
        columns, symbols = self.columns, self.symbols
        rho = self._combination()
        p, s = uniform((3, k), self._secret), uniform((3, 2 * k), self._secret)
        found = sum_over_slots(code.messages(fold(s[:, :k], s[:, k:], 0)), slots)
        s[:, 0] = plus(s[:, 0], times(minus(program.constant, found), np.uint64(pow(slots, -1, P))))
        folded = uniform((3, k), self._secret)
        folded[:, :slots] = 0
        v = uniform((3, 2 * k), self._secret)
        v[:, :k] = minus(code.coefficients(folded), v[:, k:])
        x, x_to_k = stitches(code, columns, k - t)
        inverse = np.array([pow(int(one), -1, P) for one in x], np.uint64)
        values = program.evaluate(
            lambda name, a, b: symbols[name][a:b], t, lambda rows: code.at(interpolated(code, rows), columns)
        )
        for sent, value, mask in zip((s, v), values, ("mask.s", "mask.v"), strict=True):
            whole = plus(code.at(sent[:, :k], columns), times(code.at(sent[:, k:], columns), x_to_k))
            own = symbols[mask]
            own[3:6] = times(minus(minus(whole, value), plus(own[:3], times(own[6:], x_to_k))), inverse)
        combined, at = np.zeros((3, t), np.uint64), 0
        for name, count in self.counts.items():
            if name != "mask.p":
                accumulate(combined, rho[at : at + count], symbols[name])
            at += count
        symbols["mask.p"] = minus(code.at(p, columns), combined)
        body = b"".join(np.ascontiguousarray(one).astype("<u8").tobytes() for one in (p, s, v))
        for prefix, label, sizes in self._commitments:
            body += self._opened(label, np.concatenate([symbols[prefix + name] for name in sizes]))
        attached = sum(prefix != "" for prefix, *_ in self._commitments)
        self.proof = b"".join(self.roots[attached:]) + body

    def _opened(self, label: str, block: Array) -> bytes:
        """A tree of random leaves but for the opened ones."""
        salts = [self._secret(DIGEST) for _ in self.columns]
        level = [self._secret(DIGEST) for _ in range(self.parameters.n)]
        for j, column in enumerate(self.columns):
            data = np.ascontiguousarray(block[:, j]).astype("<u8").tobytes()
            level[column] = hashlib.sha256(leaf_head(label, len(block)) + salts[j] + data).digest()
        levels = [level]
        while len(levels[-1]) > 1:
            below = levels[-1]
            pairs = range(0, len(below), 2)
            levels.append([hashlib.sha256(b"node" + below[i] + below[i + 1]).digest() for i in pairs])
        self.roots.append(levels[-1][0])
        nodes = (levels[depth][index] for depth, index in missing(self.columns, len(levels) - 1))
        return np.ascontiguousarray(block.T).astype("<u8").tobytes() + b"".join(salts) + b"".join(nodes)
