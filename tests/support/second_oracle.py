"""The second verifier's layout, transcript, trees and final check, from docs/transparent.md alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from second_field import (
    A,
    P,
    W,
    add,
    evaluated,
    felt,
    interpolated,
    kmul,
    mul,
    need,
    neg,
    outer,
    times,
    total,
    up,
)

COLUMNS = 256
MASKS = {"mask.p": 3, "mask.s": 9, "mask.v": 9}

# -- the layout --


class Layout:
    def __init__(self, said: Mapping[str, Any]) -> None:
        s, p = dict(said), dict(said["parameters"])
        self.k, self.t, self.openings = p["k"], p["queries"], p["openings"]
        need(self.k in [1 << i for i in range(6, 17)] and self.t > 0 and self.openings > 0, "no code")
        self.n, self.slots = 4 * self.k, self.k - self.openings * self.t
        need(self.slots >= self.k // 4, "too few slots")
        names = ("rows", "cols", "width", "rank", "factor_rank", "ridge", "limit", "kappa", "guard_bits")
        self.rows, self.cols, self.width, self.rank, self.q, self.ridge, self.limit, self.kappa, self.bits = (
            s[name] for name in names
        )
        inner = f"Parameters(k={self.k}, queries={self.t}, openings={self.openings})"
        shown = {name: s[name] for name in names[:2]} | {"parameters": inner} | {name: s[name] for name in names[2:]}
        self.text = ("Layout(" + ", ".join(f"{name}={value}" for name, value in shown.items()) + ")").encode()
        self.blocks = -(-self.cols // self.width)
        self.bands = -(-self.rows // (self.slots // self.width))
        self.height = -(-self.rows // self.bands)
        self.theta = self.blocks * self.bands
        pairs = self.blocks * self.rows
        self.per_row = -(-pairs // -(-pairs // (self.slots // self.rank))) if self.rank else 1
        self.pairs = -(-pairs // self.per_row) if self.rank else 0
        self.wide = self.blocks * self.width
        self.state = {"theta": self.theta} | ({"H": self.rows_for(self.wide * self.width)} if self.q else {})
        self.vector = 3 * self.rows_for(self.wide)

    def rows_for(self, count: int) -> int:
        return -(-count // self.slots)

    def pack(self, matrix: A) -> A:
        """``[rows, cols]`` to ``[theta, height * width]``."""
        full = np.zeros((self.bands * self.height, self.wide), matrix.dtype)
        full[: self.rows, : self.cols] = matrix
        cut = full.reshape(self.bands, self.height, self.blocks, self.width)
        return cut.transpose(2, 0, 1, 3).reshape(self.theta, -1)

    def on_pairs(self, by_block: A, by_row: A, tail: A) -> A:
        """Coefficients ``[blocks * rows * rank, 3]``, and from them `[pairs, slots, 3]``."""
        product = kmul(kmul(by_block[:, None, None], by_row[None, :, None]), tail[:, None])
        flat = np.zeros((self.pairs * self.per_row, self.rank, 3), np.uint64)
        flat[: self.blocks * self.rows] = product.reshape(-1, self.rank, 3)
        return flat.reshape(self.pairs, -1, 3)

    def weight_norm(self) -> float:
        return self.limit * math.sqrt(self.rows * self.blocks * (self.width + self.rank))


def tolerances(y: Layout, rows: int) -> tuple[int, int]:
    """What rounding may do to so many pairs of block and weight row."""
    if not rows:
        return 0, 0
    t, g = 32.0, 2.0**y.bits + math.sqrt(y.width * y.rank) / 2
    of_mu = rows * y.rank * g**2 / 4
    of_e = (rows + 2 * math.sqrt(rows * t) + 2 * t) * 4.0**y.kappa / 12 + of_mu
    count = rows * y.rank
    of_l = (count + 2 * math.sqrt(count * t) + 2 * t) * g**2 / 12 if y.rank else 0.0
    return math.ceil(of_e), math.ceil(of_l)


def digest(*parts: bytes) -> bytes:
    return hashlib.sha512(b"".join(len(x).to_bytes(8, "little") + x for x in parts)).digest()


# -- one proof being checked --


class Check:
    """The transcript, what is committed to, and what S and V are made of."""

    def __init__(self, y: Layout, statement: str, context: bytes, proof: bytes) -> None:
        self.y, self.proof, self.at, self.state = y, proof, 0, b""
        self.absorb("zkapex:transparent:v1", statement.encode())
        self.absorb("parameters", f"Parameters(k={y.k}, queries={y.t}, openings={y.openings})".encode())
        self.absorb("context", context)
        self.trees: list[tuple[str, list[str], bytes]] = []
        self.counts: dict[str, int] = {}
        self.constant = np.zeros(3, np.uint64)
        self.sum: dict[str, A] = {}  # S: [rows, slots, 3]
        self.squares: dict[str, A] = {}
        self.products: list[tuple[str, str, A]] = []
        self.zero: dict[str, A] = {}  # V: a coefficient for every row ...
        self.table: dict[str, A] = {}  # ... and one for every slot
        self.bits: dict[str, A] = {}

    def absorb(self, label: str, data: bytes) -> None:
        head = len(label.encode()).to_bytes(8, "little") + label.encode() + len(data).to_bytes(8, "little")
        self.state = hashlib.sha512(b"absorb" + self.state + head + data).digest()

    def squeeze(self, label: str, size: int) -> bytes:
        self.absorb(label, b"squeeze" + size.to_bytes(8, "little"))
        return hashlib.shake_256(b"squeeze" + self.state).digest(size)

    def draw(self, label: str, count: int) -> A:
        words = np.frombuffer(self.squeeze(label, 8 * (3 * count + 64)), "<u8")
        return words[words < P][: 3 * count].astype(np.uint64).reshape(count, 3)

    def take(self, size: int) -> bytes:
        piece = self.proof[self.at : self.at + size]
        need(len(piece) == size, "too short")
        self.at += size
        return piece

    def tree(self, prefix: str, label: str, sizes: Mapping[str, int], root: bytes | None = None) -> None:
        root = self.take(32) if root is None else root
        self.absorb(f"root:{prefix}{label}:{list(sizes.items())}", root)
        self.trees.append((label, [prefix + name for name in sizes], root))
        self.counts |= {prefix + name: size for name, size in sizes.items()}

    # what S and V gain

    def entries(self, name: str, coefficients: A) -> None:
        """Coefficients of values one after the other, ``[count, 3]``, or by row, ``[rows, up to slots, 3]``."""
        full = np.zeros((self.counts[name], self.y.slots, 3), np.uint64)
        if coefficients.ndim == 2:
            full.reshape(-1, 3)[: len(coefficients)] = coefficients
        else:
            full[:, : coefficients.shape[1]] = coefficients
        self.sum[name] = add(self.sum[name], full) if name in self.sum else full

    def vector(self, name: str, coefficients: A) -> None:
        """Coefficients of a vector over K, three rows for each ``slots`` entries."""
        parts = self.counts[name] // 3
        full = np.zeros((parts * self.y.slots, 3), np.uint64)
        full[: len(coefficients)] = coefficients
        by_row = np.stack([kmul(full, w[None]).reshape(parts, self.y.slots, 3) for w in W], 1)
        self.entries(name, by_row.reshape(3 * parts, self.y.slots, 3))

    def vanish(self, name: str, by_row: A, table: A | None = None) -> None:
        if table is None:
            self.zero[name] = by_row
            return
        full = np.zeros((self.counts[name], self.y.slots, 3), np.uint64)
        full[:, : table.shape[1]] = np.where(table[..., None], by_row[:, None], np.uint64(0))
        self.table[name] = full

    # the end

    def finish(self) -> None:
        y, k, t = self.y, self.y.k, self.y.t
        count = sum(self.counts.values())
        rho = self.draw("proximity", count)
        start = sum(size for name, size in list(self.counts.items())[: list(self.counts).index("mask.p")])
        rho[start : start + 3] = W
        polynomials = {}
        for label, length in (("P", k), ("S", 2 * k), ("V", 2 * k)):
            data = self.take(24 * length)
            self.absorb(label, data)
            polynomials[label] = np.frombuffer(data, "<u8").reshape(3, length).astype(np.uint64)
            need((polynomials[label] < P).all(), "not canonical")
        words = np.frombuffer(self.squeeze("columns", 8 * (4 * t + 256)), "<u8") % np.uint64(y.n)
        columns = sorted(list(dict.fromkeys(words.tolist()))[:t])
        symbols = self.opened(columns)
        need(self.at == len(self.proof), "too long")
        root, fine = pow(7, (P - 1) // k, P), pow(7, (P - 1) // y.n, P)
        order = [int(format(i, f"0{k.bit_length() - 1}b")[::-1], 2) for i in range(k)]
        positions = [pow(root, i, P) for i in order]
        points = [7 * pow(fine, c // k, P) * positions[c % k] % P for c in columns]
        x, x_to_k = (np.array(v, np.uint64) for v in (points, [pow(p, k, P) for p in points]))
        every = np.concatenate([symbols[name] for name in self.counts])
        need((times_rows(rho, every) == evaluated(polynomials["P"], x)).all(), "the rows are no code words")
        at = np.array(positions[: y.slots], np.uint64)
        for label in ("S", "V"):
            poly = polynomials[label]
            values = evaluated(add(poly[:, :k], poly[:, k:]), at)  # x^k = 1 at a position
            if label == "S":
                need((total(values, 1) == self.constant).all(), "S sums to something else")
            else:
                need(not values.any(), "V does not vanish")
        # L_i(x) = (x^k - 1) / k * h_i / (x - h_i)
        inverse = [[h * pow(k * (p - h), -1, P) % P for p in points] for h in positions[: y.slots]]
        basis = mul(np.array(inverse, np.uint64), add(x_to_k, felt(-1))[None])
        s, v = self.evaluate(symbols, basis)
        stitch = np.array([pow(p, k - t, P) for p in points], np.uint64)
        for label, value, mask in (("S", s, "mask.s"), ("V", v, "mask.v")):
            own = symbols[mask]
            hidden = add(own[:3], add(mul(own[3:6], stitch), mul(own[6:], x_to_k)))
            need((evaluated(polynomials[label], x) == add(value, hidden)).all(), f"{label} is not what is opened")

    def evaluate(self, symbols: Mapping[str, A], basis: A) -> tuple[A, A]:
        s, v = (np.zeros((3, basis.shape[1]), np.uint64) for _ in range(2))
        for name, coefficients in self.sum.items():
            spread = interpolated(coefficients.transpose(0, 2, 1), basis)
            s = add(s, total(mul(spread, symbols[name][:, None])))
        for name, by_row in self.squares.items():
            s = add(s, times_rows(by_row, mul(symbols[name], symbols[name])))
        for left, right, coefficient in self.products:
            for part in range(0, self.counts[left], 3):
                a, b = symbols[left][part : part + 3].T, symbols[right][part : part + 3].T
                s = add(s, kmul(kmul(a, b), coefficient[None]).T)
        for name, by_row in self.zero.items():
            v = add(v, times_rows(by_row, symbols[name]))
        for name, by_slot in self.table.items():
            spread = interpolated(by_slot.transpose(0, 2, 1), basis)
            v = add(v, total(mul(spread, symbols[name][:, None])))
        for name, by_row in self.bits.items():
            v = add(v, times_rows(by_row, mul(symbols[name], add(symbols[name], felt(-1)))))
        return s, v

    def opened(self, columns: Sequence[int]) -> dict[str, A]:
        out: dict[str, A] = {}
        sha = hashlib.sha256
        for label, names, root in self.trees:
            rows = sum(self.counts[name] for name in names)
            values = np.frombuffer(self.take(8 * rows * len(columns)), "<u8").astype(np.uint64)
            need((values < P).all(), "not canonical")
            values = values.reshape(len(columns), rows)
            head = b"leaf" + sha(f"{label}:{rows}".encode()).digest()
            known = {c: sha(head + self.take(32) + values[i].tobytes()).digest() for i, c in enumerate(columns)}
            for _ in range(self.y.n.bit_length() - 1):
                for i in sorted(known):
                    if i ^ 1 not in known:
                        known[i ^ 1] = self.take(32)
                known = {i >> 1: sha(b"node" + known[i] + known[i + 1]).digest() for i in known if i % 2 == 0}
            need(known == {0: root}, "a path leads elsewhere")
            first = 0
            for name in names:
                out[name] = values[:, first : first + self.counts[name]].T
                first += self.counts[name]
        return out


def times_rows(coefficients: A, rows: A) -> A:
    """``sum_g c_g row_g``: K [r, 3] and F_p [r, t] to ``[3, t]``."""
    if not len(rows):
        return np.zeros((3, rows.shape[1]), np.uint64)
    return total(mul(coefficients[:, :, None], rows[:, None]))


class Small:
    """That groups of rows are small: two projections, the second shown bit by bit."""

    def __init__(self, c: Check, groups: Sequence[tuple[Sequence[str], float]]) -> None:
        self.c = c
        self.names = [[name for name in names if c.counts[name]] for names, _ in groups]
        self.sizes = [sum(c.counts[name] for name in names) for names in self.names]
        self.widths = [math.ceil(math.log2(6.5 * math.sqrt(240.0) * max(norm, 1.0))) + 1 for _, norm in groups]
        self.entries = COLUMNS * sum(self.sizes)
        for width in self.widths:
            most = 2.0 ** (width - 1)
            need(self.entries * 2 * most < P / 4 and c.y.slots * 4 * most < P / 4, "projections could wrap around")
        self.bounds = [16 * 2.0 ** (width - 1) / 26 for width in self.widths]
        self.first = self.matrix("projection 1", c.y.slots)
        self.rows_of_v = c.y.rows_for(self.entries)
        self.count = COLUMNS * sum(self.widths)

    def matrix(self, label: str, entries: int) -> A:
        """Elements of F_p: the difference of the first 256 bits and the last of each row."""
        raw = np.frombuffer(self.c.squeeze(label, 64 * entries), np.uint8).reshape(entries, 64)
        bits = np.unpackbits(raw, axis=1).astype(np.uint64)
        return add(bits[:, :COLUMNS], neg(bits[:, COLUMNS:]))

    def second(self) -> None:
        self.on_rows = self.c.draw("projection rows", sum(self.sizes))
        self.on_columns = self.c.draw("projection columns", COLUMNS)
        self.again = self.matrix("projection 2", self.entries)

    def constrain(self, tau: A) -> A:
        c, at = self.c, 0
        by_slot = times(self.on_columns, np.ascontiguousarray(self.first.T))
        for name in [name for names in self.names for name in names]:
            count = c.counts[name]
            c.entries(name, outer(kmul(self.on_rows[at : at + count], tau[:1]), by_slot).reshape(count, -1, 3))
            at += count
        c.entries("v", neg(kmul(outer(self.on_rows, self.on_columns), tau[:1])))
        drawn = c.draw("projections of v", COLUMNS * len(self.sizes)).reshape(-1, COLUMNS, 3)
        out, on_v, at = [], np.zeros((self.entries, 3), np.uint64), 0
        for mine, size, width in zip(drawn, self.sizes, self.widths, strict=True):
            scaled, piece = kmul(mine, tau[1:]), slice(COLUMNS * at, COLUMNS * (at + size))
            on_v[piece] = neg(times(scaled, np.ascontiguousarray(self.again[piece].T)))
            out.append(outer(scaled, up([1 << i for i in range(width)])))
            c.constant = add(c.constant, kmul(total(scaled), up(1 << (width - 1))))
            at += size
        c.entries("v", on_v)
        return np.concatenate(out)
