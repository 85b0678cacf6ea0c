"""Layers with honest witnesses for the transparent backend: random weights, and the exact guarded change, rounded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.circuits.transparent.compliance import Compliance, Held
from zkapex.circuits.transparent.dampening import Dampened, Dampening
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.group_obs import Request, Witness
from zkapex.circuits.transparent.layout import Layout, commit
from zkapex.circuits.transparent.merkle import Tree
from zkapex.circuits.transparent.moment import Moment
from zkapex.circuits.transparent.params import Parameters

SEED = b"a device's secret of some length"


@dataclass(frozen=True)
class Example:
    request: Request
    witness: Witness
    enrolled: Enrolled

    def states(self) -> tuple[Tree, Tree]:
        w = self.witness
        y = self.request.layout
        return commit(y, w.before, w.curvature, SEED), commit(y, w.after, w.curvature, SEED)


def small(rows: int = 40, cols: int = 60, rank: int = 2, k: int = 1024, queries: int = 192, width: int = 16) -> Layout:
    return Layout(rows, cols, Parameters(k, queries), width, rank, factor_rank=8, ridge=192, limit=16320)


def factors(y: Layout, rng: np.random.Generator) -> np.ndarray:
    out = np.zeros((y.blocks, y.factor_rank, y.width), np.int64)
    for block in range(y.blocks):
        used = min(y.width, y.cols - block * y.width)
        x = rng.normal(size=(4 * y.width, used)) * np.linspace(2, 0.2, used)
        f = np.linalg.qr(x)[1][: y.factor_rank]
        scale = np.sqrt(0.9 * 2.0**y.kappa / np.linalg.norm(f.T @ f))
        out[block, : len(f), :used] = np.rint(scale * f)
    return out


def example(
    y: Layout, density: float = 0.02, seed: int = 1, targets: tuple[int, ...] = (), steered: bool = False
) -> Example:
    """A request with a random mask, whose blocks in ``targets`` prescribe the result, and the honest change."""
    rng = np.random.default_rng(seed)
    theta = np.clip(np.rint(rng.normal(0, y.limit / 12, (y.rows, y.cols))), -y.limit, y.limit).astype(np.int64)
    mask = rng.random((y.rows, y.cols)) < density
    f = factors(y, rng)
    h = f.transpose(0, 2, 1) @ f + y.ridge * np.eye(y.width, dtype=np.int64)
    guard = np.zeros((y.blocks, y.width, y.rank), np.int64)
    offsets = np.zeros((y.blocks, y.rows, y.rank), np.int64)
    on_result = np.isin(np.arange(y.blocks), targets)
    after, mu = theta.copy(), np.zeros((y.blocks, y.rows, y.rank), np.int64)
    for block in range(y.blocks):
        first, last = block * y.width, min((block + 1) * y.width, y.cols)
        used = last - first
        if y.rank:
            guard[block, :used] = (
                np.rint(8192 * np.linalg.qr(rng.normal(size=(used, min(used, y.rank))))[0][:, : y.rank])
                if used >= y.rank
                else 0
            )
        for i in range(y.rows):
            s = np.zeros(y.width, bool)
            s[:used] = mask[i, first:last]
            if not s.any() and not on_result[block]:
                continue
            old = np.zeros(y.width)
            old[:used] = theta[i, first:last]
            vu = np.where(s[:, None], 0, guard[block]).astype(float)
            fixed = np.where(s, -old, 0)
            u = ~s
            if on_result[block]:
                offsets[block, i] = np.rint(vu.T @ np.where(u, old, 0) + rng.normal(0, 40 * 8192, y.rank))
                wanted = offsets[block, i] - vu.T @ np.where(u, old, 0)
            else:
                if steered:
                    offsets[block, i] = 8192 * rng.integers(-40, 40, y.rank)
                wanted = offsets[block, i].astype(float)
            system = np.where(np.outer(u, u), h[block], 0) + np.diag(s.astype(float))
            free = np.linalg.solve(system, np.where(u, -(h[block] @ fixed), 0))
            if y.rank:
                z = np.linalg.solve(system, vu)
                free = free + z @ np.linalg.pinv(vu.T @ z) @ (wanted - vu.T @ free)
            d = np.rint(fixed + u * free)
            if y.rank:
                mu[block, i] = np.rint(np.linalg.lstsq(vu, u * (h[block] @ d), rcond=None)[0])
            after[i, first:last] += d[:used].astype(np.int64)
    request = Request(y, mask, guard, offsets, on_result)
    return Example(request, Witness(theta, after, mu, h), Enrolled(theta, f))


def attested(y: Layout, enrolled: Enrolled, count: int, scale: int = 64, seed: int = 4) -> tuple[Enrolled, Moment]:
    """The same with activations of which its curvature is the second moment, as nearly as rounding lets it be."""
    rng, f = np.random.default_rng(seed), enrolled.factors
    activations = np.zeros((y.blocks, count, y.width), np.int64)
    for block in range(y.blocks):
        rotation = np.linalg.qr(rng.normal(size=(count, y.factor_rank)))[0]
        activations[block] = np.rint(np.sqrt(scale) * rotation @ f[block])
    differences = scale * f.transpose(0, 2, 1) @ f - activations.transpose(0, 2, 1) @ activations
    tolerances = np.einsum("bij,bij->b", differences, differences) + 7
    public = Moment(y, count, (scale,) * y.blocks, tuple(int(tau) for tau in tolerances))
    return replace(enrolled, activations=activations), public


def complying(y: Layout, along: bool = True, seed: int = 2) -> tuple[Compliance, Held]:
    """Weights that have the zeros and, in every other block, the targets of a request."""
    rng = np.random.default_rng(seed)
    mask = rng.random((y.rows, y.cols)) < 0.05
    mask[0, 0] = True
    theta = np.where(mask, 0, np.rint(rng.normal(0, y.limit / 12, (y.rows, y.cols)))).astype(np.int64)
    if not along:
        return Compliance.of_mask(y, mask), Held(theta)
    on_result = np.arange(y.blocks) % 2 == 0
    guard = np.zeros((y.blocks, y.width, y.rank), np.int64)
    targets = np.zeros((y.blocks, y.rows, y.rank), np.int64)
    for block in np.flatnonzero(on_result):
        used = min(y.width, y.cols - block * y.width)
        if used < y.rank:
            continue
        guard[block, :used] = np.rint(8192 * np.linalg.qr(rng.normal(size=(used, y.rank)))[0])
        exact = theta[:, block * y.width : block * y.width + used] @ guard[block, :used]
        targets[block] = exact + rng.integers(-2000, 2000, exact.shape)
    return Compliance(y, mask, guard, targets, on_result), Held(theta)


def dampening(y: Layout, seed: int = 2) -> tuple[Dampening, Dampened]:
    """Masked weights by random factors, rounded; a tie of rounding among them."""
    rng = np.random.default_rng(seed)
    mask = rng.random((y.rows, y.cols)) < 0.1
    mask[0, 0] = True
    before = np.rint(rng.normal(0, y.limit / 12, (y.rows, y.cols))).astype(np.int64)
    factors = np.where(mask, rng.integers(0, FACTOR_UNIT, mask.shape), FACTOR_UNIT)
    factors[0, 0], before[0, 0] = FACTOR_UNIT // 2, 3
    after = np.where(mask, np.rint(before * factors / FACTOR_UNIT).astype(np.int64), before)
    return Dampening(y, mask, factors), Dampened(before, after)
