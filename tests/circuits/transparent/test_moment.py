"""What an enrolment shows of whose second moment its curvature is: forged, one equation at a time, and out of range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from federation import refused
from transparent_checker import enrol_violated
from transparent_examples import attested, example, small

from zkapex.circuits.profiles import PROFILES
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.field import Array
from zkapex.circuits.transparent.layout import KAPPA, Layout, commit, layout_of
from zkapex.circuits.transparent.moment import MAX_ACTIVATIONS, Moment
from zkapex.circuits.transparent.prove import prove_enrolment, verify_enrolment
from zkapex.errors import InputError, ProofError, ProverError
from zkapex.proofs.messages import LARGEST_PER_MILLE

NARROW = small(12, 21, width=6)
WIDE = small(12, 30, width=22)
"""Its differences take two rows of the code each."""
LONG = small(3, 85, width=5)
"""Its differences are in two groups."""


def case(y: Layout = NARROW, count: int = 75) -> tuple[Layout, Enrolled, Moment]:
    enrolled, moment = attested(y, example(y, density=0.03, seed=3).enrolled, count)
    return y, enrolled, moment


def put(at: str, row: int, slot: int, value: int) -> Callable[[str, Array], None]:
    def change(name: str, rows: Array) -> None:
        if name == at:
            rows[row, slot] = value % (2**64 - 2**32 + 1)

    return change


@pytest.mark.parametrize("y", [NARROW, WIDE, LONG], ids=["one row each", "two rows each", "two groups"])
def test_the_honest_violate_nothing(y: Layout) -> None:
    layout, enrolled, moment = case(y)
    assert moment.per_block == (2 if y is WIDE else 1)
    assert (moment.bands * moment.height > moment.activations) == (y is not LONG)
    assert enrol_violated(layout, enrolled, moment=moment) == set()


@pytest.mark.parametrize("y", [NARROW, WIDE, LONG], ids=["one row each", "two rows each", "two groups"])
def test_activations_of_another_moment(y: Layout) -> None:
    layout, enrolled, moment = case(y)
    other = enrolled.activations.copy()
    other[1, 3, 2] += 500  # the differences that belong to it are too large
    assert enrol_violated(layout, replace(enrolled, activations=other), moment=moment) >= {"squares of D"}
    last = list(moment.groups)[-1]
    for slot in (0, y.width**2 - 1):  # differences that are not theirs
        change = put(last, slot // y.parameters.slots, slot % y.parameters.slots, 3)
        assert enrol_violated(layout, enrolled, change, moment=moment) >= {"second moment"}


def test_what_is_beyond_the_activations_that_are_counted() -> None:
    layout, enrolled, moment = case()
    row, slot = moment.bands - 1, (moment.activations - (moment.bands - 1) * moment.height) * layout.width
    assert moment.beyond[row, slot]
    assert not moment.beyond[row, slot - 1]
    noticed = enrol_violated(layout, enrolled, put("A", row, slot, 1), moment=moment)
    assert noticed >= {"no activation", "left_A", "right_A", "projection"}


def test_vectors_that_are_not_the_activations_at_the_points() -> None:
    layout, enrolled, moment = case()
    used = moment.entries
    slots, parts = layout.parameters.slots, layout.rows_for(used)
    assert used < parts * slots
    for name in ("left_A", "right_A"):
        for entry in (0, used - 1, used, parts * slots - 1):  # the last two stand for no activation
            part, slot = divmod(entry, slots)
            for of_k in range(3):
                noticed = enrol_violated(layout, enrolled, put(name, 3 * part + of_k, slot, 12345), moment=moment)
                assert name in noticed


def test_activations_that_are_not_small() -> None:
    layout, enrolled, moment = case()
    noticed = enrol_violated(layout, enrolled, put("A", 0, 0, 2**61), moment=moment)
    assert "projection" in noticed or "projection of v" in noticed


def test_a_square_that_is_minus_one() -> None:
    """Where -1 has a root, activations modulo p could have any second moment: they have to be small."""
    p = 2**64 - 2**32 + 1
    root = pow(7, (p - 1) // 4, p)
    assert root * root % p == p - 1
    layout, enrolled, moment = case()
    noticed = enrol_violated(layout, enrolled, put("A", 0, 1, root), moment=moment)
    assert noticed & {"projection", "projection of v"}


@pytest.mark.parametrize("y", [NARROW, WIDE, LONG], ids=["one row each", "two rows each", "two groups"])
def test_a_proof_shows_this_and_nothing_closer(y: Layout) -> None:
    layout, enrolled, moment = case(y, count=20)
    tree = commit(layout, enrolled.theta, enrolled.curvature(layout), bytes(64))
    proof = prove_enrolment(layout, tree, enrolled, b"context", bytes(64), moment=moment)
    verify_enrolment(layout, tree.root, b"context", proof, moment=moment)
    closer = replace(moment, tolerances=(moment.tolerances[0] - 8, *moment.tolerances[1:]))
    for other in (
        None,
        closer,
        replace(moment, activations=21),
        replace(moment, scales=(65, *moment.scales[1:])),
    ):
        with pytest.raises(ProofError):
            verify_enrolment(layout, tree.root, b"context", proof, moment=other)
    plain = prove_enrolment(layout, tree, enrolled, b"context", bytes(64))
    with pytest.raises(ProofError):
        verify_enrolment(layout, tree.root, b"context", plain, moment=moment)
    with pytest.raises(ProverError):
        prove_enrolment(layout, tree, enrolled, b"context", bytes(64), moment=closer)


def test_what_is_out_of_range() -> None:
    layout, enrolled, moment = case()
    for wrong in (
        {"activations": 0},
        {"activations": MAX_ACTIVATIONS + 1},
        {"scales": moment.scales[1:]},
        {"tolerances": (0, *moment.tolerances[1:])},
        {"scales": (-1, *moment.scales[1:])},
        {"tolerances": (2**62, *moment.tolerances[1:])},
        {"scales": (2**40, *moment.scales[1:])},
        {"scales": (2**1100, *moment.scales[1:])},
        {"tolerances": (2**1100, *moment.tolerances[1:])},
    ):
        refused(lambda wrong=wrong: replace(moment, **wrong), InputError)
    tree = commit(layout, enrolled.theta, enrolled.curvature(layout), bytes(64))
    short = replace(enrolled, activations=enrolled.activations[:, 1:])
    refused(lambda: prove_enrolment(layout, tree, short, b"", bytes(64), moment=moment), InputError)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("rows", "cols"), [(3072, 768), (768, 3072), (4096, 11008), (64, 32), (1, 768), (2, 768), (9, 512), (10, 3072)]
)
def test_there_is_room_at_the_sizes_that_profiles_have(profile: str, rows: int, cols: int) -> None:
    """At c = 1024, and the largest tolerance that a manifest allows; 600 activations a block at ``server``."""
    check = PROFILES[profile].statement("second-moment")
    y = layout_of(PROFILES[profile].statement("guarded-group-obs"), rows, cols, KAPPA)
    tau = (LARGEST_PER_MILLE * 1024) ** 2 * 4**KAPPA // 10**6
    moment = Moment(y, check.rows_per_chunk, (1024,) * y.blocks, (tau,) * y.blocks)
    assert max(moment.check_no_wrap().values()) < 62
