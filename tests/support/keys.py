"""What a proving key really constrains, read from the key itself rather than from the program that made it.

Halo2's proving key holds the copy constraints (as a permutation) and all fixed columns, selectors included. From these
`Key` rebuilds the constraint system and evaluates it: given the committed vectors, what must the public outputs be?
A value that nothing determines, because a gate or a copy constraint is missing, is an error.

The layout is the one ezkl gives every circuit here. Columns of the permutation: the committed ones, then the inner ones
(all left operands, all right operands, all results), then a column of constants if there are any, then the instance
column. Fixed columns: the constants, the lookup's table (inputs, then the outputs of each lookup), one selector per
lookup and inner column, and the gates' selectors, several to a column (see `_gate_columns`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from zkapex.circuits.field import MODULUS
from zkapex.circuits.halo2.store import Circuit

Cell = tuple[int, int]

GENERATOR, TWO_ADICITY = 7, 28


class UndeterminedError(Exception):
    """A cell that influences a public output can be chosen freely."""


@dataclass(frozen=True)
class Gate:
    """One of ezkl's gates: ``add``, ``sub`` and ``mul`` of one inner column, the others over all of them."""

    name: str
    column: int = 0

    def degree(self, inner: int) -> int:
        """Degree of its polynomial, selector included."""
        degrees = {"mul": 3, "dot": 3, "dot first": 3, "product": 2 + inner, "product first": 1 + inner}
        return degrees.get(self.name, 2)


def _gate_columns(inner: int) -> list[list[Gate]]:
    """Which gates share a selector column; the k-th is on where it holds k + 1 (halo2's ``compress_selectors``)."""
    left = [Gate(name, y) for y in range(inner) for name in ("add", "sub", "mul")]
    left += [Gate(name) for name in ("dot first", "dot", "product", "product first", "sum", "sum first")]
    largest = max(5, 2 + inner)  # a lookup's degree is 5
    columns = []
    while left:
        column = [left.pop(0)]
        for gate in list(left):
            degree = max(g.degree(inner) for g in [*column, gate])
            if degree - 1 + len(column) + 1 <= largest and column[0].column == gate.column:
                column.append(gate)
                left.remove(gate)
        columns.append(column)
    return columns


class Key:
    """The constraint system in a proving key.

    Attributes
    ----------
    rows, columns : int
        Height, and number of columns with copy constraints.
    instance : int
        Number of the instance column.
    fixed : list of list of int
        Fixed columns.
    tables : list of tuple of int
        Fixed columns of every lookup's table: inputs, outputs.
    """

    def __init__(self, built: Circuit) -> None:
        self._data = built.pk.read_bytes()
        spec, inner = built.spec, built.spec.inner_columns
        self.rows = 1 << spec.log2_rows
        offset = built.vk.stat().st_size
        for _ in range(3):  # Lagrange polynomials of the first, last and active rows
            offset += 4 + 32 * self._u32(offset)
        fixed, offset = self._columns(offset)
        for _ in range(2):  # the fixed columns in coefficient and extended form
            _, offset = self._columns(offset)
        permutation, _ = self._columns(offset)
        self.fixed = [self._values(at) for at in fixed]
        self.columns = len(permutation)
        self.instance = self.columns - 1
        first = len(spec.inputs)
        self._left, self._right, self._result = (range(first + i * inner, first + (i + 1) * inner) for i in range(3))
        self._constants = range(first + 3 * inner, self.instance)
        gates = _gate_columns(inner)
        # What is left of the fixed columns is, for each lookup, one column of its table and a selector per inner one.
        tables, rest = divmod(len(self.fixed) - len(self._constants) - 1 - len(gates), 1 + inner)
        if rest or len(self._constants) > 1:
            raise ValueError(f"{len(self.fixed)} fixed and {self.columns} permuted columns are none of ours")
        at = len(self._constants)
        self.tables = [(at, at + 1 + t) for t in range(tables)]
        selectors = at + 1 + tables
        self._lookups = [[selectors + t * inner + y for t in range(tables)] for y in range(inner)]
        self._gates = {selectors + tables * inner + i: column for i, column in enumerate(gates)}
        self._class = self._cycles([self._values(at) for at in permutation], spec.log2_rows)
        self._members: dict[int, list[Cell]] = {}
        for cell, number in self._class.items():
            self._members.setdefault(number, []).append(cell)
        del self._data

    def outputs(self, committed: Sequence[Sequence[int]], count: int) -> list[int]:
        """The only values the public outputs can take, for these committed vectors; lookups count as the identity."""
        return self.values(committed, [(self.instance, row) for row in range(count)])

    def values(self, committed: Sequence[Sequence[int]], cells: Sequence[Cell]) -> list[int]:
        """The only values these cells can take, for these committed vectors; lookups count as the identity."""
        known: dict[int, int] = {}
        for column in self._constants:
            for row, value in enumerate(self.fixed[column - self._constants[0]]):
                known[self._class[column, row]] = value
        for column, vector in enumerate(committed):
            for row, value in enumerate(vector):
                known[self._class[column, row]] = value % MODULUS
        return [self._evaluate(cell, known) for cell in cells]

    def uses(self, cell: Cell) -> list[tuple[str, int]]:
        """What reads a cell, copies included: ("lookup", "gate" or "instance", row)."""
        found: list[tuple[str, int]] = []
        for column, row in self._members[self._class[cell]]:
            if column in self._left and self._looked_up(column - self._left[0], row):
                found.append(("lookup", row))
            elif column == self.instance:
                found.append(("instance", row))
            elif column == self._result[0] and (gate := self._gate(0, row + 1)) and gate.name in ("dot", "sum"):
                found.append(("gate", row + 1))
            for operands in (self._left, self._right):
                gate = self._gate(column - operands[0], row) if column in operands else None
                if gate is not None and not (gate.name.startswith("sum") and operands == self._left):
                    found.append(("gate", row))
        return found

    def lookups(self, table: int) -> list[Cell]:
        """The cells that are looked up in a table."""
        return [
            (self._left[y], row)
            for y, selectors in enumerate(self._lookups)
            for row in range(self.rows)
            if self.fixed[selectors[table]][row]
        ]

    def copies(self, cell: Cell) -> list[Cell]:
        """All cells a copy constraint makes equal to this one."""
        return self._members[self._class[cell]]

    def _looked_up(self, y: int, row: int) -> bool:
        return any(self.fixed[selector][row] for selector in self._lookups[y])

    def _gate(self, y: int, row: int) -> Gate | None:
        """The gate that operands in inner column `y` of a row belong to."""
        for selector, gates in self._gates.items():
            value = self.fixed[selector][row % self.rows]
            if value and (gates[value - 1].column == y or gates[value - 1].name not in ("add", "sub", "mul")):
                return gates[value - 1]
        return None

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
            if column not in self._result:
                continue
            y = column - self._result[0]
            if self._looked_up(y, row):
                return "sum", [(self._left[y], row)]
            gate = self._gate(y, row)
            if gate is None:
                continue
            if gate.name in ("add", "sub", "mul"):
                return gate.name, [(self._left[y], row), (self._right[y], row)]
            if y:
                continue
            before = [] if gate.name.endswith("first") else [(column, row - 1)]
            right = [(c, row) for c in self._right]
            if gate.name.startswith("sum"):
                return "sum", [*before, *right]
            if gate.name.startswith("dot"):
                pairs = [cell for c, other in zip(self._left, right, strict=True) for cell in ((c, row), other)]
                return "dot", [*before, *pairs]
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
        case "add" | "sum":
            return sum(v) % MODULUS
        case "sub":
            return (v[0] - v[1]) % MODULUS
        case "mul":
            return v[0] * v[1] % MODULUS
        case _:
            odd = len(v) % 2  # the sum so far, where there is one
            return (sum(v[:odd]) + sum(x * y for x, y in zip(v[odd::2], v[odd + 1 :: 2], strict=True))) % MODULUS
