"""The statement of targeted Group-OBS about one chunk, and of what a device still has to hold later.

Guarded Group-OBS with steering prescribes the *change* along the guard V, and a public change can be subtracted again
(``docs/adr/0022-targets-instead-of-steering.md``). Here the *result* is prescribed: ``theta_u V = T``, T public and the
same for every client. What was along V before is then in no receipt, and gone with the old weights.

The committed vectors and outputs are those of `zkapex.circuits.operators.guarded_group_obs`, but for L, which is the
residual of ``theta_u V == T``; output 4 becomes

    a^T (delta H - mu V^T - E) b + a^T (theta_u V - L) c == a^T T c.

Masked weights are zero by output 1, so nothing has to be left out of ``theta_u V`` and there are no ``guard_powers``.
The argument is the same: theta_u is committed before the challenge, T is public before it. Every row of a chunk is
prescribed, also one without a masked weight.

``constraint-only`` is what remains to be shown by a device that trained on: outputs 1 and 3, and
``a^T (theta_u V - L) c == a^T T c``, about theta_u alone. It is to targets what `mask_only` is to masks. Its vectors
are ``theta_u``, ``public`` and ``aux`` with slack limbs and L.
"""

from __future__ import annotations

import onnx

from zkapex.circuits.halo2.graph import Graph
from zkapex.circuits.halo2.slack import SLACK_LIMBS
from zkapex.circuits.operators.guarded_group_obs import bound, build
from zkapex.circuits.statement import StatementSpec

__all__ = ["build", "build_constraint"]


def build_constraint(spec: StatementSpec) -> onnx.ModelProto:
    """The graph of constraint-only, with three outputs."""
    g = Graph(spec)
    rows, width, rank = spec.rows_per_chunk, spec.block_width, spec.guard_rank
    theta_u = g.bounded(g.part("theta_u", "values"))
    limbs = g.bounded(g.part("aux", "limbs"))
    leak, a = g.part("aux", "leak"), g.part("public", "a")
    masked = g.dot(g.part("public", "mask_powers"), theta_u)
    guard = bound(g, leak, 1, g.take(limbs, 0, SLACK_LIMBS), 0)
    along = g.dot(g.einsum("i,ij->j", a, g.reshape(theta_u, rows, width)), g.part("public", "guard_c"))
    leaked = g.dot(g.einsum("i,ij->j", a, g.reshape(leak, rows, rank)), g.part("public", "c"))
    return g.model(masked, guard, g.op("Sub", along, leaked))
