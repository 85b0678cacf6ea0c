"""Provers that lie by the strongest means a prover has: a graph of their own, proved with the real proving key.

The key decides what is constrained; what is written into the cells is the prover's business alone. Every forgery here
has the right commitments and the right public outputs, so that only the proof itself can give it away.
"""

from __future__ import annotations

import json
from pathlib import Path

import ezkl
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny import Chunk, Forger, bump, empty, expected, forger, honest, prove_with, srs, tiny, with_theta_u

from zkapex.circuits.field import felts
from zkapex.circuits.slack import slack_limbs
from zkapex.errors import ProofError
from zkapex.proofs.chunk import IntArray, PublicInputs, SaltedVector, Witness, square_sums, verify_chunk

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


@pytest.mark.slow
@pytest.mark.parametrize("which", [THETA_U, DELTA, CURVATURE, AUX])
def test_a_lookup_that_bounds_other_values_than_those_used(which: int) -> None:
    """One value is out of range; the lookup is shown zeros, and what follows reads the value itself."""
    chunk = huge(which)
    f = forger(tiny())
    node = lookup(f, which)
    raw, bounded = str(node.input[0]), str(node.output[0])
    size = {THETA_U: 1024, DELTA: 1024, CURVATURE: 1024, AUX: 32 * 4 + 8}[which]
    for user in [str(n.output[0]) for n in f.model.graph.node if bounded in n.input]:
        f.redirect(bounded, raw, np.arange(size), (size,), only=user)
    f.redirect(raw, mask(f), zeros(chunk.public, size), (size,), only=bounded)
    refuse(chunk, f, sums(chunk))


def huge(which: int) -> Chunk:
    """A chunk that would satisfy every equation over the integers, but for one value far outside the lookup.

    The mask leaves row 0 free, the guard is zero, and the tolerances are as large as the circuit can express.
    """
    chunk, spec = honest(), tiny().spec
    limit = spec.weight_limit
    big = 3 * limit
    top = ((2 * limit + 1) ** 4 - 1) // 2
    w = chunk.witness
    theta, h, mu = chunk.theta_p.values.copy(), w.curvature.values.copy(), np.zeros_like(w.mu)
    theta_u = np.where(chunk.public.mask, 0, theta)
    match which:
        case 0:
            theta[0, 0] = theta_u[0, 0] = big
        case 1:
            theta_u[0, 0], theta[0, 0] = 2000, 2000 - big
        case 2:
            h[0, 0] = big
        case _:
            mu[0, 0] = big
    masked = chunk.public.mask.copy()
    masked[0] = False
    if which == THETA_U:
        theta_u[0] = theta[0]
    public = PublicInputs(masked, np.zeros_like(chunk.public.guard), top, top, chunk.public.context)
    theta_p = SaltedVector(theta)
    curvature = SaltedVector(h, w.curvature.salts)
    return Chunk(public, theta_p, Witness.build(theta_p, SaltedVector(theta_u), curvature, mu))


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
