"""The records clients and server exchange, and their bounds.

Chunks are numbered by the manifest: layers in its order, within a layer the column blocks from left to right, within a
block the bands of rows from top to bottom. Curvature commitments are numbered likewise without the bands. With a
backend that proves layers as a whole, a layer is one chunk.
"""

from __future__ import annotations

from zkapex.proofs.messages.bounds import (
    MAX_BATCH,
    MAX_CHUNKS,
    Chunk,
    Fraction,
    Tolerance,
)
from zkapex.proofs.messages.deletion import (
    Audit,
    ChunkCommitment,
    ChunkProof,
    Delivery,
    ProveRequest,
    ProveResponse,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.messages.enrolment import (
    Continuation,
    CurvatureProof,
    Demand,
    Enrolment,
    EnrolRequest,
    Equality,
    Held,
    HeldProof,
    MomentClaim,
    PersonaliseReply,
    PersonaliseRequest,
    SameStates,
)
from zkapex.proofs.messages.evaluation import EvaluateReply, EvaluateRequest, Score, TuneReply, TuneRequest
from zkapex.proofs.messages.manifest import LARGEST_PER_MILLE, CurvatureCheck, LayerSpec, ModelManifest
from zkapex.proofs.messages.terms import Claims, GuardBlock, LayerMask, Proposal, ProposeRequest

__all__ = [
    "LARGEST_PER_MILLE",
    "MAX_BATCH",
    "MAX_CHUNKS",
    "Audit",
    "Chunk",
    "ChunkCommitment",
    "ChunkProof",
    "Claims",
    "Continuation",
    "CurvatureCheck",
    "CurvatureProof",
    "Delivery",
    "Demand",
    "EnrolRequest",
    "Enrolment",
    "Equality",
    "EvaluateReply",
    "EvaluateRequest",
    "Fraction",
    "GuardBlock",
    "Held",
    "HeldProof",
    "LayerMask",
    "LayerSpec",
    "ModelManifest",
    "MomentClaim",
    "PersonaliseReply",
    "PersonaliseRequest",
    "Proposal",
    "ProposeRequest",
    "ProveRequest",
    "ProveResponse",
    "SameStates",
    "Score",
    "Tolerance",
    "TuneReply",
    "TuneRequest",
    "UnlearnRequest",
    "UnlearnResponse",
]
