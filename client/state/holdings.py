"""The weights and curvature a device has committed to, and the change a request makes to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zkapex.circuits.field import random_elements
from zkapex.circuits.statement import SALTS
from zkapex.client.state.vault import Salts, Vault
from zkapex.proofs.chunk.instance import Place, cut, place
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.chunk.witness import SaltedVector, Witness
from zkapex.proofs.messages import LayerSpec, ModelManifest
from zkapex.unlearning.curvature.factor import EncodedCurvature

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit

SECRETS, SALTS_FILE = "secrets.npz", "salts.json"


@dataclass(frozen=True)
class Holdings:
    """Committed values: integer weights and curvature factors per layer, and the salts of every vector.

    Attributes
    ----------
    manifest : ModelManifest
    weights : mapping of str to int64 [rows, cols]
    curvature : mapping of str to int64 [blocks, q, B], or [blocks, rows, q, B] with one per row
        Factors F of the curvature; empty if the statement needs none.
    salts : mapping
        ``theta/<chunk>`` and ``curvature/<number>`` to field elements.
    """

    manifest: ModelManifest
    weights: Mapping[str, IntArray]
    curvature: Mapping[str, IntArray]
    salts: Salts

    @classmethod
    def create(
        cls, manifest: ModelManifest, weights: Mapping[str, IntArray], curvature: Mapping[str, IntArray]
    ) -> Holdings:
        """Holdings with fresh salts."""
        salts = {f"theta/{chunk}": random_elements(SALTS) for chunk in range(manifest.n_chunks)}
        if manifest.n_curvatures:
            each = manifest.statement.parts("factor")["salts"]
            salts |= {f"curvature/{n}": random_elements(each) for n in range(manifest.n_curvatures)}
        return cls(manifest, weights, curvature, salts)

    @classmethod
    def load(cls, manifest: ModelManifest, vault: Vault) -> Holdings:
        """Raise StorageError if the vault's files are missing or damaged."""
        arrays = vault.get_arrays(SECRETS)
        named = {kind: _sub(arrays, f"{kind}/") for kind in ("weights", "curvature")}
        return cls(manifest, named["weights"], named["curvature"], vault.get_salts(SALTS_FILE))

    def save(self, vault: Vault) -> None:
        """Write them; salts first, since a commitment without its salts cannot be opened again."""
        arrays = {f"weights/{k}": v for k, v in self.weights.items()}
        arrays |= {f"curvature/{k}": v for k, v in self.curvature.items()}
        vault.put_salts(SALTS_FILE, self.salts)
        vault.put_arrays(SECRETS, arrays)

    def theta(self, chunk: int) -> SaltedVector:
        """The committed weights of one chunk, int64 [R, B] and salts."""
        where = place(self.manifest, chunk)
        return SaltedVector(_cut(self.manifest, where, self.weights[where.layer]), self.salts[f"theta/{chunk}"])

    def factor(self, where: Place) -> SaltedVector | None:
        """The committed curvature factor a chunk uses, int64 [q, B] or [R, q, B] and salts; None if it needs none."""
        if not self.curvature:
            return None
        values = self.curvature[where.layer][where.block]
        if values.ndim == 3:
            height = self.manifest.rows_per_chunk
            band = values[where.band * height : (where.band + 1) * height]
            values = np.pad(band, ((0, height - len(band)), (0, 0), (0, 0)))
        return SaltedVector(np.ascontiguousarray(values), self.salts[f"curvature/{where.curvature}"])

    def matrices(self, layer: LayerSpec) -> list[IntArray]:
        """The curvature ``F^T F + ridge I`` of each column block of a layer, as `EncodedCurvature.matrix`."""
        ridge = self.manifest.statement.ridge
        return [EncodedCurvature(factor, ridge, 0.0).matrix for factor in self.curvature[layer.name]]

    def theta_commitments(self, circuit: Circuit, chunks: Sequence[int]) -> Iterator[tuple[int, str]]:
        """(chunk, commitment as hex) of the given chunks."""
        from zkapex.proofs.chunk.commitment import commit_salted

        points = commit_salted(circuit, (self.theta(chunk) for chunk in chunks))
        for chunk, point in zip(chunks, points, strict=True):
            yield chunk, point.hex()

    def curvature_commitments(self, circuit: Circuit) -> tuple[str, ...]:
        """Commitments (hex) to every curvature factor, in the manifest's order."""
        from zkapex.proofs.chunk.commitment import commit_salted

        places: dict[int, Place] = {}
        for chunk in range(self.manifest.n_chunks):
            where = place(self.manifest, chunk)
            places.setdefault(where.curvature, where)
        if not self.curvature:
            return ()
        factors = (self.factor(places[number]) for number in sorted(places))
        return tuple(point.hex() for point in commit_salted(circuit, (f for f in factors if f is not None)))


@dataclass(frozen=True)
class Change:
    """What a request does to the holdings: new weights, the guard's multipliers, and salts for the touched chunks.

    Attributes
    ----------
    weights : mapping of str to int64 [rows, cols]
        All layers after the change.
    mu : mapping of str to int64 [blocks, rows, r]
        Multipliers, for the layers that change; empty for operators that have none.
    salts : mapping
        ``theta/<chunk>`` for every touched chunk.
    """

    weights: Mapping[str, IntArray]
    mu: Mapping[str, IntArray]
    salts: Salts

    @classmethod
    def create(cls, weights: Mapping[str, IntArray], mu: Mapping[str, IntArray], touched: Sequence[int]) -> Change:
        """A change with fresh salts."""
        return cls(weights, mu, {f"theta/{chunk}": random_elements(SALTS) for chunk in touched})

    @classmethod
    def load(cls, vault: Vault) -> Change:
        """Raise StorageError if the vault's files are missing or damaged."""
        arrays = vault.get_arrays(SECRETS)
        return cls(_sub(arrays, "weights/"), _sub(arrays, "mu/"), vault.get_salts(SALTS_FILE))

    def save(self, vault: Vault) -> None:
        """Write the change."""
        arrays = {f"weights/{k}": v for k, v in self.weights.items()} | {f"mu/{k}": v for k, v in self.mu.items()}
        vault.put_salts(SALTS_FILE, self.salts)
        vault.put_arrays(SECRETS, arrays)

    def apply(self, holdings: Holdings) -> Holdings:
        """The holdings after the change; untouched chunks keep their salts, and so their commitments."""
        return Holdings(holdings.manifest, self.weights, holdings.curvature, {**holdings.salts, **self.salts})

    def witness(self, holdings: Holdings, chunk: int) -> Witness:
        """The witness of one touched chunk."""
        where = place(holdings.manifest, chunk)
        after = self.apply(holdings)
        height = holdings.manifest.rows_per_chunk
        factor = holdings.factor(where)
        mu = self.mu.get(where.layer)
        if mu is not None:
            mu = mu[where.block, where.band * height : (where.band + 1) * height]
            mu = np.pad(mu, ((0, height - len(mu)), (0, holdings.manifest.guard_rank - mu.shape[1])))
        return Witness.build(holdings.theta(chunk), after.theta(chunk), factor, mu)


def _cut(manifest: ModelManifest, where: Place, matrix: IntArray) -> IntArray:
    return np.ascontiguousarray(cut(manifest, where, matrix)).astype(np.int64)


def _sub(arrays: Mapping[str, npt.NDArray[np.generic]], prefix: str) -> dict[str, IntArray]:
    return {k.removeprefix(prefix): v.astype(np.int64) for k, v in arrays.items() if k.startswith(prefix)}
