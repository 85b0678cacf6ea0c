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
from tiny import Chunk, Forger, bump, empty, expected, forger, honest, prove_with, srs, tiny, with_theta_u

from zkapex.circuits.field import MODULUS, felts, random_elements
from zkapex.circuits.slack import SLACK_LIMBS, slack_limbs
from zkapex.errors import ProofError, ProverError
from zkapex.proofs.chunk import (
    Expected,
    IntArray,
    PublicInputs,
    complete,
    leading_points,
    prove_vectors,
    square_sums,
    verify_chunk,
)

THETA_U, DELTA, CURVATURE, AUX = range(4)
"""Order of the lookups."""


def lookup(f: Forger, which: int) -> onnx.NodeProto:
    return f.nodes("Atan")[which]


def mask(f: Forger) -> str:
    """Name of the mask, at the scale of a committed value: the forger's source of zeros."""
    return str(f.nodes("Sub")[0].input[1])


def zeros(public: PublicInputs, count: int) -> IntArray:
    """Indices of `count` zeros in the mask."""
    return np.full(count, np.flatnonzero(~public.mask.ravel())[0])


def refuse(chunk: Chunk, f: Forger, sums: tuple[int, int], residuals: tuple[IntArray, IntArray] | None = None) -> None:
    """Prove the lie, check that it is perfect on the outside, and that halo2's verifier alone refuses it."""
    spec, public = tiny().spec, chunk.public
    limbs = [
        x for total, s in zip(sums, public.slacks(spec), strict=True) for x in slack_limbs(s, total, spec.weight_limit)
    ]
    given = chunk.witness.residuals(public) if residuals is None else residuals
    proof, outputs = prove_with(tiny(), f.model, chunk.witness.with_limbs(tiny(), public, given, limbs))
    assert outputs == public.outputs(spec), "the forger's own graph must yield the right outputs"
    assert len(proof) == tiny().proof_bytes
    with pytest.raises(ProofError, match="does not show") as caught:
        verify_chunk(tiny(), public, expected(tiny(), chunk), proof, empty())
    assert "constraint system is not satisfied" in caught.value.why


def unmasked() -> Chunk:
    """One weight that should be zero is 1; otherwise honest. Its row's residuals stay small."""
    chunk = honest()
    at = tuple(int(i[0]) for i in np.nonzero(chunk.public.mask))
    return with_theta_u(chunk, bump(chunk.witness.theta_u.values, at, 1))


def noisy() -> Chunk:
    """Masked weights are zero, all others are changed at random."""
    chunk = honest()
    noise = np.random.default_rng(3).integers(-50, 51, chunk.theta_p.values.shape)
    return with_theta_u(chunk, np.where(chunk.public.mask, 0, chunk.theta_p.values + noise))


def sums(chunk: Chunk) -> tuple[int, int]:
    return square_sums(chunk.witness.residuals(chunk.public), chunk.public.mask)


def test_the_forgers_tools_work() -> None:
    """With no lie in it, a proof made with a rewired graph is accepted: forgeries fail for what they claim alone."""
    chunk = honest()
    f = forger(tiny())
    theta = lookup(f, THETA_U).output[0]
    f.redirect(theta, theta, np.arange(tiny().spec.weights), (tiny().spec.weights,))
    proof, outputs = prove_with(tiny(), f.model, chunk.witness.vectors(tiny(), chunk.public))
    assert outputs == chunk.public.outputs(tiny().spec)
    verify_chunk(tiny(), chunk.public, expected(tiny(), chunk), proof, empty())


def test_masked_weights_read_from_elsewhere() -> None:
    chunk = unmasked()
    f = forger(tiny())
    count = tiny().spec.weights
    f.redirect(lookup(f, THETA_U).output[0], mask(f), zeros(chunk.public, count), (count,))
    refuse(chunk, f, sums(chunk))


def test_residuals_that_are_checked_but_not_the_ones_that_are_summed() -> None:
    """E satisfies the check of products; the sum of squares is taken over zeros."""
    chunk = noisy()
    spec = tiny().spec
    f = forger(tiny())
    keep = f.nodes("Sub")[0].output[0]
    reshaped = next(n.output[0] for n in f.nodes("Reshape") if n.input[0] == keep)
    kept = [n for n in f.nodes("Mul") if n.input[1] == reshaped][-1]
    last = f.nodes("Einsum")[-1]
    residual, kept_name, leak, last_name = kept.input[0], kept.output[0], last.input[0], last.output[0]
    shape = (spec.rows_per_chunk, spec.block_width)
    f.redirect(residual, mask(f), zeros(chunk.public, spec.weights), shape, only=kept_name)
    leaks = spec.rows_per_chunk * spec.guard_rank
    f.redirect(leak, mask(f), zeros(chunk.public, leaks), (leaks,), only=last_name)
    refuse(chunk, f, (0, 0))


def test_residuals_that_are_zero_under_a_challenge_that_is_zero() -> None:
    """E and F are zero, which is a lie, and the check of products reads its challenge from zeros."""
    chunk = noisy()
    spec = tiny().spec
    f = forger(tiny())
    a = next(n for n in f.nodes("Einsum") if n.attribute[0].s == b"i,ij->j").input[0]
    f.redirect(a, mask(f), zeros(chunk.public, spec.rows_per_chunk), (spec.rows_per_chunk,))
    nothing = tuple(np.zeros_like(r) for r in chunk.witness.residuals(chunk.public))
    refuse(chunk, f, (0, 0), (nothing[0], nothing[1]))


IMAGINARY = pow(5, (MODULUS - 1) // 4, MODULUS)
"""A square root of -1: for any x, ``x^2 + (IMAGINARY * x)^2 == 0`` modulo p, which is 1 modulo 4."""


@dataclass(frozen=True)
class Huge:
    """Field elements that satisfy every equation of the statement modulo p, and would over no smaller integers."""

    lookup: int
    public: PublicInputs
    private: dict[str, list[int]]


def nothing() -> dict[str, list[int]]:
    """A chunk of zeros under the identity as curvature; row 5 has a masked weight."""
    spec = tiny().spec
    lengths = spec.input_lengths()
    private = {name: [0] * lengths[name] for name in ("theta_u", "delta", "curvature", "aux")}
    for i in range(spec.block_width):
        private["curvature"][i * spec.block_width + i] = 1
    salts = {"theta_u": 4, "delta": 4, "curvature": 64, "aux": 4}
    for name, count in salts.items():
        private[name][-count:] = random_elements(count)
    return private


def huge(case: str) -> Huge:
    spec = tiny().spec
    width, rank = spec.block_width, spec.guard_rank
    x = 2**200 + 12345
    y = IMAGINARY * x % MODULUS
    private = nothing()
    theta, delta, h, aux = private["theta_u"], private["delta"], private["curvature"], private["aux"]
    limbs_at = spec.rows_per_chunk * rank
    residual_at = limbs_at + 2 * SLACK_LIMBS
    mask = np.zeros((spec.rows_per_chunk, width), np.bool_)
    mask[5, :2] = True
    guard = np.zeros((width, rank), np.int64)
    which = AUX
    match case:
        case "theta":  # masked weights whose squares cancel
            theta[5 * width], theta[5 * width + 1] = x, y
            which = THETA_U
        case "delta":  # a change whose residuals' squares cancel
            delta[0], delta[1] = x, y
            aux[residual_at], aux[residual_at + 1] = x, y
            which = DELTA
        case "curvature":  # a curvature that makes a small change's residuals cancel
            delta[0], h[0], h[1] = 7, x, y
            aux[residual_at], aux[residual_at + 1] = 7 * x % MODULUS, 7 * y % MODULUS
            which = CURVATURE
        case "mu":  # multipliers that do the same
            guard[0, 0] = guard[1, 1] = 1
            aux[0], aux[1] = x, y
            aux[residual_at], aux[residual_at + 1] = -x % MODULUS, -y % MODULUS
        case "slack":  # a slack that makes up for any sum of squares
            delta[0] = aux[residual_at] = 4000
    public = PublicInputs(mask, guard, 10**5, 10**5, 7)
    for i, slack in enumerate(public.slacks(spec)):
        limbs = slack_limbs(slack, 0, spec.weight_limit)
        aux[limbs_at + i * SLACK_LIMBS : limbs_at + (i + 1) * SLACK_LIMBS] = [limb % MODULUS for limb in limbs]
    if case == "slack":
        aux[limbs_at] -= 4000**2 * pow(public.slacks(spec)[0].weights[0], -1, MODULUS)
        aux[limbs_at] %= MODULUS
    return Huge(which, public, private)


HUGE = [
    pytest.param(c, marks=() if c in ("delta", "slack") else pytest.mark.slow)
    for c in ("theta", "delta", "curvature", "mu", "slack")
]


@pytest.mark.parametrize("case", ["theta", "delta", "curvature", "mu", "slack"])
def test_values_outside_the_lookup_are_refused_by_the_prover(case: str) -> None:
    lie = huge(case)
    vectors = complete(tiny(), lie.public, {n: felts(v) for n, v in lie.private.items()})
    with pytest.raises(ProverError, match="outside the circuit's range"):
        prove_vectors(tiny(), vectors)


@pytest.mark.parametrize("case", HUGE)
def test_huge_values_that_cancel_modulo_p_behind_a_lookup_that_is_shown_others(case: str) -> None:
    """All equations hold modulo p. The lookup is shown zeros, and what follows reads the huge values themselves."""
    lie = huge(case)
    f = forger(tiny())
    node = lookup(f, lie.lookup)
    raw, bounded = str(node.input[0]), str(node.output[0])
    size = {AUX: 32 * 4 + 8}.get(lie.lookup, 1024)
    for user in [str(n.output[0]) for n in f.model.graph.node if bounded in n.input]:
        f.redirect(bounded, raw, np.arange(size), (size,), only=user)
    f.redirect(raw, mask(f), zeros(lie.public, size), (size,), only=bounded)
    vectors = complete(tiny(), lie.public, {n: felts(v) for n, v in lie.private.items()})
    proof, outputs = prove_with(tiny(), f.model, vectors)
    assert outputs == lie.public.outputs(tiny().spec), "modulo p, every equation holds"
    points = leading_points(proof)
    claimed = Expected(points["theta_u"] - points["delta"] + empty(), points["theta_u"], points["curvature"])
    with pytest.raises(ProofError, match="does not show") as caught:
        verify_chunk(tiny(), lie.public, claimed, proof, empty())
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
