"""What a backend offers: committing, proving an enrolment, proving changes, verifying, for one manifest at a time.

A *unit* is what is committed to and proved at once: a chunk for halo2, a layer for transparent. Messages and receipts
number units, and call any of them a chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.messages import Continuation, Demand, Enrolment, LayerSpec, ModelManifest

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit
    from zkapex.proofs.chunk.witness import SaltedVector, Witness
    from zkapex.proofs.jobs.claim import Claim

Vectors = Mapping[str, tuple[int, ...]]
"""Salts by the name of the committed vector they belong to."""
OnStart = Callable[[Path], None]
Fields = Mapping[str, Any]


class Openings(Protocol):
    """Counts openings of committed vectors on a device's disk.

    A statement that is proved again with the same secrets and opens nothing new is named; else it is empty.
    """

    def require(self, proofs: Iterable[Vectors], statements: Iterable[bytes] = ()) -> None:
        """Return only if all these can still be made; counts nothing. Raises SaltsSpentError otherwise."""

    def spend(self, vectors: Vectors, statement: bytes = b"") -> None:
        """Count one proof, before it starts; raises SaltsSpentError if it would be one too many."""


class Secrets(Protocol):
    """Committed values on a device."""

    @property
    def manifest(self) -> ModelManifest:
        """What they are committed to under."""

    @property
    def weights(self) -> Mapping[str, IntArray]:
        """By layer int64 [rows, cols]."""

    @property
    def curvature(self) -> Mapping[str, IntArray]:
        """Factors by layer."""

    @property
    def salts(self) -> Vectors:
        """Field elements by ``theta/<unit>`` and ``curvature/<number>``."""

    def theta(self, chunk: int) -> SaltedVector:
        """The weights of one chunk of halo2's."""

    def theta_commitments(self, circuit: Circuit, chunks: Sequence[int]) -> Iterator[tuple[int, str]]:
        """(chunk, commitment as hex), of halo2's."""

    def curvature_commitments(self, circuit: Circuit) -> tuple[str, ...]:
        """Commitments to factors, of halo2's."""


class Changed(Protocol):
    """What a request did to them."""

    @property
    def weights(self) -> Mapping[str, IntArray]:
        """All layers after it."""

    @property
    def mu(self) -> Mapping[str, IntArray]:
        """Multipliers of the layers that changed."""

    @property
    def salts(self) -> Vectors:
        """``theta/<unit>`` of what was touched."""

    def witness(self, holdings: Any, chunk: int) -> Witness:
        """The witness of one chunk."""


class Made(Protocol):
    """What one column block's curvature was made of, as a device commits to it."""

    @property
    def values(self) -> IntArray:
        """Activations, int64 [n, B]; rows that are not used are zero."""

    @property
    def scale(self) -> int:
        """c, such that their second moment is close to ``c F^T F``."""

    @property
    def per_mille(self) -> int:
        """How close, in thousandths of ``2**curvature_bits``."""


@dataclass(frozen=True)
class Earlier:
    """What a device has enrolled before, as far as it still stands by it.

    Attributes
    ----------
    secrets : Secrets
    theta, curvature : tuple of str
        Their commitments, as hex.
    damping : float
    """

    secrets: Secrets
    theta: tuple[str, ...]
    curvature: tuple[str, ...]
    damping: float


@dataclass(frozen=True)
class Before:
    """What an enrolment continues: the commitments (hex) a client is held to, and what else it has to hold.

    Attributes
    ----------
    enrolment_digest : str
        Of the envelope of the enrolment that is replaced.
    root : str
        Of `theta`.
    theta, curvature : sequence of str
    demands : Demands
        Of every request that was sent to the client.
    """

    enrolment_digest: str
    root: str
    theta: Sequence[str]
    curvature: Sequence[str]
    demands: Demands


class UnitVerifier(Protocol):
    """Checks the proofs of one request."""

    def verify(self, chunk: int, proof: bytes) -> float:
        """Return only if `proof` proves the unit; the CPU seconds that took. Raises VerificationError otherwise."""


class Engine(ABC):
    """A backend at work for one manifest.

    Attributes
    ----------
    manifest : ModelManifest
    """

    manifest: ModelManifest

    @property
    def circuit(self) -> Circuit | None:
        """Of halo2, for worker processes; None for a backend whose proofs are checked in this process."""
        return None

    def files(self) -> dict[str, bytes]:
        """What receipts carry of it: ``settings`` and ``verification_key``, if it has them."""
        return {}

    def parcel(self) -> dict[str, bytes]:
        """What a device needs to do its part, by name."""
        return {}

    # -- on a device --------------------------------------------------------------------------------------------------

    @abstractmethod
    def commit(self, secrets: Secrets, units: Sequence[int]) -> Iterator[tuple[int, str]]:
        """(unit, commitment as hex) of the given units."""

    def commit_curvature(self, secrets: Secrets) -> tuple[str, ...]:
        """Commitments (hex) to curvature factors, `ModelManifest.n_curvatures` of them."""
        return ()

    def prove_states(
        self,
        secrets: Secrets,
        theta: Sequence[str],
        client_id: str,
        nonce: str,
        openings: Openings,
        made: Sequence[Made] = (),
    ) -> Fields:
        """What an enrolment has to show of its curvature, and of each layer's state: fields of the message.

        Parameters
        ----------
        theta : sequence of str
            Commitments of `secrets`.
        client_id, nonce : str
            As in the enrolment.
        made : sequence of Made
            By column block, layer by layer, if the manifest has a curvature check.

        Raises
        ------
        SaltsSpentError, ProverError
            It cannot be shown.
        """
        return {}

    @abstractmethod
    def continuation(
        self,
        secrets: Secrets,
        theta: tuple[str, ...],
        curvature: tuple[str, ...],
        demand: Demand,
        same: Earlier | None,
        kept: Earlier | None,
        context: str,
        openings: Openings,
    ) -> Continuation:
        """The proofs that an enrolment continues what the provider holds the device to.

        Parameters
        ----------
        theta, curvature : tuple of str
            Commitments of `secrets`.
        same, kept : Earlier or None
            The earlier secrets, if weights, or curvature, are still those.
        context : str
            `zkapex.proofs.chunk.earlier.continuation_context`.
        """

    @abstractmethod
    def write_job(self, folder: Path, instance: Instance, secrets: Secrets, change: Changed, unit: int) -> None:
        """Put what proving a unit takes into a folder, private to its owner."""

    @abstractmethod
    def prove_jobs(self, folders: Sequence[Path], workers: int | None, on_start: OnStart) -> None:
        """Leave a proof in every folder; `zkapex.proofs.jobs.worker.finished` reads it.

        Parameters
        ----------
        on_start : callable
            Called with a folder before its proof is begun.
        """

    @abstractmethod
    def opened_by(self, instance: Instance, secrets: Secrets, change: Changed, unit: int) -> tuple[Vectors, bytes]:
        """The committed vectors that the proof of a unit opens, and the statement if proving it again opens no more."""

    # -- who checks ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def check_commitment(self, text: str) -> None:
        """Raise CommitmentError if this is no commitment of this backend."""

    @abstractmethod
    def verify_enrolment(self, enrolment: Enrolment, units: Sequence[int] | None = None) -> float:
        """Return only if an enrolment shows what it has to, of these units' states; the CPU seconds it took."""

    @abstractmethod
    def verify_continuation(self, enrolment: Enrolment, before: Before) -> None:
        """Return only if an enrolment continues what the client was held to, by proof."""

    @abstractmethod
    def verifier(self, claim: Claim) -> UnitVerifier:
        """The verifier of a request's proofs, in this process."""


class Backend(ABC):
    """A proof system."""

    name: ClassVar[str]

    @abstractmethod
    def require_buildable(self, statement: StatementSpec) -> None:
        """Raise StorageError if what proofs take could not be put on disk; better before a training than after it."""

    @abstractmethod
    def manifest_fields(
        self, statement: StatementSpec, layers: Sequence[LayerSpec], kappa: int, srs: str, check: StatementSpec | None
    ) -> Fields:
        """Build what is not there yet; the fields of a manifest that follow from it.

        Parameters
        ----------
        kappa : int
            `ModelManifest.curvature_bits`.
        srs : str
            The reference string somebody names.
        check : StatementSpec, optional
            Of a curvature check.
        """

    @abstractmethod
    def open(self, manifest: ModelManifest, parcel: Mapping[str, bytes]) -> Engine:
        """What proves and checks under a manifest, on a device or a server.

        Raises
        ------
        ReceiptError, InputError
            The manifest is not what this release makes of its statement, or something is missing.
        """
