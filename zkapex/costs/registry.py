"""What the registry's bookkeeping of an accepted proof costs here, by the number of chunks of the model.

The registry, the protocol's rules, signatures and messages are the real ones. Commitments and proofs are random bytes:
what the protocol looks at of them is digests.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zkapex.circuits.profiles import named_statement
from zkapex.errors import InputError
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    Audit,
    ChunkCommitment,
    Enrolment,
    LayerSpec,
    ModelManifest,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.records.packing import pack_guards, pack_masks
from zkapex.proofs.records.sealed import seal
from zkapex.proofs.records.signing import key_id, public_key_hex
from zkapex.server.protocol.states import Distributed, Drawn, Enrolled, Opened, ProofsAccepted, Responded
from zkapex.server.store.registry import Registry, utc_now

CHUNKS = (1024, 4096, 12288)
"""Models of so many chunks; 12,288 are a ViT-B/16 under the profile `server`."""

_PROOF_BYTES = 4400
_CHUNKS_PER_LAYER = 1024


class Figures(TypedDict):
    """What was measured."""

    proofs: int
    """Accepted for each number of chunks."""
    ms_per_accepted_proof: dict[str, dict[str, float]]
    """Mean milliseconds, by kind of database and number of chunks."""


@dataclass(frozen=True)
class Walk:
    """A request in a registry whose chunks are all drawn, to be proved one after the other."""

    registry: Registry
    client_id: str
    request_id: str
    n_chunks: int

    def accept(self, chunks: Sequence[int]) -> float:
        """Accept a random proof of each chunk; returns the seconds of it."""
        proofs = [secrets.token_bytes(_PROOF_BYTES) for _ in chunks]
        start = time.perf_counter()
        for chunk, proof in zip(chunks, proofs, strict=True):
            self.registry.apply(ProofsAccepted(self.client_id, self.request_id, {chunk: proof}))
        return time.perf_counter() - start


def bench_registry(
    proofs: int = 200,
    database: str | None = None,
    chunks: Sequence[int] | None = None,
) -> Figures:
    """Measure the wall time of accepting a proof, in an SQLite file and in `database` if one is named.

    Parameters
    ----------
    proofs : int
        How many are accepted for each number of chunks. Models take turns, so that what else the machine does
        meanwhile hits all of them alike.
    database : str, optional
        URL of a PostgreSQL database that is empty or that this ran in before; clients of random names stay in it.
    chunks : sequence of int, optional
        Sizes of models; by default :data:`CHUNKS`.

    Returns
    -------
    Figures

    Raises
    ------
    InputError
        More proofs are asked for than the smallest model has chunks; or the database is no registry's.
    StorageError
        A database cannot be used.
    """
    chunks = CHUNKS if chunks is None else chunks
    if not 1 <= proofs <= min(chunks):
        raise InputError(f"{proofs} proofs cannot be accepted", fix=f"ask for 1 to {min(chunks)}")
    measured: dict[str, dict[str, float]] = {}
    with TemporaryDirectory(prefix="zkapex-bench-") as folder:
        places: dict[str, Path | str] = {"sqlite": Path(folder) / "registry.sqlite"}
        if database is not None:
            places["postgresql"] = database
        for kind, place in places.items():
            measured[kind] = _measure(place, proofs, chunks)
    return {"proofs": proofs, "ms_per_accepted_proof": measured}


def _measure(place: Path | str, proofs: int, sizes: Sequence[int]) -> dict[str, float]:
    with Registry(place, "benchmark") as registry:
        walks = [_begin(registry, size) for size in sizes]
        spent = dict.fromkeys(sizes, 0.0)
        for chunk in range(proofs):
            for walk in walks:
                spent[walk.n_chunks] += walk.accept([chunk])
        return {str(size): spent[size] / proofs * 1e3 for size in sizes}


def _begin(registry: Registry, n_chunks: int) -> Walk:
    """Enrol a client and bring its request, which touches every chunk, to where proofs are taken."""
    statement = named_statement("server", "guarded-group-obs", "kfac", 0)
    layers = tuple(
        LayerSpec(
            name=f"layer{first}",
            rows=min(_CHUNKS_PER_LAYER, n_chunks - first) * statement.rows_per_chunk,
            cols=statement.block_width,
            exponent=8,
        )
        for first in range(0, n_chunks, _CHUNKS_PER_LAYER)
    )
    manifest = ModelManifest(
        model="benchmark",
        profile="server",
        statement=statement,
        curvature_bits=10,
        layers=layers,
        circuit_digest=secrets.token_hex(32),
        settings_digest=secrets.token_hex(32),
        srs_digest=secrets.token_hex(32),
        srs_origin="local",
    )
    device, provider = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    client_id, request_id = key_id(device.public_key()), "bench"
    theta = [secrets.token_hex(64) for _ in range(n_chunks)]
    enrolment = Enrolment(
        federation=registry.federation,
        client_id=client_id,
        public_key=public_key_hex(device.public_key()),
        manifest_digest=registry.add_manifest(manifest),
        nonce=registry.invite(),
        revision=0,
        damping=0.01,
        theta=tuple(theta),
        curvature=tuple(secrets.token_hex(64) for _ in range(manifest.n_curvatures)),
    )
    enrolled = seal(enrolment, device)
    registry.apply(Enrolled(enrolled))
    masks = {layer.name: np.zeros((layer.rows, layer.cols), np.bool_) for layer in layers}
    rng = np.random.default_rng()  # another mask each time: no earlier one may be older than the curvature
    for mask in masks.values():
        rows = np.arange(0, len(mask), statement.rows_per_chunk)
        mask[rows, rng.integers(0, statement.block_width, len(rows))] = True
    now = utc_now()
    request = UnlearnRequest(
        request_id=request_id,
        client_id=client_id,
        manifest_digest=manifest.digest(),
        nonce=secrets.token_hex(32),
        operator=statement.kind,
        pre_root=commitment_root(list(enumerate(theta))),
        mask=pack_masks(manifest, masks),
        guards=pack_guards(manifest, {}),
        tau_s=1000,
        tau_g=100,
        audit=Audit(),
        forget_digest=secrets.token_hex(32),
        issued_at=now,
        expires_at=now + timedelta(days=7),
        enrolment_digest=enrolled.digest,
    )
    registry.apply(Opened(seal(request, provider)))
    registry.apply(Distributed(client_id, request_id))
    pairs = [(chunk, secrets.token_hex(64)) for chunk in range(n_chunks)]
    response = UnlearnResponse(
        request_id=request_id,
        client_id=client_id,
        nonce=request.nonce,
        commitments=tuple(ChunkCommitment(chunk=chunk, theta=point) for chunk, point in pairs),
        root=commitment_root(pairs),
    )
    registry.apply(Responded(seal(response, device)))
    registry.apply(Drawn(client_id, request_id))
    return Walk(registry, client_id, request_id, n_chunks)
