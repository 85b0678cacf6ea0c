"""Bounds of what a message may hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_LAYERS = 4096
MAX_CHUNKS = 2**18
MAX_BATCH = 64
MAX_PROOF_BYTES = 2**25
"""Of any backend; each checks what its own come to."""
MAX_CHUNK_PROOF_BYTES = 2**18
"""Of halo2."""
MAX_GUARD_BYTES = 2**20
MAX_STEERING_BYTES = 2**25
MAX_MASK_BYTES = 2**25

Dimension = Annotated[int, Field(ge=1, le=2**20)]
Chunk = Annotated[int, Field(ge=0, lt=MAX_CHUNKS)]
Tolerance = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Bound on a sum of squared integers of the circuit."""
Fraction = Annotated[float, Field(ge=0, le=1)]
