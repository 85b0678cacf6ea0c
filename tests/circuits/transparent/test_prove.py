"""Proofs as bytes: layers of any shape, both forms of the guard, and whatever is not the proof is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from transparent_examples import SEED, example, small

from zkapex.circuits.operators.tolerances import tolerances
from zkapex.circuits.profiles import profile
from zkapex.circuits.transparent.layout import commit, layout_of
from zkapex.circuits.transparent.params import TARGET, Parameters, soundness
from zkapex.circuits.transparent.prove import prove_change, prove_enrolment, verify_change, verify_enrolment
from zkapex.errors import InputError, VerificationError

CONTEXT = b"client, request, layer, nonce"
EX = example(small(30, 44, rank=2), density=0.03)
OLD, NEW = EX.states()
PROOF = prove_change(EX.request, OLD, NEW, EX.witness, CONTEXT, SEED)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ({"rows": 40, "cols": 60}, {"steered": True}),  # a last block that reaches beyond the layer
        ({"rows": 40, "cols": 60}, {"targets": (0, 2), "steered": True}),
        ({"rows": 29, "cols": 32, "rank": 8}, {"targets": (1,), "density": 0.0}),  # targets without any mask
        ({"rows": 61, "cols": 16, "rank": 0}, {}),
        ({"rows": 1, "cols": 1, "rank": 1}, {"density": 1.0}),
        ({"rows": 1, "cols": 70, "rank": 4}, {"density": 0.1}),
        ({"rows": 200, "cols": 1, "rank": 1}, {"density": 0.3}),
        ({"rows": 10, "cols": 8, "width": 8}, {"density": 1.0}),
    ],
)
def test_layers_of_any_shape(shape: dict[str, int], kind: dict[str, object]) -> None:
    y = small(**shape)
    ex = example(y, **kind)  # type: ignore[arg-type]
    old, new = ex.states()
    enrolment = prove_enrolment(y, old, ex.enrolled, CONTEXT, SEED)
    verify_enrolment(y, old.root, CONTEXT, enrolment)
    proof = prove_change(ex.request, old, new, ex.witness, CONTEXT, SEED)
    verify_change(ex.request, old.root, new.root, CONTEXT, proof)


def test_the_same_statement_is_the_same_bytes() -> None:
    assert prove_change(EX.request, OLD, NEW, EX.witness, CONTEXT, SEED) == PROOF
    assert prove_change(EX.request, OLD, NEW, EX.witness, CONTEXT + b"2", SEED)[:32] != PROOF[:32]
    verify_change(EX.request, OLD.root, NEW.root, CONTEXT, PROOF)


def test_a_chain_of_two_requests() -> None:
    y = EX.request.layout
    w = replace(EX.witness, before=EX.witness.after, mu=np.zeros_like(EX.witness.mu))
    third = commit(y, w.after, w.curvature, b"another secret")
    proof = prove_change(EX.request, NEW, third, w, CONTEXT, SEED)
    verify_change(EX.request, NEW.root, third.root, CONTEXT, proof)


def test_replays() -> None:
    r, y = EX.request, EX.request.layout
    other = r.mask.copy()
    other[tuple(np.argwhere(other)[0])] = False
    foreign = commit(y, EX.witness.before + 1, EX.witness.curvature, SEED)
    flipped = ~r.on_result
    for request, old, new, context in (
        (r, OLD.root, NEW.root, b"another context"),
        (replace(r, mask=other), OLD.root, NEW.root, CONTEXT),
        (replace(r, guard=-r.guard), OLD.root, NEW.root, CONTEXT),
        (replace(r, offsets=r.offsets + 1), OLD.root, NEW.root, CONTEXT),
        (replace(r, on_result=flipped), OLD.root, NEW.root, CONTEXT),
        (r, foreign.root, NEW.root, CONTEXT),
        (r, OLD.root, foreign.root, CONTEXT),
        (r, NEW.root, OLD.root, CONTEXT),
        (replace(r, layout=replace(y, ridge=y.ridge + 1)), OLD.root, NEW.root, CONTEXT),
        (replace(r, layout=replace(y, parameters=Parameters(1024, 191))), OLD.root, NEW.root, CONTEXT),
    ):
        with pytest.raises(VerificationError):
            verify_change(request, old, new, context, PROOF, minimum=0.0)


def test_every_part_of_a_proof_counts() -> None:
    k, rng = EX.request.layout.parameters.k, np.random.default_rng(5)
    polynomials = 96 + 8 * 15 * k
    places = [0, 33, 95, 96, 96 + 24 * k, 96 + 72 * k, polynomials - 1, len(PROOF) - 1]
    places += [int(at) for at in rng.integers(polynomials, len(PROOF), 12)]
    for at in places:
        changed = bytearray(PROOF)
        changed[at] ^= int(rng.integers(1, 256))
        with pytest.raises(VerificationError):
            verify_change(EX.request, OLD.root, NEW.root, CONTEXT, bytes(changed))
    for wrong in (PROOF[:-1], PROOF + b"\0", b"", PROOF[:40], PROOF[:polynomials], b"\xff" * len(PROOF)):
        with pytest.raises(VerificationError):
            verify_change(EX.request, OLD.root, NEW.root, CONTEXT, wrong)


def test_proofs_that_are_not_sound_enough_are_not_made() -> None:
    weak = example(small(10, 10, queries=100))
    old, new = weak.states()
    with pytest.raises(ValueError, match="soundness"):
        prove_change(weak.request, old, new, weak.witness, CONTEXT, SEED)


def test_every_term_of_the_soundness_error() -> None:
    terms = soundness(Parameters(8192), 1200)
    assert terms["queries"] == pytest.approx(192 * np.log2(0.625), abs=0.1)
    assert max(terms, key=lambda name: -1e9 if name == "total" else terms[name]) == "queries"
    assert -130 < terms["total"] < TARGET
    with pytest.raises(ValueError, match="rows"):
        soundness(Parameters(8192), 1 << 20)


def test_requests_that_are_refused() -> None:
    r = EX.request
    beyond = r.guard.copy()
    beyond[-1, -1] = 1
    for wrong in (
        {"mask": r.mask[:, 1:]},
        {"mask": r.mask.astype(np.int64)},
        {"guard": r.guard * 3},
        {"guard": beyond},
        {"offsets": r.offsets + (1 << 30)},
        {"mask": np.zeros_like(r.mask)},
    ):
        with pytest.raises(InputError):
            replace(r, **wrong)


@pytest.mark.parametrize("name", ["tiny", "edge", "server"])
def test_layouts_of_profiles_have_room_in_the_field(name: str) -> None:
    """What is asserted when a proof is made or checked, for the shapes of real layers."""
    from zkapex.circuits.transparent import enrol, group_obs
    from zkapex.circuits.transparent.projection import Norms
    from zkapex.circuits.transparent.transcript import Transcript

    spec = profile(name).statement()
    for rows, cols in ((64, 32), (10, 64), (3072, 768), (768, 3072), (1000, 768), (1, 1)):
        y = layout_of(spec, rows, cols)
        assert enrol.check_no_wrap(y) < 62

        counts = {"new.theta": y.theta_rows, "mu": y.pair_rows, "E": y.theta_rows, "L": y.pair_rows}
        side = SimpleNamespace(parameters=y.parameters, transcript=Transcript(""), counts=counts)
        every = tolerances(rows * y.blocks, y.width, y.rank, y.kappa, y.guard_bits)
        groups = [(("new.theta", "mu"), group_obs.weight_norm(y)), (("E", "L"), float(np.sqrt(sum(every))))]
        assert max(group_obs.check_no_wrap(y, Norms(side, groups)).values()) < 62  # type: ignore[arg-type]
    assert layout_of(profile("server").statement(), 3072, 768).parameters.k == 8192
    assert layout_of(profile("tiny").statement(), 64, 32).parameters.k == 1024
