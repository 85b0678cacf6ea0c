"""The statement of guarded Group-OBS about one chunk, as an ONNX graph for ezkl.

Committed vectors, in this order:

``theta_u``  the chunk after unlearning, ``R x B``
``delta``    theta_u - theta_p
``factor``   F of the curvature ``H = F^T F + ridge I`` (``q x B``; one per row of the chunk for block-fisher)
``public``   recomputed by the verifier: keep (1 where unmasked), slack weights, the number 1, ridge, context, and what
             follows from mask, guard V and a challenge z
``aux``      multipliers mu (``R x r``), slack limbs, residuals E (``R x B``) and L (``R x r``)

Public outputs, each of which must equal a constant the verifier knows:

1. ``sum_ij m_ij a_i b_j theta_u_ij == 0``: masked weights are zero.
2. ``sum((E * keep)^2) + slack_s == c_s``: stationarity on the unmasked weights.
3. ``sum(L^2) + slack_g == c_g``: the unmasked change has the steering C along the guard, none if C is zero.
4. ``a^T (delta H - mu V^T - E) b + a^T ((delta * keep) V - L) c == a^T C c``: E and L are the residuals they claim to
   be, of stationarity and of ``(delta * keep) V == C``. C is public and so is the right side: it costs nothing.

**Why outputs 1 and 4 suffice.** a, b and c hold powers of a challenge: ``a_i = z^(i (B + r))``, ``b_j = z^j``,
``c_k = z^(B + k)``. Both outputs are polynomials in z of degree below ``R (B + r)``, whose coefficients are the masked
weights, and the errors in E and L, C being fixed before z. z is a hash of the commitments to all that is in them
(`zkapex.proofs.chunk.prove.challenge`): they vanish with probability below ``R (B + r) / 2^253`` unless every
coefficient is zero. This is Freivalds' argument made non-interactive by Fiat and Shamir. Ezkl has one of its own,
which must never be enabled: in 23.0.5 it checks a product in cells that nothing ties to the ones used afterwards, so a
prover may claim any (``tests/proofs/test_forgery.py``).

**Why it is cheap.** What is linear in one committed vector, with coefficients the verifier knows, is one inner product
with a public vector: ``mask_powers`` holds ``m_ij a_i b_j``, ``guard_powers`` ``m_ij a_i (V c)_j``, zero wherever
nothing is masked, so that they cost the verifier little. The guard term is then
``(a^T delta) (V c) - <guard_powers, delta>``.

**Why H cannot be chosen to make stationarity empty.** Whatever F is, no eigenvalue of ``F^T F + ridge I`` lies below
the public ridge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zkapex.circuits.halo2.slack import SLACK_LIMBS
from zkapex.circuits.operators.declaration import OperatorSpec, Statement, Words
from zkapex.circuits.statement import SALTS, StatementSpec

if TYPE_CHECKING:
    import onnx

    from zkapex.circuits.halo2.graph import Graph
    from zkapex.circuits.profiles import Profile

RIDGE = 192
"""The ridge of every profile: with curvature of Frobenius norm up to 2^15, relative damping from 0.03 upwards."""

FISHER_RANK = 4
"""Rows of each weight row's factor for block-fisher."""


class GuardedGroupObs(Statement):
    """Masked weights are zero and the others moved as guarded Group-OBS moves them."""

    kind = "guarded-group-obs"
    inputs = ("theta_u", "delta", "factor", "public", "aux")
    rejected = "the proof does not show that masked weights are zero and the rest is the guarded repair"
    curvatures = ("kfac", "block-fisher")
    inner_columns = 3

    def check(self, spec: StatementSpec) -> None:
        """See `Statement`."""
        if spec.curvature == "none" or not spec.ridge or not spec.curvature_rank:
            raise ValueError("guarded-group-obs needs a curvature, its rank and a ridge, other statements have none")

    def parts(self, spec: StatementSpec, vector: str) -> dict[str, int]:
        """See `Statement`.

        With ``freivalds`` the public vector holds what is derived from a challenge instead of mask and guard.
        """
        rows, width, rank, count = spec.rows_per_chunk, spec.block_width, spec.guard_rank, spec.weights
        if vector == "aux":
            residuals = {"residual": count, "leak": rows * rank} if spec.freivalds else {}
            return {"mu": rows * rank, "limbs": 2 * SLACK_LIMBS, **residuals, "salts": SALTS}
        common = {"slack": 2 * SLACK_LIMBS, "unit": 1, "ridge": 1, "context": 1}
        if not spec.freivalds:
            return {"mask": count, "keep": count, "guard": rank * width, **common}
        guarded = {"guard_powers": count, "guard_c": width, "guard_b": rank, "c": rank} if rank else {}
        return {"keep": count, "mask_powers": count, **guarded, **common, "a": rows, "b": width}

    def largest_sum(self, spec: StatementSpec) -> int:
        """See `Statement`."""
        residual, leak = spec.largest_residual, spec.block_width * spec.largest_value * spec.guard_limit
        return max(spec.weights * residual * residual, spec.rows_per_chunk * max(spec.guard_rank, 1) * leak * leak)

    def build(self, spec: StatementSpec) -> onnx.ModelProto:
        """See `Statement`."""
        return build(spec)

    def sized(self, profile: Profile, curvature: str, guard_rank: int | None, freivalds: bool) -> dict[str, Any]:
        """See `Statement`."""
        return {
            "rows_per_chunk": profile.rows_per_chunk[curvature if freivalds else f"{curvature}-plain"],
            "curvature": curvature,
            "curvature_rank": profile.curvature_rank if curvature == "kfac" else FISHER_RANK,
            "ridge": RIDGE,
            "guard_rank": profile.guard_rank if guard_rank is None else guard_rank,
            "inner_columns": self.inner_columns,
            "freivalds": freivalds,
        }


def build(spec: StatementSpec) -> onnx.ModelProto:
    """The graph, with four outputs, or the first three if products are computed in the circuit.

    Also of targeted-group-obs, see `zkapex.circuits.operators.targeted_group_obs`.
    """
    from zkapex.circuits.halo2.graph import Graph

    g = Graph(spec)
    rows, width, rank = spec.rows_per_chunk, spec.block_width, spec.guard_rank
    theta_u = g.bounded(g.part("theta_u", "values"))
    delta = g.bounded(g.part("delta", "values"))
    factor = g.bounded(g.part("factor", "values"))
    bounded = g.bounded(g.part("aux", "mu", "limbs"))
    limbs = g.take(bounded, rows * rank, rows * rank + 2 * SLACK_LIMBS)
    mu = g.reshape(g.take(bounded, 0, rows * rank), rows, rank) if rank else ""
    square = g.reshape(delta, rows, width)
    if spec.freivalds:
        masked = g.dot(g.part("public", "mask_powers"), theta_u)
        residual, leak = g.part("aux", "residual"), g.part("aux", "leak") if rank else ""
        held = g.reshape(theta_u, rows, width) if spec.constrains_result else ""
        outputs = [_products(g, square, delta, factor, mu, residual, leak, held)]
        factors = (1, 1)
    else:
        masked = g.dot(g.op("Mul", g.part("public", "mask"), theta_u), theta_u)
        residual, leak = _residuals(g, square, factor, mu)
        outputs = []
        factors = (3, 3)
    kept = g.op("Mul", residual, g.part("public", "keep"))
    stationarity = bound(g, kept, factors[0] + 1, limbs, 0)
    guard = bound(g, leak, factors[1], limbs, 1)
    return g.model(masked, stationarity, guard, *outputs)


def bound(g: Graph, values: str, factors: int, limbs: str, index: int) -> str:
    """The sum of squares of values that are products of `factors` committed ones, plus its slack."""
    at = index * SLACK_LIMBS
    weights = g.take(g.part("public", "slack"), at, at + SLACK_LIMBS)
    slack = g.dot(g.take(limbs, at, at + SLACK_LIMBS), weights)
    if not values:
        return slack
    return g.op("Add", g.dot(values, values), g.lift(slack, g.part("public", "unit"), 2 * factors - 2))


def _products(g: Graph, delta: str, flat: str, factor: str, mu: str, residual: str, leak: str, held: str = "") -> str:
    """Output 4; `held` are the weights after unlearning if it is they that the guard is about, not their change."""
    spec = g.spec
    rows, width, rank, q = spec.rows_per_chunk, spec.block_width, spec.guard_rank, spec.curvature_rank
    a, b, unit = g.part("public", "a"), g.part("public", "b"), g.part("public", "unit")
    left = g.einsum("i,ij->j", a, delta)
    if spec.curvature == "kfac":
        matrix = g.reshape(factor, q, width)
        projected = g.einsum("ij,j->i", matrix, b)
        product = g.dot(left, g.einsum("i,ij->j", projected, matrix))
    else:
        cube = g.reshape(factor, rows, q, width)
        product = g.dot(a, g.einsum("ik,ik->i", g.einsum("ikj,j->ik", cube, b), g.einsum("ikj,ij->ik", cube, delta)))
    ridge = g.op("Mul", g.dot(left, b), g.part("public", "ridge"))
    product = g.op("Add", product, g.lift(ridge, unit, 1))
    claimed = g.dot(g.einsum("i,ij->j", a, g.reshape(residual, rows, width)), b)
    if rank:
        pushed = g.dot(g.einsum("i,ij->j", a, mu), g.part("public", "guard_b"))
        leaked = g.dot(g.einsum("i,ij->j", a, g.reshape(leak, rows, rank)), g.part("public", "c"))
        if held:  # what is masked is zero there, and need not be left out
            along = g.dot(g.einsum("i,ij->j", a, held), g.part("public", "guard_c"))
            claimed = g.op("Add", g.op("Add", claimed, pushed), g.op("Sub", leaked, along))
        else:
            along = g.dot(left, g.part("public", "guard_c"))
            masked = g.lift(g.dot(g.part("public", "guard_powers"), flat), unit, 1)
            claimed = g.op("Add", g.op("Add", claimed, pushed), g.op("Sub", leaked, g.op("Sub", along, masked)))
    return g.op("Sub", product, g.lift(claimed, unit, 2))


def _residuals(g: Graph, delta: str, factor: str, mu: str) -> tuple[str, str]:
    """E and L as flat vectors, computed product by product."""
    spec = g.spec
    rows, width, rank, q = spec.rows_per_chunk, spec.block_width, spec.guard_rank, spec.curvature_rank
    unit = g.part("public", "unit")
    if spec.curvature == "kfac":
        matrix = g.reshape(factor, q, width)
        product = g.einsum("ik,kj->ij", g.einsum("ij,kj->ik", delta, matrix), matrix)
    else:
        cube = g.reshape(factor, rows, q, width)
        product = g.einsum("ik,ikj->ij", g.einsum("ikj,ij->ik", cube, delta), cube)
    ridge = g.lift(g.part("public", "ridge"), unit, 1)
    residual = g.op("Add", product, g.op("Mul", delta, ridge))
    if not rank:
        return g.reshape(residual, spec.weights), ""
    guard = g.reshape(g.part("public", "guard"), rank, width)
    lifted = g.lift(mu, unit, 1)
    residual = g.op("Sub", residual, g.einsum("ik,kj->ij", lifted, guard))
    change = g.op("Mul", delta, g.reshape(g.part("public", "keep"), rows, width))
    leak = g.einsum("ij,kj->ik", change, guard)
    return g.reshape(residual, spec.weights), g.reshape(leak, rows * rank)


STATEMENT = GuardedGroupObs()
OPERATOR = OperatorSpec(
    STATEMENT,
    rules="zkapex.proofs.operators.guarded_group_obs:RULES",
    solver="zkapex.unlearning.operators.guarded_group_obs:GuardedGroupObs",
    planner="zkapex.unlearning.planning.search:PLANNER",
    words=Words(
        help="zeroed, the others repaired",
        deed="have their masked weights at zero, and the others moved as guarded Group-OBS moves them, up to the "
        "certified distance",
        not_shown="That the curvature the client committed to, which the repair is fitted to, is of real data.",
        shows="A proof shows that the client changed the weights it had committed to by exactly the stated operator: "
        "masked weights are zero, the rest is the guarded Group-OBS repair up to rounding.",
        not_shown_briefly="that the committed curvature is that of real data, ",
        states={"before": "before", "masked": "mask alone", "after": "after compensation"},
        marks={"masked": "mask alone", "after": "after compensation"},
    ),
    terms=frozenset({"guards", "steering"}),
)
