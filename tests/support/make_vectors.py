"""Make the vectors of the transparent backend: statements with seeds, and their proofs.

    PYTHONPATH=.:tests/support python tests/support/make_vectors.py [--full] [NAME...]

Vectors that exist are left alone, since later releases must verify what earlier ones made: to make one anew, delete it.
``--full`` makes the proofs with 192 queries of the same statements, has them verified, and prints their SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from transparent_examples import attested, complying, dampening, example
from transparent_vectors import ARRAYS, FOLDER, verify

from zkapex import __version__
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.layout import Layout, commit
from zkapex.circuits.transparent.moment import Moment
from zkapex.circuits.transparent.params import TARGET, Parameters
from zkapex.circuits.transparent.prove import STATEMENTS, prove_change, prove_enrolment
from zkapex.circuits.transparent.same import Nothing, Same

COMMAND = "PYTHONPATH=.:tests/support python tests/support/make_vectors.py"
SMALL, WIDER, FULL = Parameters(128, queries=8), Parameters(256, queries=8), Parameters(1024)
SEEDS = {"old": b"secret of the state before", "new": b"secret of the state after", "proof": b"secret of the proof"}
CONTEXT = b"client, request, layer, nonce"
NO_FACTORS = np.zeros((0, 0, 0), np.int64)


@dataclass(frozen=True)
class Case:
    """A statement with its witness: states before and after, and what is public, or None of an enrolment."""

    layout: Layout
    before: np.ndarray
    after: np.ndarray
    terms: Any
    witness: Any
    curvature: np.ndarray | None = None
    moment: Moment | None = None


def repair(parameters: Parameters, rank: int) -> Layout:
    """Of a repair; its last block and its last band reach beyond the layer."""
    return Layout(19, 10, parameters, width=6, rank=rank, factor_rank=3, ridge=192, limit=16320)


def plain(parameters: Parameters, rank: int = 0) -> Layout:
    """Of weights alone; its last block and its last band reach beyond the layer."""
    return Layout(29, 11, parameters, width=4, rank=rank, limit=16320)


def guarded(parameters: Parameters, rank: int = 2, **kind: Any) -> Case:
    ex = example(repair(parameters, rank), density=0.1, seed=5, **kind)
    w = ex.witness
    return Case(ex.request.layout, w.before, w.after, ex.request, w, w.curvature)


def enrolled(parameters: Parameters, curvature: bool) -> Case:
    if curvature:
        ex = example(repair(parameters, 2), density=0.1, seed=5)
        w = ex.witness
        return Case(ex.request.layout, w.before, w.before, None, ex.enrolled, w.curvature)
    y = plain(parameters)
    theta = complying(y, along=False)[1].weights
    return Case(y, theta, theta, None, Enrolled(theta, NO_FACTORS))


def attesting(parameters: Parameters) -> Case:
    """Of an enrolment that shows what its curvature was made of; there is room for one activation more."""
    of = enrolled(parameters, curvature=True)
    witness, moment = attested(of.layout, of.witness, count=19)
    return replace(of, witness=witness, moment=moment)


def same(parameters: Parameters, curvature: bool) -> Case:
    of = enrolled(parameters, curvature)
    return Case(of.layout, of.before, of.before, Same(of.layout, curvature), Nothing(), of.curvature)


def compliance(parameters: Parameters, along: bool) -> Case:
    terms, held = complying(plain(parameters, 2 if along else 0), along=along)
    return Case(terms.layout, held.weights, held.weights, terms, held)


def dampened(parameters: Parameters) -> Case:
    terms, witness = dampening(plain(parameters))
    return Case(terms.layout, witness.before, witness.after, terms, witness)


CASES: Mapping[str, tuple[Callable[[Parameters], Case], Parameters]] = MappingProxyType(
    {
        "guarded-targets": (lambda p: guarded(p, targets=(1,), steered=True), WIDER),
        "guarded-steered": (lambda p: guarded(p, steered=True), SMALL),
        "guarded-plain": (lambda p: guarded(p, rank=0), SMALL),
        "mask-only": (lambda p: compliance(p, along=False), SMALL),
        "constraint-only": (lambda p: compliance(p, along=True), SMALL),
        "dampening": (dampened, SMALL),
        "same-state": (lambda p: same(p, curvature=True), SMALL),
        "same-weights": (lambda p: same(p, curvature=False), SMALL),
        "enrolment": (lambda p: enrolled(p, curvature=True), SMALL),
        "enrolment-moment": (attesting, SMALL),
        "enrolment-weights": (lambda p: enrolled(p, curvature=False), SMALL),
    }
)


def states(case: Case) -> dict[str, dict[str, np.ndarray]]:
    """What the states that a statement is about hold, by prefix."""
    y = case.layout
    parts = {} if case.curvature is None else {"H": y.flat(case.curvature)}
    before, after = ({"theta": y.pack(x)} | parts for x in (case.before, case.after))
    if case.terms is None:
        return {"state.": before}
    return ({"old.": before} if STATEMENTS[type(case.terms)].before else {}) | {"new.": after}


def made_with(case: Case) -> dict[str, Any]:
    """What is public of a case, as a vector's file says it; without roots, which proofs come with."""
    statement, public = "enrolment", {}
    if case.moment is not None:
        statement = "enrolment-moment"
        public = {one: getattr(case.moment, one) for one in ("activations", "scales", "tolerances")}
    if case.terms is not None:
        statement = STATEMENTS[type(case.terms)].name
        public = {one: getattr(case.terms, one).astype(np.int64).tolist() for one in ARRAYS[statement]}
        public |= {one: getattr(case.terms, one) for one in ("curvature", "along") if hasattr(case.terms, one)}
    return {
        "statement": statement,
        "layout": asdict(case.layout),
        "public": public,
        "context": CONTEXT.hex(),
        "seeds": {one: seed.hex() for one, seed in SEEDS.items()},
    }


def made(name: str, full: bool = False) -> tuple[dict[str, Any], bytes]:
    """What a vector's file says, and its proof."""
    make, parameters = CASES[name]
    case, minimum = make(FULL if full else parameters), TARGET if full else 0.0
    y, secret = case.layout, SEEDS["proof"]
    old, new = commit(y, case.before, case.curvature, SEEDS["old"]), commit(y, case.after, case.curvature, SEEDS["new"])
    if case.terms is None:
        roots = {"state": old.root.hex()}
        proof = prove_enrolment(y, old, case.witness, CONTEXT, secret, minimum, case.moment)
    else:
        before = old if STATEMENTS[type(case.terms)].before else None
        roots = ({"old": old.root.hex()} if before is not None else {}) | {"new": new.root.hex()}
        proof = prove_change(case.terms, before, new, case.witness, CONTEXT, secret, minimum)
    about = made_with(case) | {
        "roots": roots,
        "proof_sha256": hashlib.sha256(proof).hexdigest(),
        "made_by": {"zkapex": __version__, "command": f"{COMMAND} {name}"},
    }
    return about, proof


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in given.names or CASES:
        if not given.full and (FOLDER / f"{name}.json").exists():
            continue
        about, proof = made(name, given.full)
        verify(about, proof, TARGET if given.full else 0.0)
        if given.full:
            sys.stdout.write(f"{name} {len(proof)} bytes {about['proof_sha256']}\n")
            continue
        (FOLDER / f"{name}.json").write_text(json.dumps(about) + "\n")
        (FOLDER / f"{name}.bin").write_bytes(proof)


if __name__ == "__main__":
    main()
