"""What requests demand for good: joined, written down, and looked for in later requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tiny import case, guard

from zkapex.errors import InputError, ProtocolError
from zkapex.proofs.chunk.demands import Along, Demands, require_kept
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.messages import Audit, LayerSpec, ModelManifest, UnlearnRequest
from zkapex.proofs.records.packing import pack_guards, pack_masks

SPEC = case("targeted-group-obs")
WIDTH, RANK, UNIT = SPEC.block_width, SPEC.guard_rank, SPEC.guard_limit
ROWS = SPEC.rows_per_chunk + 3
MANIFEST = ModelManifest(
    model="m",
    profile="tiny",
    statement=SPEC,
    curvature_bits=13,
    layers=(LayerSpec(name="a", rows=ROWS, cols=2 * WIDTH - 5, exponent=8),),
    circuit_digest="11" * 32,
    settings_digest="22" * 32,
    srs_digest="33" * 32,
    srs_origin="local",
)


def along(seed: int, rank: int = 1) -> Along:
    rng = np.random.default_rng(seed)
    return Along(guard(rng, WIDTH, rank), rng.integers(-300, 301, (ROWS, rank)) * UNIT)


def spots(*places: tuple[int, int]) -> dict[str, np.ndarray]:
    mask = np.zeros((ROWS, 2 * WIDTH - 5), np.bool_)
    for place in places:
        mask[place] = True
    return {"a": mask}


def request(demands: Demands) -> UnlearnRequest:
    mask, guards = demands.packed(MANIFEST)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return UnlearnRequest(
        request_id="r", client_id="aa" * 32, manifest_digest=MANIFEST.digest(), nonce="bb" * 32,
        operator=SPEC.kind, pre_root="cc" * 32, mask=mask, guards=guards, tau_s=1, tau_g=1, audit=Audit(),
        forget_digest="dd" * 32, issued_at=now, expires_at=now + timedelta(days=1),
    )  # fmt: skip


FIRST = Demands(spots((0, 1)), {("a", 0): along(1)})
BESIDE = FIRST.joined(Demands({}, {("a", 0): along(2)}))


def test_demands_are_written_in_one_way_only() -> None:
    again = Demands({}, {("a", 0): along(2)}).joined(FIRST).joined(FIRST)
    assert again.packed(MANIFEST) == BESIDE.packed(MANIFEST)
    assert BESIDE.along["a", 0].directions.shape == (WIDTH, 2)
    read = Demands.unpacked(MANIFEST, *BESIDE.packed(MANIFEST))
    assert read.packed(MANIFEST) == BESIDE.packed(MANIFEST)
    assert read.within(BESIDE)
    assert Demands.of(MANIFEST, [request(FIRST), request(BESIDE)]).packed(MANIFEST) == BESIDE.packed(MANIFEST)
    assert read.touched(MANIFEST) == (0, 1), "both bands of rows of the first block, whatever is masked"
    assert not Demands()


def test_more_demands_than_the_guard_has_columns_are_refused() -> None:
    many = FIRST
    for seed in range(2, RANK + 2):
        many = many.joined(Demands({}, {("a", 0): along(seed)}))
    with pytest.raises(InputError):
        many.packed(MANIFEST)


@pytest.mark.parametrize(
    ("what", "later"),
    [
        ("the same again", FIRST),
        ("another direction beside it", BESIDE),
        (
            "another block",
            Demands(spots((0, WIDTH + 1)), {("a", 1): replace(along(1), directions=along(1).directions)}),
        ),
    ],
)
def test_what_keeps_earlier_demands(what: str, later: Demands) -> None:
    if what == "another block":  # the layer ends within it
        later.along["a", 1].directions[WIDTH - 5 :] = 0
    require_kept(FIRST, Instance(MANIFEST, request(later)))


@pytest.mark.parametrize(
    ("what", "later"),
    [
        ("a mask in the block, and nothing along it", Demands(spots((0, 1), (5, 3)), {})),
        ("a mask in the other band, which the repair moves too", Demands(spots((ROWS - 1, 3)), {})),
        ("other targets", Demands(spots((0, 1)), {("a", 0): replace(along(1), targets=along(1).targets + UNIT)})),
        ("other directions", Demands(spots((0, 1)), {("a", 0): along(2)})),
        ("both of another length", Demands(spots((0, 1)), {("a", 0): Along(-along(1).directions, -along(1).targets)})),
        ("no mask", Demands({}, FIRST.along)),
    ],
)
def test_what_gives_them_up(what: str, later: Demands) -> None:
    with pytest.raises(ProtocolError, match="would bring back"):
        require_kept(FIRST, Instance(MANIFEST, request(later)))
    assert not FIRST.within(later), what


def test_steering_demands_nothing_for_good() -> None:
    """It prescribes a change, not what results; only zeros stay."""
    manifest = MANIFEST.model_copy(update={"statement": case("kfac")})
    guards = pack_guards(manifest, {("a", 0): along(1).directions.astype(np.int16)}, {})
    asked = request(FIRST).model_copy(
        update={"operator": "guarded-group-obs", "guards": guards, "mask": pack_masks(manifest, spots((0, 1)))}
    )
    found = Demands.of(manifest, [asked])
    assert (list(found.zeros), dict(found.along)) == (["a"], {})
