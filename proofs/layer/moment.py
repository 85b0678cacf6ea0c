"""What an enrolment of the transparent backend says about whose second moment its curvature is, layer by layer.

For every column block the device claims ``|F^T F - A^T A / c|_F <= per_mille / 1000 * 2^kappa``, with F the enrolled
factor, A its activations and 2^kappa the largest norm that a curvature is encoded with: the statement of
`zkapex.proofs.chunk.second_moment`. The proof of the layer's state shows it (`zkapex.circuits.transparent.moment`).
**What it does not show** is where A is from: it is the device's choice (``docs/security.md``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from zkapex.circuits.statement import StatementSpec
from zkapex.circuits.transparent.layout import digest
from zkapex.circuits.transparent.moment import Moment
from zkapex.circuits.transparent.transcript import DOMAIN
from zkapex.errors import InputError, ProofError
from zkapex.proofs.backends.interface import Made
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.layer.terms import layout, layout_for
from zkapex.proofs.messages import CurvatureCheck, Enrolment, ModelManifest, MomentClaim
from zkapex.proofs.records.record import encode_parts


def check_digest(check: StatementSpec, spec: StatementSpec, shapes: Sequence[tuple[int, int]], kappa: int) -> str:
    """SHA-256 (hex) of all that determines what is proved of curvature, and is this release's choice."""
    parts = [layout_for(spec, rows, cols, kappa).digest_parts() for rows, cols in shapes]
    return hashlib.sha256(
        encode_parts("zkapex:transparent-moment:v1", DOMAIN, str(check.rows_per_chunk), *parts)
    ).hexdigest()


def tolerance(claim: MomentClaim, kappa: int) -> int:
    """Of ``|c F^T F - A^T A|_F^2``."""
    return (claim.per_mille**2 * claim.scale**2 << 2 * kappa) // 1000**2


def blocks_of(manifest: ModelManifest, unit: int) -> slice:
    """Where the column blocks of one layer are among those of all."""
    start = sum(manifest.blocks(layer) for layer in manifest.layers[:unit])
    return slice(start, start + manifest.blocks(manifest.layers[unit]))


def moment_of(manifest: ModelManifest, claims: Sequence[MomentClaim], unit: int) -> Moment | None:
    """What the proof of a layer's state has to show besides; None if the manifest asks for nothing.

    Raises
    ------
    InputError
        It cannot be proved: the equations could wrap around the field.
    """
    check = manifest.curvature_check
    if check is None:
        return None
    return _moment(manifest, check, claims[blocks_of(manifest, unit)], unit)


def _moment(manifest: ModelManifest, check: CurvatureCheck, own: Sequence[MomentClaim], unit: int) -> Moment:
    kappa = manifest.curvature_bits
    return Moment(
        layout(manifest, unit),
        check.statement.rows_per_chunk,
        tuple(claim.scale for claim in own),
        tuple(tolerance(claim, kappa) for claim in own),
    )


def activations_of(manifest: ModelManifest, made: Sequence[Made], unit: int) -> IntArray | None:
    """A of all column blocks of a layer, ``[blocks, n, B]``; None if the manifest asks for nothing."""
    if manifest.curvature_check is None:
        return None
    return np.stack([one.values for one in made[blocks_of(manifest, unit)]])


def made_digest(manifest: ModelManifest, made: Sequence[Made], unit: int) -> tuple[str, ...]:
    """SHA-256 (hex) of what one layer's curvature was made of; empty if the manifest asks for nothing.

    A proof of the same state about other activations is another opening of it.
    """
    activations = activations_of(manifest, made, unit)
    if activations is None:
        return ()
    claims = str([(one.scale, one.per_mille) for one in made[blocks_of(manifest, unit)]])
    parts = encode_parts("zkapex:made:v1", manifest.digest(), claims, digest(activations))
    return (hashlib.sha256(parts).hexdigest(),)


def claims_from(made: Sequence[Made]) -> tuple[MomentClaim, ...]:
    """What a device says of what it made its curvature of."""
    return tuple(MomentClaim(scale=one.scale, per_mille=one.per_mille) for one in made)


def moment_distance(manifest: ModelManifest, enrolment: Enrolment) -> float | None:
    """How far any of the enrolled curvature can be from the second moment of its activations; None if nothing says so.

    ``|F^T F - A^T A / c|_F`` as a fraction of ``2**curvature_bits``, the largest over column blocks, as enforced.

    Raises
    ------
    ProofError
        A block has no claim, a claim no block, or one is larger than the manifest or the proof system allows.
    """
    check = manifest.curvature_check
    wanted = 0 if check is None else sum(manifest.blocks(layer) for layer in manifest.layers)
    if len(enrolment.moments) != wanted:
        raise ProofError(
            f"the enrolment says of {len(enrolment.moments)} column blocks what their curvature was made of",
            why=f"the manifest asks for {wanted}",
        )
    if check is None:
        return None
    largest = max(claim.per_mille for claim in enrolment.moments)
    if largest > check.largest_per_mille:
        raise ProofError(
            f"curvature is only claimed to be within {largest} per mille of its activations' second moment",
            why=f"the manifest allows {check.largest_per_mille}",
        )
    try:
        start = 0
        for unit, layer in enumerate(manifest.layers):
            stop = start + manifest.blocks(layer)
            _moment(manifest, check, enrolment.moments[start:stop], unit)
            start = stop
    except InputError as e:
        raise ProofError(f"what the enrolment says of its curvature is wrong: {e.what}", why=e.why) from e
    kappa = manifest.curvature_bits
    return max(math.sqrt(tolerance(claim, kappa)) / claim.scale / 2.0**kappa for claim in enrolment.moments)
