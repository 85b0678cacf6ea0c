"""A second verifier of the transparent backend: plain Python and NumPy, written from docs/transparent.md alone.

It shares no code with the first, and does what that page says in the most direct way: every public vector is laid out
in full and interpolated, nothing is compiled, nothing is fast. ``verify`` returns or raises `Refused`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from second_field import A, P, W, add, felt, kmul, need, neg, outer, times, total, up
from second_oracle import MASKS, Check, Layout, Small, digest, tolerances


def squares(c: Check, name: str, taus: Sequence[int], every: int, each: A, whole: A) -> tuple[A, A]:
    """Sums of squares and their slack; returns the coefficients of the slack's bits, of rows and in all."""
    widths = max(taus).bit_length(), every.bit_length()
    need(len(taus) * 2 ** widths[0] + 2 ** widths[1] < P // 4, "slack could wrap around")
    c.squares[name] = each
    c.constant = add(c.constant, total(kmul(each, up(taus))))
    c.constant = add(c.constant, kmul(whole, up(every - sum(taus))))
    powers = [up([1 << i for i in range(width)]) for width in widths]
    return outer(add(each, neg(whole)[None]), powers[0]), outer(whole[None], powers[1])


def arrays(about: Mapping[str, Any], y: Layout, names: Mapping[str, tuple[int, ...]]) -> list[A]:
    return [np.array(about["public"][name], np.int64).reshape(shape) for name, shape in names.items()]


def touching(y: Layout, touched: A) -> tuple[list[int], list[int], int, int]:
    """Tolerances of every row of E, of every row of L, and of all, from which pairs ``[blocks, rows]`` are touched."""
    bands = np.zeros((y.blocks, y.bands * y.height), np.int64)
    bands[:, : y.rows] = touched
    pairs = np.zeros(y.pairs * y.per_row, np.int64)
    pairs[: touched.size if y.rank else 0] = touched.reshape(-1)[: len(pairs)]
    of_e = [tolerances(y, int(n))[0] for n in bands.reshape(y.theta, -1).sum(1)]
    of_l = [tolerances(y, int(n))[1] for n in pairs.reshape(y.pairs, -1).sum(1)] if y.rank else []
    return of_e, of_l, *tolerances(y, int(touched.sum()))


def group_obs(c: Check, about: Mapping[str, Any]) -> None:
    y, by_pair = c.y, (c.y.blocks, c.y.rows, c.y.rank)
    shapes = {"mask": (y.rows, y.cols), "guard": (y.blocks, y.width, y.rank), "offsets": by_pair}
    mask, guard, offsets, on_result = arrays(about, y, shapes | {"on_result": (y.blocks,)})
    need(y.q and set(np.unique(mask)) <= {0, 1} and set(np.unique(on_result)) <= {0, 1}, "no request")
    need((abs(guard) <= 1 << y.bits).all() and (abs(offsets) <= 1 << 29).all(), "out of range")
    need(not guard.reshape(y.wide, y.rank)[y.cols :].any() and (y.rank or not on_result.any()), "no guard")
    wide = np.pad(mask, ((0, 0), (0, y.wide - y.cols))).reshape(y.rows, y.blocks, y.width)
    touched = wide.any(2).T | (on_result[:, None] > 0)
    need(touched.any(), "nothing changes")
    taus = touching(y, touched)
    public = [np.packbits(mask.astype(bool)), guard.astype("<i8"), offsets.astype("<i8"), on_result.astype(bool)]
    c.absorb("request", digest(y.text, repr(taus).encode(), *(x.tobytes() for x in public)))
    packed, beyond = y.pack(mask) > 0, y.pack(np.ones_like(mask)) == 0
    where = np.argwhere(packed)
    sizes = {"E": y.theta, "L": y.pairs, "mu": y.pairs, "X": y.rows_for(len(where))}
    c.tree("", "first", sizes | MASKS)
    lengths = {"a1": y.bands, "a2": y.height, "b": y.width, "beta": y.blocks, "beta guard": y.blocks, "c": y.rank}
    a1, a2, b, beta, beta2, on_guard = (c.draw(name, length) for name, length in lengths.items())
    a = outer(a1, a2)[: y.rows]
    groups = [(("new.theta", "mu"), y.weight_norm()), (("E", "L"), math.sqrt(taus[2] + taus[3]))]
    small = Small(c, groups)
    theta, residual = small.bounds
    h_width = math.ceil(math.log2(6.5 * math.sqrt(240.0) * 2.0**y.kappa * math.sqrt(y.blocks))) + 1
    h_bound = math.sqrt(-(-(y.width**2) // y.slots) + 1) * 16 * 2.0 ** (h_width - 1) / 26
    along = theta * 2.0**y.bits
    largest = [residual**2, 2 * theta * h_bound + along * math.sqrt(y.rank) + residual]
    need(max(*largest, 2 * along * math.sqrt(y.width) + residual + 2.0**29) < P / 4, "equations could wrap around")
    c.tree("", "second", dict.fromkeys(("d", "n", "h"), y.vector) | {"v": small.rows_of_v})
    every = y.vector // 3 * y.slots
    s_block, s_column = c.draw("s block", y.blocks), c.draw("s column", y.width)
    s_beyond, s_h = c.draw("s beyond", every - y.wide), c.draw("s h", every)
    small.second()
    slack = y.theta * max(taus[0]).bit_length() + y.pairs * max(taus[1], default=0).bit_length()
    slack += taus[2].bit_length() + (taus[3].bit_length() if y.rank else 0)
    c.tree("", "third", {"Dm": 3, "bits": y.rows_for(slack + small.count)})
    # E + X + mu V^T = delta H, and L + C = (delta + m' theta_p) V
    tau = c.draw("equations", 2)
    on_e = outer(kmul(outer(beta, a1), tau[:1]), outer(a2, b)).reshape(y.theta, -1, 3)
    c.entries("E", on_e)
    c.entries("X", on_e[where[:, 0], where[:, 1]])
    c.products.append(("d", "h", neg(tau[0])))
    if y.rank:
        through = np.stack([times(b, felt(one)) for one in guard])
        c.entries("mu", y.on_pairs(kmul(beta, tau[:1]), a, through))
        of_l = kmul(beta2, tau[1:])
        c.entries("L", y.on_pairs(of_l, a, np.broadcast_to(on_guard, (y.blocks, y.rank, 3))))
        on_columns = neg(guard_columns(y, of_l, guard, on_guard))
        c.vector("d", on_columns)
        c.vector("n", on_columns)
        c.constant = add(c.constant, neg(prescribed(of_l, a, offsets, on_guard)))
    # d, n and h are what they are called
    tau = c.draw("vectors", 3)
    on_theta, by_slot, columns = outer(s_block, a1), outer(a2, s_column), outer(s_block, s_column)
    c.vector("d", kmul(np.concatenate([columns, s_beyond]), tau[:1]))
    moved = outer(kmul(on_theta, tau[:1]), by_slot).reshape(y.theta, -1, 3)
    c.entries("new.theta", neg(moved))
    c.entries("old.theta", moved)
    c.vector("n", kmul(columns, tau[1:2]))
    c.vector("Dm", neg(kmul(by_slot, tau[1:2])))
    c.vector("h", kmul(s_h, tau[2:]))
    of_h = kmul(kmul(s_h[: y.wide], np.repeat(beta, y.width, 0)), tau[2:])
    c.entries("new.H", neg(outer(of_h, b)))
    # sums of squares
    whole, rows_bits, all_bits = c.draw("total sizes", 2), [], []
    for index, name in enumerate(("E", "L") if y.rank else ("E",)):
        each = c.draw(f"sizes {name}", len(taus[index]))
        by_row, by_all = squares(c, name, taus[index], taus[2 + index], each, whole[index])
        rows_bits.append(by_row)
        all_bits.append(by_all)
    c.entries("bits", np.concatenate([*rows_bits, *all_bits, small.constrain(c.draw("norms", 2))]))
    # slot by slot
    c.vanish("new.theta", c.draw("masked", y.theta), packed | beyond)
    tau = c.draw("Dm", 1)
    by_row = kmul(on_theta, tau)
    result = np.repeat(on_result > 0, y.bands)[:, None]
    c.vanish("old.theta", np.where(result, np.uint64(0), by_row), packed | beyond)
    c.vanish("old.theta", np.where(result, by_row, np.uint64(0)))
    c.vanish("Dm", neg(kmul(W, tau)))
    same = c.draw("same curvature", y.state["H"])
    c.vanish("new.H", same)
    c.vanish("old.H", neg(same))


def guard_columns(y: Layout, by_block: A, guard: A, on_guard: A) -> A:
    """``by_block_b (V_b c)_j`` for every column."""
    along = np.concatenate([times(on_guard, np.ascontiguousarray(felt(one).T)) for one in guard])
    return kmul(np.repeat(by_block, y.width, 0), along)


def prescribed(by_block: A, a: A, offsets: A, on_guard: A) -> A:
    """``sum_b by_block_b a^T C_b c``."""
    each = [total(kmul(a, times(on_guard, np.ascontiguousarray(felt(one).T)))) for one in offsets]
    return total(kmul(by_block, np.array(each)))


def compliance(c: Check, about: Mapping[str, Any]) -> None:
    y, by_pair, along = c.y, (c.y.blocks, c.y.rows, c.y.rank), about["public"]["along"]
    shapes = {"mask": (y.rows, y.cols), "guard": (y.blocks, y.width, y.rank), "targets": by_pair}
    mask, guard, targets, on_result = arrays(about, y, shapes | {"on_result": (y.blocks,)})
    need(set(np.unique(mask)) <= {0, 1} and set(np.unique(on_result)) <= {0, 1}, "no request")
    need((abs(guard) <= 1 << y.bits).all() and (abs(targets) <= 1 << 29).all(), "out of range")
    need(not guard[on_result == 0].any() and not targets[on_result == 0].any(), "a block without targets has some")
    need(not guard.reshape(y.wide, y.rank)[y.cols :].any(), "the guard reaches beyond the layer")
    need(mask.any() or on_result.any(), "nothing is asked")
    need((along and y.rank) or not on_result.any(), "targets need a guard")
    _, taus, _, every = touching(y, np.repeat(on_result[:, None] > 0, y.rows, 1)) if along else ([], [], 0, 0)
    public = [np.packbits(mask.astype(bool)), guard.astype("<i8"), targets.astype("<i8"), on_result.astype(bool)]
    said = repr((taus, every)).encode() if along else b""
    c.absorb("request", digest(y.text, bytes([along]), said, *(x.tobytes() for x in public)))
    c.tree("", "first", ({"L": y.pairs} if along else {}) | MASKS)
    a1, a2 = c.draw("a1", y.bands), c.draw("a2", y.height)
    beta, on_guard, a = c.draw("beta guard", y.blocks), c.draw("c", y.rank), outer(a1, a2)[: y.rows]
    small = Small(c, [(("new.theta",), y.weight_norm())] + ([(("L",), math.sqrt(every))] if along else []))
    if along:
        theta, residual = small.bounds
        largest = residual**2, theta * 2.0**y.bits * math.sqrt(y.width) + residual + 2.0**29
        need(max(largest) < P / 4, "equations could wrap around")
    c.tree("", "second", ({"n": y.vector} if along else {}) | {"v": small.rows_of_v})
    s_block, s_column = c.draw("s block", y.blocks), c.draw("s column", y.width)
    small.second()
    slack = len(taus) * max(taus).bit_length() + every.bit_length() if along else 0
    c.tree("", "third", {"bits": y.rows_for(slack + small.count)})
    on_bits: list[A] = []
    if along:
        tau = c.draw("equations", 2)
        of_l = kmul(beta, tau[:1])
        c.vector("n", neg(guard_columns(y, of_l, guard, on_guard)))
        c.entries("L", y.on_pairs(of_l, a, np.broadcast_to(on_guard, (y.blocks, y.rank, 3))))
        c.constant = add(c.constant, neg(prescribed(of_l, a, targets, on_guard)))
        c.vector("n", kmul(outer(s_block, s_column), tau[1:]))
        on_theta = outer(kmul(outer(s_block, a1), tau[1:]), outer(a2, s_column))
        c.entries("new.theta", neg(on_theta.reshape(y.theta, -1, 3)))
        each, whole = c.draw("sizes L", len(taus)), c.draw("total sizes", 1)
        on_bits += squares(c, "L", taus, every, each, whole[0])
    c.entries("bits", np.concatenate([*on_bits, small.constrain(c.draw("norms", 2))]))
    c.vanish("new.theta", c.draw("masked", y.theta), (y.pack(mask) > 0) | (y.pack(np.ones_like(mask)) == 0))


def dampening(c: Check, about: Mapping[str, Any]) -> None:
    y, shape = c.y, (c.y.rows, c.y.cols)
    mask, factors = arrays(about, y, {"mask": shape, "factors": shape})
    need(set(np.unique(mask)) <= {0, 1} and mask.any() and ((factors >= 0) & (factors <= 256)).all(), "no request")
    need((factors[mask == 0] == 256).all(), "a factor where nothing is masked")
    public = [np.packbits(mask.astype(bool)), factors.astype("<i8")]
    c.absorb("request", digest(y.text, *(x.tobytes() for x in public)))
    packed = y.pack(mask) > 0
    where = tuple(np.argwhere(packed).T)
    c.tree("", "first", {"errors": y.rows_for(9 * len(where[0]))} | MASKS)
    small = Small(c, [(("new.theta",), y.weight_norm())])
    need(512 * small.bounds[0] + 512 < P / 4, "equations could wrap around")
    c.tree("", "second", {"v": small.rows_of_v})
    small.second()
    c.tree("", "third", {"bits": y.rows_for(small.count)})
    c.entries("bits", small.constrain(c.draw("norms", 2)))
    rho, sigma = c.draw("rho", y.theta), c.draw("sigma", y.height * y.width)
    each = kmul(rho[where[0]], sigma[where[1]])
    for name, by in (("new.theta", up(256)), ("old.theta", neg(up(y.pack(factors)[where])))):
        full = np.zeros((y.theta, y.slots, 3), np.uint64)
        full[where] = kmul(each, np.broadcast_to(by, each.shape))
        c.entries(name, full)
    c.entries("errors", neg(outer(each, up([1, 2, 4, 8, 16, 32, 64, 128, 1]))))
    c.constant = add(c.constant, neg(kmul(total(each), up(128))))
    same = c.draw("same", y.theta)
    c.vanish("new.theta", same, ~packed)
    c.vanish("old.theta", neg(same), ~packed)
    c.bits["bits"] = c.draw("Boolean bits", c.counts["bits"])
    c.bits["errors"] = c.draw("Boolean errors", c.counts["errors"])


def same_state(c: Check, about: Mapping[str, Any]) -> None:
    y, curvature = c.y, about["public"]["curvature"]
    c.absorb("request", y.text + bytes([curvature]))
    c.tree("", "first", MASKS)
    for name in ("theta", "H") if curvature and y.q else ("theta",):
        tau = c.draw(f"same {name}", y.state[name])
        c.vanish(f"new.{name}", tau)
        c.vanish(f"old.{name}", neg(tau))


def enrolment(c: Check, about: Mapping[str, Any]) -> None:
    y, used = c.y, c.y.blocks * c.y.q
    c.absorb("layout", y.text)
    m = SecondMoment(c, about["public"]) if about["statement"] == "enrolment-moment" else None
    c.tree("", "first", ({"F": y.rows_for(used * y.width)} if y.q else {}) | (m.sizes if m else {}) | MASKS)
    b, on, xi = c.draw("b", y.width), c.draw("c", y.width), c.draw("xi", y.blocks)
    of_f, of_h = math.sqrt(y.blocks * 2.0**y.kappa * math.sqrt(y.q)), 2.0**y.kappa * math.sqrt(y.blocks)
    groups = [(("state.theta",), y.weight_norm())] + ([(("F",), of_f), (("state.H",), of_h)] if y.q else [])
    small = Small(c, groups + (m.drawn(b, on) if m else []))
    if y.q:
        need(y.q * small.bounds[1] ** 2 + y.ridge + small.bounds[2] < P / 4, "the curvature could wrap around")
    parts = y.rows_for(used)
    vectors = ({"left": 3 * parts, "right": 3 * parts} if y.q else {}) | (m.vectors(small.bounds) if m else {})
    c.tree("", "second", vectors | {"v": small.rows_of_v})
    s_left, s_right = c.draw("s left", parts * y.slots), c.draw("s right", parts * y.slots)
    if m:
        m.points()
    small.second()
    c.tree("", "third", {"bits": y.rows_for((y.blocks * m.width if m else 0) + small.count)})
    tau = c.draw("multipliers", 5)
    if y.q:
        c.entries("state.H", outer(kmul(xi, tau[:1]), outer(b, on)))
        c.constant = add(c.constant, kmul(kmul(kmul(total(xi), total(kmul(b, on))), up(y.ridge)), tau[0]))
        c.products.append(("left", "right", neg(tau[0])))
        c.vector("left", kmul(s_left, tau[1:2]))
        c.vector("right", kmul(s_right, tau[2:3]))
        of_left = kmul(kmul(s_left[:used], np.repeat(xi, y.q, 0)), tau[1:2])
        c.entries("F", neg(add(outer(of_left, b), outer(kmul(s_right[:used], tau[2:3]), on))))
    on_bits = [m.equations()] if m else []
    c.entries("bits", np.concatenate([*on_bits, small.constrain(tau[3:])]))
    c.vanish("state.theta", c.draw("beyond", y.theta), y.pack(np.ones((y.rows, y.cols), np.int64)) == 0)


class SecondMoment:
    """That curvature is the second moment of activations, between the parts of an enrolment."""

    def __init__(self, c: Check, public: Mapping[str, Any]) -> None:
        self.c, y = c, c.y
        self.n, self.scales, self.taus = public["activations"], list(public["scales"]), list(public["tolerances"])
        need(y.q > 0 and 0 < self.n <= 1 << 14, "no curvature or no activations")
        need(len(self.scales) == len(self.taus) == y.blocks and min(self.scales + self.taus) > 0, "not one per block")
        text = f"Moment(activations={self.n}, scales={tuple(self.scales)}, tolerances={tuple(self.taus)})"
        c.absorb("moment", text.encode())
        self.bands = -(-self.n // (y.slots // y.width))
        self.height, self.per = -(-self.n // self.bands), y.rows_for(y.width**2)
        self.rows, self.width = y.blocks * self.bands, max(self.taus).bit_length()
        self.entries = self.rows * self.height
        need(self.rows * self.height * y.width <= 1 << 26, "too many activations")
        need(max(self.scales) <= 1 << 20 and max(self.taus) <= 1 << 61, "out of range")
        some = max(1, 16 // self.per)
        self.groups = {f"D{i}": slice(at, min(at + some, y.blocks)) for i, at in enumerate(range(0, y.blocks, some))}
        self.sizes = {"A": self.rows} | {name: len(self.taus[own]) * self.per for name, own in self.groups.items()}

    def drawn(self, x: A, on: A) -> list[tuple[tuple[str, ...], float]]:
        y, self.x, self.on = self.c.y, x, on
        self.eta = self.c.draw("eta", y.blocks)
        trace = sum(self.scales) * 2.0**y.kappa * math.sqrt(min(y.q, y.width))
        of_a = math.sqrt(trace + math.sqrt(y.width) * sum(math.sqrt(tau) for tau in self.taus))
        return [(("A",), of_a)] + [((name,), math.sqrt(sum(self.taus[own]))) for name, own in self.groups.items()]

    def vectors(self, bounds: Sequence[float]) -> dict[str, int]:
        of_h, of_a, of_d, y = bounds[2], bounds[3], max(bounds[4:]), self.c.y
        moment = max(self.scales) * (of_h + y.ridge) + of_d + self.bands * of_a**2
        need(max(moment, self.per * of_d**2, 2.0**self.width) < P / 4, "the second moment could wrap around")
        self.parts = y.rows_for(self.entries)
        return {"left_A": 3 * self.parts, "right_A": 3 * self.parts}

    def points(self) -> None:
        rest = self.parts * self.c.y.slots - self.entries
        self.s = [
            tuple(
                self.c.draw(f"s {side} {of}", n)
                for of, n in (("row", self.rows), ("column", self.height), ("beyond", rest))
            )
            for side in ("left_A", "right_A")
        ]

    def equations(self) -> A:
        c, y, tau = self.c, self.c.y, self.c.draw("moment", 3)
        both, of_h = outer(self.x, self.on), kmul(self.eta, up(self.scales))
        c.entries("state.H", outer(kmul(of_h, tau[:1]), both))
        ridge = kmul(kmul(total(of_h), total(kmul(self.x, self.on))), up(y.ridge))
        c.constant = add(c.constant, kmul(ridge, tau[0]))
        by_block = np.zeros((y.blocks, self.per * y.slots, 3), np.uint64)
        by_block[:, : y.width**2] = outer(neg(kmul(self.eta, tau[:1])), both).reshape(y.blocks, -1, 3)
        for name, own in self.groups.items():
            c.entries(name, by_block[own].reshape(-1, y.slots, 3))
        c.products.append(("left_A", "right_A", neg(tau[0])))
        on_a = []
        scaled = kmul(self.s[0][0], np.repeat(self.eta, self.bands, 0)), self.s[1][0]
        for index, (name, by_column) in enumerate((("left_A", self.x), ("right_A", self.on))):
            rows, columns, rest = self.s[index]
            one = tau[1 + index : 2 + index]
            c.vector(name, kmul(np.concatenate([outer(rows, columns), rest]), one))
            on_a.append(outer(kmul(scaled[index], one), outer(columns, by_column)).reshape(self.rows, -1, 3))
        c.entries("A", neg(add(*on_a)))
        real = np.arange(self.bands * self.height) < self.n
        none = np.repeat(np.tile(~real, y.blocks).reshape(self.rows, self.height), y.width, 1)
        c.vanish("A", c.draw("no activation", self.rows), none)
        each = c.draw("sizes D", y.blocks)
        c.squares |= {name: np.repeat(each[own], self.per, 0) for name, own in self.groups.items()}
        c.constant = add(c.constant, total(kmul(each, up(self.taus))))
        return outer(each, up([1 << i for i in range(self.width)]))


STATEMENTS = {
    "guarded-group-obs": (group_obs, ("old", "new")),
    "compliance": (compliance, ("new",)),
    "dampening": (dampening, ("old", "new")),
    "same-state": (same_state, ("old", "new")),
    "enrolment": (enrolment, ("state",)),
    "enrolment-moment": (enrolment, ("state",)),
}


def verify(about: Mapping[str, Any], proof: bytes) -> None:
    """Return only if a proof of what a vector's file says holds."""
    y = Layout(about["layout"])
    run, states = STATEMENTS[about["statement"]]
    c = Check(y, about["statement"], bytes.fromhex(about["context"]), proof)
    for name in states:
        c.tree(f"{name}.", "state", y.state, bytes.fromhex(about["roots"][name]))
    run(c, about)
    if "bits" in c.counts and not c.bits:
        c.bits["bits"] = c.draw("Boolean", c.counts["bits"])
    c.finish()
