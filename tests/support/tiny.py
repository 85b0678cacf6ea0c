"""One small circuit, one honest chunk and its proof, made once per test run because proving takes seconds."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Literal

import ezkl
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from zkapex.circuits.cache import sha256_file
from zkapex.circuits.field import random_elements
from zkapex.circuits.halo2.build import build_graph
from zkapex.circuits.halo2.srs import Srs, import_srs
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.circuits.profiles import profile
from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.proofs.chunk.commitment import Point, commit, empty_commitment
from zkapex.proofs.chunk.prove import Expected, prove_chunk
from zkapex.proofs.chunk.public import IntArray, PublicInputs
from zkapex.proofs.chunk.witness import SaltedVector, Witness
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, EncodedCurvature, encode
from zkapex.unlearning.operators.group_obs import solve
from zkapex.unlearning.operators.targets import nearest, solve_targets

FloatArray = npt.NDArray[np.float64]
SRS_FILE = Path(__file__).parent.parent / "conformance" / "srs.bin"
"""A reference string of 2^12 rows, kept with the tests so that every machine builds the same keys."""


@dataclass(frozen=True)
class Chunk:
    """A chunk with everything that is public or secret about it."""

    public: PublicInputs
    theta_p: SaltedVector
    witness: Witness


def srs() -> Srs:
    return import_srs(SRS_FILE.read_bytes(), sha256_file(SRS_FILE), 12, "local")


def spec(**changes: object) -> StatementSpec:
    return StatementSpec(**{**profile("tiny").statement().model_dump(), **changes})


CASES = (
    "kfac",
    "kfac-unguarded",
    "kfac-plain",
    "block-fisher",
    "block-fisher-unguarded",
    "block-fisher-plain",
    "mask-only",
    "dampening",
)
"""Every statement there is, by a short name; the plain ones compute their matrix products in the circuit."""


TARGETED = ("targeted-group-obs", "constraint-only")
"""Statements about what the result is along the guard, each with its own module of tests."""


def case(name: str) -> StatementSpec:
    """The statement of one of `CASES` in the `tiny` profile."""
    if name in ("mask-only", "dampening", *TARGETED):
        return profile("tiny").statement(name)  # type: ignore[arg-type]
    curvature: Literal["kfac", "block-fisher"] = "kfac" if name.startswith("kfac") else "block-fisher"
    rank = 0 if name.endswith("unguarded") else None
    return profile("tiny").statement(curvature=curvature, guard_rank=rank, freivalds=not name.endswith("plain"))


@cache
def built(name: str) -> Circuit:
    """The circuit of one of `CASES`."""
    return circuit(case(name), srs())


def tiny() -> Circuit:
    """The circuit of the `tiny` profile with curvature `kfac`: 32 x 32 weights, 2^12 rows."""
    return built("kfac")


def moments(rng: np.random.Generator, width: int) -> FloatArray:
    """A second moment of correlated inputs."""
    mixed = rng.normal(size=(width, width)) / np.sqrt(width) * rng.uniform(0.2, 2, width)
    x = rng.normal(size=(3 * width, width)) @ mixed + 0.5 * rng.normal(size=width)
    moment: FloatArray = x.T @ x / len(x)
    return moment


def curvature(rng: np.random.Generator, spec: StatementSpec) -> EncodedCurvature:
    """Curvature of the shape a statement wants, as a client encodes it."""
    shared = spec.curvature == "kfac"
    one = [moments(rng, spec.block_width) for _ in range(1 if shared else spec.rows_per_chunk)]
    return encode(one[0] if shared else np.stack(one), spec.block_width, CurvatureEncoding.of(spec))


def guard(rng: np.random.Generator, width: int, rank: int) -> IntArray:
    """`rank` orthonormal columns at the guard's scale."""
    q, _ = np.linalg.qr(rng.normal(size=(width, max(rank, 1))))
    encoded: IntArray = np.rint(q[:, :rank] * 2**GUARD_BITS).astype(np.int64)
    return encoded


def make_chunk(
    spec: StatementSpec, seed: int, density: float = 0.05, context: int = 7, *, steered: bool = False
) -> Chunk:
    """An honest chunk with random weights, moved along its guard if it is to be steered."""
    rows, width, rank = spec.rows_per_chunk, spec.block_width, spec.guard_rank
    rng = np.random.default_rng(seed)
    largest = spec.weight_limit // 4
    theta = rng.integers(-largest, largest + 1, (rows, width))
    mask = rng.random((rows, width)) < density
    theta_p = SaltedVector(theta)
    nothing = np.zeros((width, 0), np.int64)
    if spec.kind == "mask-only":
        zeroed = SaltedVector(np.where(mask, 0, theta))
        return Chunk(PublicInputs(mask, nothing, 0, 0, context), theta_p, Witness(zeroed))
    if spec.kind == "dampening":
        factors = np.where(mask, rng.integers(0, FACTOR_UNIT, (rows, width)), FACTOR_UNIT)
        dampened = SaltedVector(np.rint(theta * factors / FACTOR_UNIT).astype(np.int64))
        public = PublicInputs(mask, nothing, 0, 0, context, factors)
        return Chunk(public, theta_p, Witness.build(theta_p, dampened))
    v = guard(rng, width, rank)
    tau_s, tau_g = tolerances(rows, width, rank, KAPPA, GUARD_BITS)
    if spec.kind == "constraint-only":
        targets = rng.integers(-300, 301, (rows, rank)) * spec.guard_limit
        held = SaltedVector(nearest(theta, mask, v, targets))
        return Chunk(PublicInputs(mask, v, 0, tau_g, context, steering=targets), theta_p, Witness(held))
    h = curvature(rng, spec)
    if spec.kind == "targeted-group-obs":
        targets = rng.integers(-300, 301, (rows, rank)) * spec.guard_limit
        found = solve_targets(theta, mask, h.matrix, v, targets, spec.weight_limit)
        after, secret = SaltedVector(theta + found.delta), random_elements(spec.parts("factor")["salts"])
        witness = Witness.build(theta_p, after, SaltedVector(h.factor, secret), found.mu)
        return Chunk(PublicInputs(mask, v, tau_s, tau_g, context, steering=targets), theta_p, witness)
    steering = None
    if steered:
        steering = rng.integers(-300, 301, (rows, rank)) * mask.any(1)[:, None] * spec.guard_limit
    solution = solve(theta, mask, h.matrix, v, spec.weight_limit, steering)
    theta_u = SaltedVector(theta + solution.delta)
    factor = SaltedVector(h.factor, random_elements(spec.parts("factor")["salts"]))
    witness = Witness.build(theta_p, theta_u, factor, solution.mu)
    return Chunk(PublicInputs(mask, v, tau_s, tau_g, context, steering=steering), theta_p, witness)


def honest(name: str = "kfac") -> Chunk:
    """An honest chunk of one of `CASES`, with rows that have a masked weight and rows that have none."""
    return _honest(name)


@cache
def _honest(name: str) -> Chunk:
    chunks = (make_chunk(case(name), seed) for seed in count(1))
    return next(c for c in chunks if c.public.mask.any() and not c.public.mask.any(1).all())


def honest_proof(name: str = "kfac") -> bytes:
    """A valid proof of `honest`."""
    return _honest_proof(name)


@cache
def _honest_proof(name: str) -> bytes:
    chunk = honest(name)
    return prove_chunk(built(name), chunk.public, chunk.witness)


def expected(made: Circuit, chunk: Chunk) -> Expected:
    """What a verifier expects of a chunk whose weights were enrolled and announced as they are."""
    w = chunk.witness
    factor = None if w.factor is None else commit(made, w.factor.vector())
    return Expected(commit(made, w.theta_u.vector()), commit(made, chunk.theta_p.vector()), factor)


def honest_expected(name: str = "kfac") -> Expected:
    """What a verifier expects of `honest`."""
    return _honest_expected(name)


@cache
def _honest_expected(name: str) -> Expected:
    return expected(built(name), honest(name))


@cache
def empty(name: str = "kfac") -> Point:
    return empty_commitment(built(name))


def places(spec: StatementSpec, vector: str, *parts: str) -> list[int]:
    """Where some parts of a committed vector lie."""
    found, at = [], 0
    for part, length in spec.parts(vector).items():
        found += range(at, at + length) if part in parts else []
        at += length
    return found


def with_theta_u(chunk: Chunk, theta_u: IntArray, mu: IntArray | None = None) -> Chunk:
    """The same chunk after another change than the exact one."""
    w = chunk.witness
    changed = Witness.build(chunk.theta_p, SaltedVector(theta_u, w.theta_u.salts), w.factor, w.mu if mu is None else mu)
    return replace(chunk, witness=changed)


def witness_outputs(made: Circuit, vectors: list[list[str]]) -> list[str]:
    """The public outputs ezkl computes for these vectors, whether or not they satisfy the statement."""
    with tempfile.TemporaryDirectory() as tmp:
        data, out = str(Path(tmp) / "input.json"), str(Path(tmp) / "witness.json")
        Path(data).write_text(json.dumps({"input_data": vectors}))
        result = ezkl.gen_witness(data, str(made.compiled), out, str(made.vk), str(made.srs.path))
    return [o[0] for o in result["outputs"]]


def prove_with(made: Circuit, graph: onnx.ModelProto, vectors: list[list[str]]) -> tuple[bytes, list[str]]:
    """Prove with a graph of the prover's own, but the real proving key: raw proof and public outputs.

    The key fixes which cells must equal which and where gates and lookups hold; the graph only decides what the prover
    writes into the cells. A prover is free to do this, and ezkl's own lets us.
    """
    with tempfile.TemporaryDirectory() as tmp:
        at = {
            n: str(Path(tmp) / n) for n in ("network.onnx", "circuit.ezkl", "input.json", "witness.json", "proof.json")
        }
        onnx.save(graph, at["network.onnx"])
        ezkl.compile_circuit(at["network.onnx"], at["circuit.ezkl"], str(made.settings))
        Path(at["input.json"]).write_text(json.dumps({"input_data": vectors}))
        key, reference = str(made.vk), str(made.srs.path)
        result = ezkl.gen_witness(at["input.json"], at["circuit.ezkl"], at["witness.json"], key, reference)
        ezkl.prove(at["witness.json"], at["circuit.ezkl"], str(made.pk), at["proof.json"], reference)
        proof = bytes(json.loads(Path(at["proof.json"]).read_text())["proof"])
    return proof, [o[0] for o in result["outputs"]]


class Forger:
    """Rewires a graph so that some values are read from elsewhere, without moving a single cell."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(graph)
        self._count = 0

    def nodes(self, kind: str) -> list[onnx.NodeProto]:
        """Nodes of a kind, in the graph's order."""
        return [n for n in self.model.graph.node if n.op_type == kind]

    def part(self, spec: StatementSpec, vector: str, part: str) -> str:
        """Name of the node that yields a part of a committed vector."""
        constants = {c.name: c for c in self.model.graph.initializer}
        first = places(spec, vector, part)[0]
        found = [n for n in self.nodes("GatherElements") if n.input[0] == vector]
        return str(next(n.output[0] for n in found if numpy_helper.to_array(constants[n.input[1]])[0] == first))

    def redirect(
        self, old: str, source: str, pick: IntArray, shape: tuple[int, ...], only: str | None = None
    ) -> Forger:
        """Let what reads `old` (or only the node that yields `only`) read ``source.ravel()[pick]`` instead.

        `old` is still computed, and so its cells are still filled.
        """
        self._count += 1
        users = [n for n in self.model.graph.node if old in n.input and only in (None, n.output[0])]
        n = f"forged{self._count}"
        new = [
            helper.make_node("Reshape", [source, self._constant([-1])], [f"{n}a"]),
            helper.make_node("Reshape", [old, self._constant([-1])], [f"{n}b"]),
            helper.make_node("Concat", [f"{n}a", f"{n}b"], [f"{n}c"], axis=0),
            helper.make_node("GatherElements", [f"{n}c", self._constant(pick)], [f"{n}d"], axis=0),
            helper.make_node("Reshape", [f"{n}d", self._constant(list(shape))], [f"{n}e"]),
        ]
        for user in users:
            for i, name in enumerate(user.input):
                if name == old:
                    user.input[i] = f"{n}e"
        self._sort([*self.model.graph.node, *new])
        return self

    def _constant(self, values: object) -> str:
        name = f"forged_constant{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def _sort(self, nodes: list[onnx.NodeProto]) -> None:
        graph = self.model.graph
        known = {v.name for v in graph.input} | {v.name for v in graph.initializer}
        ordered: list[onnx.NodeProto] = []
        while nodes:
            ready = next(n for n in nodes if all(name in known for name in n.input))
            nodes.remove(ready)
            known |= set(ready.output)
            ordered.append(ready)
        del graph.node[:]
        graph.node.extend(ordered)


def forger(made: Circuit) -> Forger:
    return Forger(build_graph(made.spec))


def bump(values: IntArray, index: tuple[int, ...], by: int) -> IntArray:
    """A copy with one value changed."""
    changed = values.copy()
    changed[index] += by
    return changed
