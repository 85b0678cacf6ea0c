"""Provers that lie in one place, with everything after it honest: whole proofs for whoever tests verifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from transparent_vectors import enrols, layout, moment
from transparent_vectors import request as request_of

from zkapex.circuits.transparent import enrol
from zkapex.circuits.transparent.code import Code
from zkapex.circuits.transparent.field import Array, P, minus, plus, times
from zkapex.circuits.transparent.iop import Prover, fold, padded
from zkapex.circuits.transparent.layout import STATE
from zkapex.circuits.transparent.merkle import DIGEST, Tree
from zkapex.circuits.transparent.params import Parameters
from zkapex.circuits.transparent.program import Program, sum_over_slots
from zkapex.circuits.transparent.prove import STATEMENTS
from zkapex.circuits.transparent.transcript import Secret

Change = Callable[[str, Array], None]
"""Called with the name of rows and their messages ``[rows, k]``, padding included, which it may change."""


def unchanged(name: str, rows: Array) -> None:
    """Change nothing."""


class WrongWords(Code):
    """A code whose words are wrong at some columns, in the first row of a block that `spoil` names."""

    def __init__(self, k: int, columns: np.ndarray) -> None:
        super().__init__(k)
        self._wrong, self._block = np.asarray(columns), np.zeros(0, np.uint64)

    def spoil(self, block: Array) -> None:
        """The first row of this block of coefficients."""
        self._block = block

    def coset(self, coefficients: Array, number: int, out: Array | None = None) -> Array:
        word = super().coset(coefficients, number, out)
        if self._first(coefficients):
            inside = self._wrong[self._wrong // self.k == number] - number * self.k
            word[0, inside] = plus(word[0, inside], np.uint64(1))
        return word

    def at(self, coefficients: Array, columns: np.ndarray) -> Array:
        symbols = super().at(coefficients, columns)
        if self._first(coefficients):
            here = np.isin(columns, self._wrong)
            symbols[0, here] = plus(symbols[0, here], np.uint64(1))
        return symbols

    def _first(self, coefficients: Array) -> bool:
        same = coefficients.__array_interface__["data"] == self._block.__array_interface__["data"]
        return bool(len(coefficients) and self._block.size and same)


class Forger(Prover):
    """A prover with a lie.

    Parameters
    ----------
    change : callable
        What is done to rows before they are committed to; the witness that later steps use stays what it was.
    words : WrongWords, optional
        What commits, and the rows of which are spoiled.
    spoiled : str
        Name of these rows.
    correct_sum : bool
        Whether S is corrected to have the right sum, by a polynomial that vanishes on a quarter of all columns.
    """

    def __init__(
        self, parameters: Parameters, statement: str, context: bytes, secret: Secret, change: Change = unchanged,
        words: WrongWords | None = None, spoiled: str = "", correct_sum: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(parameters, statement, context, secret, minimum=0.0, strict=False)
        self._change, self._words, self._spoiled, self._correct = change, words, spoiled, correct_sum

    def commit(self, label: str, sizes: Mapping[str, int], make: Callable[[], Any], masks: bool = False) -> None:
        blocks = padded(self.code, self.parameters, make(), self._secret)
        if masks:
            blocks |= self._masks()
        tree = self._tree("", label, blocks, self._secret(DIGEST))
        self._attach("", label, tree.sizes, tree.root)
        self._keep("", tree)
        self.proof += tree.root

    def state(self, prefix: str, values: Mapping[str, np.ndarray]) -> bytes:
        """Commit to a state, changed as all else is, and return its root."""
        secret = Secret(b"forged state", prefix.encode())
        tree = self._tree(prefix, STATE, padded(self.code, self.parameters, values, secret), secret(DIGEST))
        self.attach(prefix, tree)
        return tree.root

    def _tree(self, prefix: str, label: str, blocks: dict[str, Array], salt: bytes) -> Tree:
        code = self.code
        for name, block in blocks.items():
            messages = code.messages(block)
            before = messages.copy()
            self._change(prefix + name, messages)
            if (messages != before).any():
                blocks[name] = code.coefficients(messages)
        if self._words is not None and self._spoiled.startswith(prefix) and self._spoiled[len(prefix) :] in blocks:
            self._words.spoil(blocks[self._spoiled[len(prefix) :]])
            code = self._words
        return Tree(code, label, blocks, salt)

    def finish(self, program: Program) -> None:
        self._constant = program.constant
        super().finish(program)

    def send(self, label: str, coefficients: Array) -> None:
        k = self.parameters.k
        if label == "S" and self._correct:
            at = self.code.messages(fold(coefficients[:, :k], coefficients[:, k:], 0))
            off = minus(self._constant, sum_over_slots(at, self.parameters.slots))
            # c (x^k - g) is c (1 - g) at every slot, and zero on the first coset
            g = int(self.code.x_to_k[0])
            c = times(off, np.uint64(pow(self.parameters.slots * (1 - g), -1, P)))
            coefficients = coefficients.copy()
            coefficients[:, k] = plus(coefficients[:, k], c)
            coefficients[:, 0] = minus(coefficients[:, 0], times(c, np.uint64(g)))
        super().send(label, coefficients)


def forged(
    about: dict[str, Any], witness: Any, states: Mapping[str, Mapping[str, np.ndarray]], seed: bytes, **lie: Any
) -> tuple[dict[str, Any], bytes]:
    """A proof of what a vector's file says, with new roots, and a lie; returned with what the file would say then.

    Parameters
    ----------
    states : mapping
        Rows of the states by prefix, in the statement's order.
    lie
        As for `Forger`.
    """
    enrolling = enrols(about)
    terms: Any = None if enrolling else request_of(about)
    y, context = layout(about), bytes.fromhex(about["context"])
    side = Forger(y.parameters, about["statement"], context, Secret(seed), **lie)
    roots = {prefix[:-1]: side.state(prefix, rows).hex() for prefix, rows in states.items()}
    if enrolling:
        enrol.enrol(side, y, witness, moment(about))
    else:
        STATEMENTS[type(terms)].run(side, terms, witness)
    return {**about, "roots": roots}, bytes(side.proof)
