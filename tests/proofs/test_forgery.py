"""Provers that lie by the strongest means a prover has: a graph of their own, proved with the real proving key.

The key decides what is constrained; what is written into the cells is the prover's business alone. Every forgery here
has the right commitments and the right public outputs, so that only the proof itself can give it away.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import ezkl
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny import (
    Chunk,
    Forger,
    built,
    bump,
    case,
    empty,
    expected,
    forger,
    honest,
    places,
    prove_with,
    srs,
    with_theta_u,
)

from zkapex.circuits.field import MODULUS, felts, random_elements
from zkapex.circuits.halo2.slack import slack_limbs
from zkapex.errors import ProofError, ProverError
from zkapex.proofs.chunk.prove import Expected, complete, leading_points, prove_vectors, verify_chunk
from zkapex.proofs.chunk.public import IntArray, PublicInputs
from zkapex.proofs.chunk.witness import square_sums

THETA_U, DELTA, FACTOR, AUX = range(4)
"""Order of the lookups; dampening's third is of rounding errors."""
ERRORS = 2

SHARED_OR_NOT = ["kfac", pytest.param("block-fisher", marks=pytest.mark.slow)]


def lookup(f: Forger, which: int) -> onnx.NodeProto:
    return f.nodes("Atan")[which]


def zeros(public: PublicInputs, count: int) -> IntArray:
    """Indices of `count` zeros in what is derived from the mask, the forger's source of zeros."""
    return np.full(count, np.flatnonzero(~public.mask.ravel())[0])


def refuse(name: str, chunk: Chunk, f: Forger, private: dict[str, list[str]]) -> None:
    """Prove the lie, check that it is perfect on the outside, and that halo2's verifier alone refuses it."""
    made, public = built(name), chunk.public
    proof, outputs = prove_with(made, f.model, complete(made, public, private))
    assert outputs == public.outputs(made.spec), "the forger's own graph must yield the right outputs"
    assert len(proof) == made.proof_bytes
    with pytest.raises(ProofError, match="does not show") as caught:
        verify_chunk(made, public, expected(made, chunk), proof, empty(name))
    assert "constraint system is not satisfied" in caught.value.why


def repaired(
    name: str, chunk: Chunk, sums: tuple[int, int], residuals: tuple[IntArray, IntArray] | None = None
) -> dict[str, list[str]]:
    """Private vectors whose slack completes these sums; residuals are the true ones, or others."""
    spec, public = case(name), chunk.public
    slacks = zip(sums, public.slacks(spec), strict=True)
    limbs = [x for total, slack in slacks for x in slack_limbs(slack, total, spec.weight_limit)]
    return chunk.witness.with_limbs(spec, residuals or chunk.witness.residuals(spec, public), limbs)


def unmasked(name: str) -> Chunk:
    """One weight that should be zero is 1; otherwise honest. Its row's residuals stay small."""
    chunk = honest(name)
    at = tuple(int(i[0]) for i in np.nonzero(chunk.public.mask))
    return with_theta_u(chunk, bump(chunk.witness.theta_u.values, at, 1))


def noisy(name: str) -> Chunk:
    """Masked weights are zero, all others are changed at random."""
    chunk = honest(name)
    noise = np.random.default_rng(3).integers(-50, 51, chunk.theta_p.values.shape)
    return with_theta_u(chunk, np.where(chunk.public.mask, 0, chunk.theta_p.values + noise))


def sums(name: str, chunk: Chunk) -> tuple[int, int]:
    return square_sums(chunk.witness.residuals(case(name), chunk.public), chunk.public.mask)


@pytest.mark.parametrize("name", ["kfac", "mask-only", "dampening"])
def test_the_forgers_tools_work(name: str) -> None:
    """With no lie in it, a proof made with a rewired graph is accepted: forgeries fail for what they claim alone."""
    chunk, made = honest(name), built(name)
    f = forger(made)
    theta = lookup(f, THETA_U).output[0]
    f.redirect(theta, theta, np.arange(made.spec.weights), (made.spec.weights,))
    vectors = complete(made, chunk.public, chunk.witness.private(made.spec, chunk.public))
    proof, outputs = prove_with(made, f.model, vectors)
    assert outputs == chunk.public.outputs(made.spec)
    verify_chunk(made, chunk.public, expected(made, chunk), proof, empty(name))


@pytest.mark.parametrize("name", [*SHARED_OR_NOT, "mask-only"])
def test_masked_weights_read_from_elsewhere(name: str) -> None:
    chunk, spec = unmasked(name), case(name)
    f = forger(built(name))
    source = f.part(spec, "public", "mask_powers")
    f.redirect(lookup(f, THETA_U).output[0], source, zeros(chunk.public, spec.weights), (spec.weights,))
    private = (
        repaired(name, chunk, sums(name, chunk)) if name != "mask-only" else {"theta_u": chunk.witness.theta_u.vector()}
    )
    refuse(name, chunk, f, private)


@pytest.mark.parametrize("name", SHARED_OR_NOT)
def test_residuals_that_are_checked_but_not_the_ones_that_are_summed(name: str) -> None:
    """E satisfies the check of products; the sums of squares are taken over zeros."""
    chunk, spec = noisy(name), case(name)
    f = forger(built(name))
    source = f.part(spec, "public", "mask_powers")
    residual, leak = f.part(spec, "aux", "residual"), f.part(spec, "aux", "leak")
    kept = next(n for n in f.nodes("Mul") if n.input[0] == residual)
    squared = next(n for n in f.nodes("Einsum") if n.input[0] == n.input[1] == leak)
    f.redirect(residual, source, zeros(chunk.public, spec.weights), (spec.weights,), only=kept.output[0])
    leaks = spec.rows_per_chunk * spec.guard_rank
    f.redirect(leak, source, zeros(chunk.public, leaks), (leaks,), only=squared.output[0])
    refuse(name, chunk, f, repaired(name, chunk, (0, 0)))


@pytest.mark.parametrize("name", SHARED_OR_NOT)
def test_residuals_that_are_zero_under_a_challenge_that_is_zero(name: str) -> None:
    """E and L are zero, which is a lie, and the check of products reads what the challenge gives it from zeros."""
    chunk, spec = noisy(name), case(name)
    f = forger(built(name))
    source = f.part(spec, "public", "mask_powers")
    for part, count in (("a", spec.rows_per_chunk), ("guard_powers", spec.weights)):
        f.redirect(f.part(spec, "public", part), source, zeros(chunk.public, count), (count,))
    rows = (spec.rows_per_chunk, spec.block_width), (spec.rows_per_chunk, spec.guard_rank)
    nothing = np.zeros(rows[0], np.int64), np.zeros(rows[1], np.int64)
    refuse(name, chunk, f, repaired(name, chunk, (0, 0), nothing))


def test_rounding_errors_that_the_lookup_is_not_shown() -> None:
    """A weight that should be dampened is left as it was; the lookup of rounding errors reads those of others."""
    name, chunk = "dampening", honest("dampening")
    spec, public = case(name), chunk.public
    theta_u = np.where(public.mask, chunk.theta_p.values, chunk.witness.theta_u.values)
    assert (theta_u != chunk.witness.theta_u.values).any()
    lie = with_theta_u(chunk, theta_u)
    private = {n: v.vector() for n, v in lie.witness.salted().items()}
    with pytest.raises(ProverError, match="dampening factor"):
        prove_vectors(built(name), complete(built(name), public, private))
    f = forger(built(name))
    node = lookup(f, ERRORS)
    error = str(node.input[0])
    f.redirect(error, error, zeros(public, spec.weights), (spec.weights,), only=str(node.output[0]))
    refuse(name, lie, f, private)


IMAGINARY = pow(5, (MODULUS - 1) // 4, MODULUS)
"""A square root of -1: for any x, ``x^2 + (IMAGINARY * x)^2 == 0`` modulo p, which is 1 modulo 4."""


@dataclass(frozen=True)
class Huge:
    """Field elements that satisfy every equation of the statement modulo p, and would over no smaller integers."""

    lookup: int
    public: PublicInputs
    private: dict[str, list[int]]


def nothing() -> dict[str, list[int]]:
    """A chunk of zeros under the ridge as curvature; row 5 has a masked weight."""
    spec = case("kfac")
    private = {name: [0] * length for name, length in spec.input_lengths().items() if name != "public"}
    for name, vector in private.items():
        count = spec.parts(name)["salts"]
        vector[-count:] = random_elements(count)
    return private


def huge(which: str) -> Huge:
    spec = case("kfac")
    width, rank, ridge = spec.block_width, spec.guard_rank, spec.ridge
    x = 2**200 + 12345
    y = IMAGINARY * x % MODULUS
    private = nothing()
    theta, delta, f, aux = (private[name] for name in ("theta_u", "delta", "factor", "aux"))
    limbs_at, residual_at = (places(spec, "aux", part)[0] for part in ("limbs", "residual"))
    mask = np.zeros((spec.rows_per_chunk, width), np.bool_)
    mask[5, :2] = True
    guard = np.zeros((width, rank), np.int64)
    shown = AUX
    match which:
        case "theta":  # a weight that is no small integer
            theta[0] = x
            shown = THETA_U
        case "delta":  # a change whose residuals' squares cancel
            delta[0], delta[1] = x, y
            aux[residual_at], aux[residual_at + 1] = ridge * x % MODULUS, ridge * y % MODULUS
            shown = DELTA
        case "factor":  # a factor that makes a small change's residuals cancel: (x^2 + ridge)^2 + (x f)^2 == 0
            delta[0], f[0] = 7, x
            f[1] = IMAGINARY * (x * x + ridge) * pow(x, -1, MODULUS) % MODULUS
            aux[residual_at], aux[residual_at + 1] = 7 * (x * x + ridge) % MODULUS, 7 * x * f[1] % MODULUS
            shown = FACTOR
        case "mu":  # multipliers that do the same
            guard[0, 0] = guard[1, 1] = 1
            aux[0], aux[1] = x, y
            aux[residual_at], aux[residual_at + 1] = -x % MODULUS, -y % MODULUS
        case "slack":  # a slack that makes up for any sum of squares
            delta[0] = 2000
            aux[residual_at] = ridge * 2000
    public = PublicInputs(mask, guard, 10**5, 10**5, 7)
    for i, slack in enumerate(public.slacks(spec)):
        limbs = slack_limbs(slack, 0, spec.weight_limit)
        at = limbs_at + i * len(limbs)
        aux[at : at + len(limbs)] = [limb % MODULUS for limb in limbs]
    if which == "slack":
        aux[limbs_at] -= (ridge * 2000) ** 2 * pow(public.slacks(spec)[0].weights[0], -1, MODULUS)
        aux[limbs_at] %= MODULUS
    return Huge(shown, public, private)


EVERY = ["theta", "delta", "factor", "mu", "slack"]
HUGE = [pytest.param(c, marks=() if c in ("delta", "slack") else pytest.mark.slow) for c in EVERY]


@pytest.mark.parametrize("which", EVERY)
def test_values_outside_the_lookup_are_refused_by_the_prover(which: str) -> None:
    lie = huge(which)
    vectors = complete(built("kfac"), lie.public, {n: felts(v) for n, v in lie.private.items()})
    with pytest.raises(ProverError, match="outside the circuit's range"):
        prove_vectors(built("kfac"), vectors)


@pytest.mark.parametrize("which", HUGE)
def test_huge_values_that_cancel_modulo_p_behind_a_lookup_that_is_shown_others(which: str) -> None:
    """All equations hold modulo p. The lookup is shown zeros, and what follows reads the huge values themselves."""
    lie, made = huge(which), built("kfac")
    f = forger(made)
    node = lookup(f, lie.lookup)
    raw, bounded = str(node.input[0]), str(node.output[0])
    name = made.spec.inputs[lie.lookup] if lie.lookup != AUX else "aux"
    size = len(places(made.spec, name, "values", "mu", "limbs"))
    for user in [str(n.output[0]) for n in f.model.graph.node if bounded in n.input]:
        f.redirect(bounded, raw, np.arange(size), (size,), only=user)
    source = f.part(made.spec, "public", "mask_powers")
    f.redirect(raw, source, zeros(lie.public, size), (size,), only=bounded)
    vectors = complete(made, lie.public, {n: felts(v) for n, v in lie.private.items()})
    proof, outputs = prove_with(made, f.model, vectors)
    assert outputs == lie.public.outputs(made.spec), "modulo p, every equation holds"
    points = leading_points(made.spec, proof)
    claimed = Expected(points["theta_u"], points["theta_u"] - points["delta"] + empty(), points["factor"])
    with pytest.raises(ProofError, match="does not show") as caught:
        verify_chunk(made, lie.public, claimed, proof, empty())
    assert "constraint system is not satisfied" in caught.value.why


def toy(lying: bool = False) -> onnx.ModelProto:
    """``sum((A @ B) * C)``; a forger reads C where the product should be read."""
    f = helper.make_node
    constant = {"flat": [16], "pick": list(range(16))}
    nodes = [
        f("MatMul", ["a", "b"], ["ab"]),
        f("Reshape", ["ab", "flat"], ["product"]),
        f("Reshape", ["c", "flat"], ["cc"]),
    ]
    read = "product"
    if lying:
        nodes.append(f("Concat", ["cc", "product"], ["both"], axis=0))
        nodes.append(f("GatherElements", ["both", "pick"], ["lie"], axis=0))
        read = "lie"
    nodes += [f("Einsum", [read, "cc"], ["sum"], equation="i,i->"), f("Reshape", ["sum", "one"], ["out"])]
    floats = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in "abc"]
    ints = [helper.make_tensor(n, TensorProto.INT64, [len(v)], v) for n, v in {**constant, "one": [1]}.items()]
    out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])]
    graph = helper.make_graph(nodes, "toy", floats, out, ints)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.slow  # of ezkl, whose release is pinned
@pytest.mark.parametrize("freivalds", [True, False])
def test_ezkls_own_freivalds_argument_binds_nothing(tmp_path: Path, freivalds: bool) -> None:
    """Why this project has its own. Should the first case fail, ezkl has mended it; the second shows how that looks."""
    reference = str(srs().path)
    at = {
        n: str(tmp_path / n) for n in ("t.onnx", "l.onnx", "s.json", "t.ezkl", "l.ezkl", "vk", "pk", "i.json", "w.json")
    }
    onnx.save(toy(), at["t.onnx"])
    onnx.save(toy(lying=True), at["l.onnx"])
    args = ezkl.PyRunArgs()
    args.input_visibility, args.output_visibility, args.param_visibility = "polycommit", "public", "fixed"
    args.input_scale = args.param_scale = 0
    args.scale_rebase_multiplier = 20
    args.logrows, args.num_inner_cols, args.disable_freivalds = 9, 2, not freivalds
    args.ignore_range_check_inputs_outputs = True
    ezkl.gen_settings(at["t.onnx"], at["s.json"], py_run_args=args)
    ezkl.compile_circuit(at["t.onnx"], at["t.ezkl"], at["s.json"])
    ezkl.compile_circuit(at["l.onnx"], at["l.ezkl"], at["s.json"])
    ezkl.setup(at["t.ezkl"], at["vk"], at["pk"], reference)
    values = np.random.default_rng(0).integers(-9, 10, (3, 4, 4))
    Path(at["i.json"]).write_text(json.dumps({"input_data": [felts(v) for v in values]}))
    result = ezkl.gen_witness(at["i.json"], at["l.ezkl"], at["w.json"], at["vk"], reference)
    assert result["outputs"][0] == felts([int((values[2] ** 2).sum())]), "the lie"
    ezkl.prove(at["w.json"], at["l.ezkl"], at["pk"], str(tmp_path / "p.json"), reference)
    try:
        accepted = ezkl.verify(str(tmp_path / "p.json"), at["s.json"], at["vk"], reference)
    except RuntimeError:
        accepted = False
    assert accepted is freivalds
