"""Sums of thousands of multiples of points, by ezkl: its commitment to a vector is such a sum, of the points in a file.

In Python, 2^12 multiples by full-size scalars take a CPU second; as a commitment, a tenth of it. A commitment of ezkl's
needs a verification key and settings beside the points, but takes nothing from them but how many rows at the end of a
column are kept for blinding, which it fills with ones. The smallest circuit's lie beside this file, made by `adder`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ezkl

from zkapex.circuits.field import MODULUS, to_felt
from zkapex.circuits.halo2.points import Affine, encoded, linear_combination
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import ProverError, StorageError

KEY, SETTINGS = (Path(__file__).with_name(name) for name in ("sums.key", "sums.json"))
BLINDING = 6
"""Rows at the end of a column of that circuit, which ezkl fills with ones."""

SPEC = StatementSpec(kind="mask-only", rows_per_chunk=1, block_width=4, curvature="none", weight_limit=16, log2_rows=8)
"""The circuit: the smallest there is."""

_FEW = 1 << 8
"""Points for which it does not pay."""


def linear_combinations(points: Sequence[Affine], vectors: Sequence[Sequence[int]], tail: bytes) -> list[Affine | None]:
    """``sum vector[i] * points[i]`` for each vector, `tail` being the two points of G2 that end a reference string.

    Parameters
    ----------
    points : sequence of points
        A power of two of them, on the curve.
    vectors : sequence of sequences of int
        Scalars, as many as points.

    Returns
    -------
    list of points
        None is the point at infinity.

    Raises
    ------
    StorageError
        The folder for temporary files has no room.
    """
    count = len(points)
    if count <= _FEW:
        return [linear_combination(points, vector) for vector in vectors]
    usable = count - BLINDING
    message = [to_felt(value) for vector in vectors for value in vector[:usable]]
    data = b"".join(map(encoded, points))
    try:
        with tempfile.TemporaryDirectory(prefix="zkapex-sums-") as folder:
            file = Path(folder) / "points"
            with file.open("wb") as out:
                out.write((count.bit_length() - 1).to_bytes(4, "little"))
                out.writelines((data, data, tail))
            made = ezkl.kzg_commit(message, str(KEY), str(SETTINGS), str(file))
    except OSError as e:
        raise StorageError("points could not be written to add them up", why=str(e), fix="free disk space") from e
    except RuntimeError as e:
        raise ProverError("ezkl could not add up points", why=str(e)) from e
    if len(made) != len(vectors) + 1:  # a vector that fills its column gets an empty one after it
        raise ProverError(
            "ezkl splits committed columns in a way that is not understood", fix="report this as a defect"
        )
    found = []
    for commitment, vector in zip(made, vectors, strict=False):
        x, y = (int.from_bytes(bytes.fromhex(value), "little") for value in (commitment.x, commitment.y))
        first = [(x, y)] if x or y else []
        rest = [(value - 1) % MODULUS for value in vector[usable:]]
        found.append(linear_combination([*first, *points[usable:]], [1] * len(first) + rest))
    return found


def adder(srs: Path, folder: Path) -> tuple[bytes, bytes]:
    """The key and the settings, made anew: always the same of the same reference string.

    Parameters
    ----------
    srs : Path
        For 2^8 rows or more.
    folder : Path
        An empty one, for what is made on the way.
    """
    import json

    import onnx

    from zkapex.circuits.halo2.build import build_graph
    from zkapex.circuits.halo2.store import canonical_settings

    graph, settings, compiled, key = (folder / name for name in ("graph", "settings", "compiled", "key"))
    onnx.save(build_graph(SPEC), graph)
    settings.write_text(json.dumps(canonical_settings(SPEC, graph, folder), sort_keys=True, separators=(",", ":")))
    ezkl.compile_circuit(str(graph), str(compiled), str(settings))
    ezkl.setup(str(compiled), str(key), os.devnull, str(srs))
    return key.read_bytes(), settings.read_bytes()
