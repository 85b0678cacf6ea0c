"""What is proved about which model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.messages.bounds import MAX_CHUNKS, MAX_LAYERS, Dimension
from zkapex.proofs.records.record import Digest, Name, Part, Record, is_halo2, is_none


class LayerSpec(Part):
    """One target layer: a weight of shape ``[rows, cols]`` held as integers ``theta * 2**exponent``."""

    name: Name
    rows: Dimension
    cols: Dimension
    exponent: Annotated[int, Field(ge=-64, le=64)]


LARGEST_PER_MILLE = 100
"""How far curvature may be from the second moment of its activations, in thousandths of the largest norm it is encoded
with, unless a manifest says otherwise; ``docs/security.md`` has what honest encoding needs."""


class CurvatureCheck(Part):
    """What a device must prove about its curvature when it enrols.

    See :mod:`zkapex.proofs.chunk.second_moment`, and for transparent :mod:`zkapex.proofs.layer.moment`.
    """

    statement: StatementSpec
    """Its ``rows_per_chunk`` is how many activations of a column block are committed to."""
    circuit_digest: Digest
    """SHA-256 of the verification key file; for transparent, of the parameters of all layers."""
    settings_digest: Annotated[Digest | None, Field(exclude_if=is_none)] = None
    """SHA-256 of the circuit's settings file; none for transparent."""
    largest_per_mille: Annotated[int, Field(ge=1, le=1000)]
    """How far from the second moment of its activations a curvature may be, in thousandths of ``2**curvature_bits``."""


class ModelManifest(Record):
    """What is proved about which model: target layers, fixed point, geometry, and the circuit by digest."""

    kind: ClassVar[str] = "manifest"
    max_bytes: ClassVar[int] = 2**21

    format: Literal["zkapex.manifest.v1"] = "zkapex.manifest.v1"
    model: Name
    profile: Name
    statement: StatementSpec
    """The circuit: chunk shape, guard rank, range of weights, and how it is laid out."""
    curvature_bits: Annotated[int, Field(ge=1, le=24)]
    """log2 of the largest Frobenius norm of every encoded curvature matrix."""
    layers: Annotated[tuple[LayerSpec, ...], Field(min_length=1, max_length=MAX_LAYERS)]
    circuit_digest: Digest
    """SHA-256 of the verification key file; for transparent, of the layouts and parameters of all layers."""
    settings_digest: Annotated[Digest | None, Field(exclude_if=is_none)] = None
    """SHA-256 of the circuit's settings file."""
    srs_digest: Annotated[Digest | None, Field(exclude_if=is_none)] = None
    srs_origin: Annotated[Literal["local", "imported"] | None, Field(exclude_if=is_none)] = None
    """``local``: made by the verifier, which convinces nobody else. ``imported``: from elsewhere, pinned by digest.
    None of the three for a backend that needs no reference string."""
    curvature_check: CurvatureCheck | None = None
    """If there is one, every enrolment must come with the proofs it asks for."""
    backend: Annotated[Literal["halo2", "transparent"], Field(exclude_if=is_halo2)] = "halo2"
    """What proves it (`zkapex.proofs.backends`), and with that what is proved at once: a chunk, or for transparent a
    layer. Messages call either a chunk, and number it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise ValueError("layer names repeat")
        if self.statement.kind == "second-moment":
            raise ValueError("second-moment says nothing about weights; no operator is proved by it")
        if self.curvature_check is not None:
            theirs = self.curvature_check.statement
            if theirs.kind != "second-moment" or self.statement.curvature != "kfac":
                raise ValueError("a curvature check is a second-moment statement about kfac curvature")
            shared = ("block_width", "curvature_rank", "weight_limit", "log2_rows")
            if any(getattr(theirs, name) != getattr(self.statement, name) for name in shared):
                raise ValueError("the curvature check commits to other factors than the manifest's statement")
        setup = (self.settings_digest, self.srs_digest, self.srs_origin)
        if self.backend == "halo2" and None in setup:
            raise ValueError("a manifest of halo2 names its settings and its reference string")
        if self.backend != "halo2" and any(setup):
            raise ValueError(f"{self.backend} has no reference string or settings file")
        if self.curvature_check is not None and (self.curvature_check.settings_digest is None) != self.by_layer:
            raise ValueError("a curvature check names its settings file if it is halo2's, and none otherwise")
        if self.n_chunks > MAX_CHUNKS:
            raise ValueError(f"the model has {self.n_chunks} chunks, at most {MAX_CHUNKS} are supported")
        return self

    @property
    def block_width(self) -> int:
        """Columns B of a chunk."""
        return self.statement.block_width

    @property
    def rows_per_chunk(self) -> int:
        """Rows R of a chunk."""
        return self.statement.rows_per_chunk

    @property
    def guard_rank(self) -> int:
        """Columns r of a guard."""
        return self.statement.guard_rank

    @property
    def weight_limit(self) -> int:
        """Largest integer weight."""
        return self.statement.weight_limit

    def blocks(self, layer: LayerSpec) -> int:
        """Count the column blocks of a layer."""
        return -(-layer.cols // self.block_width)

    def bands(self, layer: LayerSpec) -> int:
        """Count the bands of rows of a layer."""
        return -(-layer.rows // self.rows_per_chunk)

    @property
    def by_layer(self) -> bool:
        """Whether a layer is committed to and proved as a whole: its chunk is all of it."""
        return self.backend == "transparent"

    def unit_shape(self, layer: LayerSpec) -> tuple[int, int]:
        """Rows and columns of a chunk of this layer, of what is committed to and proved at once."""
        return (layer.rows, layer.cols) if self.by_layer else (self.rows_per_chunk, self.block_width)

    @property
    def n_chunks(self) -> int:
        """Number of chunks of the model, and of theta commitments in an enrolment."""
        if self.by_layer:
            return len(self.layers)
        return sum(self.blocks(layer) * self.bands(layer) for layer in self.layers)

    @property
    def n_curvatures(self) -> int:
        """Number of curvature factors, and of commitments to them in an enrolment.

        One per (layer, column block) for kfac, one per chunk for block-fisher, none if the statement needs none, or if
        one commitment is to weights and curvature.
        """
        if self.by_layer:
            return 0
        blocks = sum(self.blocks(layer) for layer in self.layers)
        return {"kfac": blocks, "block-fisher": self.n_chunks, "none": 0}[self.statement.curvature]
