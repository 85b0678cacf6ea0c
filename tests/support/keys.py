"""What a proving key really constrains, read from the key itself rather than from the program that made it.

Halo2's proving key holds the copy constraints (as a permutation) and all fixed columns, selectors included. From these
`Key` rebuilds the constraint system and evaluates it: given the committed vectors, what must the public outputs be?
A value that nothing determines, because a gate or a copy constraint is missing, is an error.

The layout is the one ezkl gives every circuit here: the committed columns, then two inner columns each of left
operands, right operands and results, then the instance column.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from zkapex.circuits.field import MODULUS

Cell = tuple[int, int]

GENERATOR, TWO_ADICITY = 7, 28
ADD, SUB, MUL = 1, 2, 3
DOT_START = 1
COMMITTED = 5
LEFT, RIGHT, RESULT = (5, 6), (7, 8), (9, 10)
INSTANCE = 11
TABLE_IN, TABLE_OUT, LOOKUPS, GATES, DOT = 0, 1, (2, 3), (4, 5), 6


class UndeterminedError(Exception):
    """A cell that influences a public output can be chosen freely."""


class Key:
    """The constraint system in a proving key.

    Attributes
    ----------
    rows : int
    fixed : list of list of int
        Fixed columns.
    """

    def __init__(self, folder: Path, log2_rows: int) -> None:
        self._data = (folder / "pk.key").read_bytes()
        self.rows = 1 << log2_rows
        offset = (folder / "vk.key").stat().st_size
        for _ in range(3):  # Lagrange polynomials of the first, last and active rows
            offset += 4 + 32 * self._u32(offset)
        fixed, offset = self._columns(offset)
        for _ in range(2):  # the fixed columns in coefficient and extended form
            _, offset = self._columns(offset)
        permutation, _ = self._columns(offset)
        self.fixed = [self._values(at) for at in fixed]
        self.columns = len(permutation)
        self._class = self._cycles([self._values(at) for at in permutation], log2_rows)
        self._members: dict[int, list[Cell]] = {}
        for cell, number in self._class.items():
            self._members.setdefault(number, []).append(cell)
        del self._data

    def outputs(self, committed: Sequence[Sequence[int]], count: int) -> list[int]:
        """The only values the public outputs can take, for these committed vectors; lookups count as the identity."""
        known: dict[int, int] = {}
        for column, vector in enumerate(committed):
            for row, value in enumerate(vector):
                known[self._class[column, row]] = value % MODULUS
        return [self._evaluate((INSTANCE, row), known) for row in range(count)]

    def uses(self, cell: Cell) -> list[tuple[str, int]]:
        """What reads a cell, copies included: ("lookup" or "gate", row)."""
        found: list[tuple[str, int]] = []
        for column, row in self._members[self._class[cell]]:
            for y in (0, 1):
                if column == LEFT[y] and self.fixed[LOOKUPS[y]][row]:
                    found.append(("lookup", row))
                elif column in (LEFT[y], RIGHT[y]) and (self.fixed[GATES[y]][row] or self.fixed[DOT][row]):
                    found.append(("gate", row))
        return found

    def copies(self, cell: Cell) -> list[Cell]:
        """All cells a copy constraint makes equal to this one."""
        return self._members[self._class[cell]]

    def _evaluate(self, start: Cell, known: dict[int, int]) -> int:
        stack = [start]
        while stack:
            cell = stack[-1]
            if self._class[cell] in known:
                stack.pop()
                continue
            rule = self._rule(cell)
            if rule is None:
                raise UndeterminedError(f"column {cell[0]}, row {cell[1]} is tied to nothing")
            operation, operands = rule
            missing = [c for c in operands if self._class[c] not in known]
            if missing:
                stack += missing
                continue
            known[self._class[cell]] = _apply(operation, [known[self._class[c]] for c in operands])
            stack.pop()
        return known[self._class[start]]

    def _rule(self, cell: Cell) -> tuple[str, list[Cell]] | None:
        """The constraint that determines a cell or one of its copies, with the cells it is determined by."""
        for column, row in self.copies(cell):
            if column not in RESULT:
                continue
            y = RESULT.index(column)
            if self.fixed[LOOKUPS[y]][row]:
                return "same", [(LEFT[y], row)]
            gate = self.fixed[GATES[y]][row]
            if gate:
                return {ADD: "add", SUB: "sub", MUL: "mul"}[gate], [(LEFT[y], row), (RIGHT[y], row)]
            dot = self.fixed[DOT][row] if y == 0 else 0
            if dot:
                operands = [(LEFT[0], row), (RIGHT[0], row), (LEFT[1], row), (RIGHT[1], row)]
                return "dot", operands if dot == DOT_START else [*operands, (RESULT[0], row - 1)]
        return None

    def _u32(self, offset: int) -> int:
        return int(struct.unpack_from(">I", self._data, offset)[0])

    def _columns(self, offset: int) -> tuple[list[tuple[int, int]], int]:
        count = self._u32(offset)
        lengths = [self._u32(offset + 4 + 4 * i) for i in range(count)]
        offset += 4 + 4 * count
        columns = []
        for length in lengths:
            columns.append((offset + 4, length))
            offset += 4 + 32 * length
        return columns, offset

    def _values(self, at: tuple[int, int]) -> list[int]:
        """Field elements, out of the Montgomery form they are stored in."""
        offset, length = at
        inverse = pow(1 << 256, -1, MODULUS)
        raw = self._data[offset : offset + 32 * length]
        return [int.from_bytes(raw[i : i + 32], "little") * inverse % MODULUS for i in range(0, len(raw), 32)]

    def _cycles(self, permutation: list[list[int]], log2_rows: int) -> dict[Cell, int]:
        delta = pow(GENERATOR, 1 << TWO_ADICITY, MODULUS)
        omega = pow(GENERATOR, (MODULUS - 1) >> log2_rows, MODULUS)
        names: dict[int, Cell] = {}
        label = 1
        for column in range(len(permutation)):
            value = label
            for row in range(self.rows):
                names[value] = (column, row)
                value = value * omega % MODULUS
            label = label * delta % MODULUS
        classes: dict[Cell, int] = {}
        for cell in names.values():
            number, current = len(classes), cell
            while current not in classes:
                classes[current] = number
                current = names[permutation[current[0]][current[1]]]
        return classes


def _apply(operation: str, v: Sequence[int]) -> int:
    match operation:
        case "same":
            return v[0]
        case "add":
            return (v[0] + v[1]) % MODULUS
        case "sub":
            return (v[0] - v[1]) % MODULUS
        case "mul":
            return v[0] * v[1] % MODULUS
        case _:
            return (v[0] * v[1] + v[2] * v[3] + (v[4] if len(v) > 4 else 0)) % MODULUS
