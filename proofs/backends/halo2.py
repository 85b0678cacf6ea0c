"""The halo2 backend: ezkl's KZG proofs of chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from zkapex.circuits.halo2.srs import find_srs, import_srs, named_srs
from zkapex.circuits.halo2.store import Circuit, circuit, require_buildable
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import CommitmentError, InputError
from zkapex.proofs.backends.interface import (
    Backend,
    Before,
    Changed,
    Earlier,
    Engine,
    Fields,
    Made,
    OnStart,
    Openings,
    Secrets,
    Vectors,
)
from zkapex.proofs.chunk.commitment import Point
from zkapex.proofs.chunk.continuation import Pair, held_circuit, prove_equal, prove_held, verify_continuation
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.chunk.enrolled import curvature_distance, prove_enrolment, verify_enrolment
from zkapex.proofs.chunk.instance import Instance, place
from zkapex.proofs.chunk.second_moment import same_commitments
from zkapex.proofs.chunk.verifier import ChunkVerifier, check_circuit_of, circuit_of
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.jobs.worker import write_job
from zkapex.proofs.messages import (
    LARGEST_PER_MILLE,
    Continuation,
    CurvatureCheck,
    Demand,
    Enrolment,
    LayerSpec,
    ModelManifest,
)


def opened_by(secrets: Secrets, change: Changed, chunk: int) -> dict[str, tuple[int, ...]]:
    """The committed vectors that the proof of one touched chunk opens: weights before and after, and curvature, if any.

    The proof opens their difference rather than the weights before; together with the weights after, that is the same.
    """
    where = place(secrets.manifest, chunk)
    theta, curvature = f"theta/{chunk}", f"curvature/{where.curvature}"
    opened = {f"{theta} before": secrets.salts[theta], f"{theta} after": change.salts[theta]}
    return opened | ({curvature: secrets.salts[curvature]} if secrets.curvature else {})


class Halo2Engine(Engine):
    """See `Engine`.

    Parameters
    ----------
    manifest : ModelManifest
    built : Circuit
        The manifest's.
    proving : bool
        Whether its curvature check is proved, too.
    """

    def __init__(self, manifest: ModelManifest, built: Circuit, *, proving: bool = True) -> None:
        self.manifest = manifest
        self._built = built
        self._proving = proving

    @property
    def circuit(self) -> Circuit:
        """See `Engine`."""
        return self._built

    @cached_property
    def _check(self) -> Circuit | None:
        return check_circuit_of(self.manifest, self._built.srs, proving=self._proving)

    @property
    def check(self) -> Circuit | None:
        """Of the manifest's curvature check, if it has one."""
        return self._check

    def files(self) -> dict[str, bytes]:
        """See `Engine`."""
        return {"settings": self._built.settings.read_bytes(), "verification_key": self._built.vk.read_bytes()}

    def parcel(self) -> dict[str, bytes]:
        """See `Engine`."""
        return {"srs": self._built.srs.path.read_bytes()}

    def commit(self, secrets: Secrets, units: Sequence[int]) -> Iterator[tuple[int, str]]:
        """See `Engine`."""
        return secrets.theta_commitments(self._built, units)

    def commit_curvature(self, secrets: Secrets) -> tuple[str, ...]:
        """See `Engine`."""
        return secrets.curvature_commitments(self._built)

    def prove_states(
        self,
        secrets: Secrets,
        theta: Sequence[str],
        client_id: str,
        nonce: str,
        openings: Openings,
        made: Sequence[Made] = (),
    ) -> Fields:
        """See `Engine`; of every factor in order, some seconds each."""
        if self.check is None:
            return {}
        same_commitments(self.check, self._built)
        return {"curvature_proofs": tuple(prove_enrolment(self.check, secrets, made, client_id, nonce, openings))}

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
        """See `Engine`."""
        built = self._built
        equal = held = unchanged = None
        if same is not None:
            salts = [[source.salts[f"theta/{n}"] for n in range(len(theta))] for source in (same.secrets, secrets)]
            equal = prove_equal(built, Pair("theta_u", same.theta, theta, context), *salts)
        else:
            demands = Demands.unpacked(self.manifest, demand.mask, demand.guards)
            touched = demands.touched(self.manifest)
            for chunk in touched:
                openings.spend({f"theta/{chunk}": secrets.salts[f"theta/{chunk}"]})
            chunks = {chunk: secrets.theta(chunk) for chunk in touched}
            held = prove_held(held_circuit(built, demands), self.manifest, demands, context, chunks)
        if kept is not None:
            salts = [[s.salts[f"curvature/{n}"] for n in range(len(curvature))] for s in (kept.secrets, secrets)]
            unchanged = prove_equal(built, Pair("factor", kept.curvature, curvature, context), *salts)
        return Continuation(previous=demand.previous, root=demand.root, theta=equal, held=held, curvature=unchanged)

    def write_job(self, folder: Path, instance: Instance, secrets: Secrets, change: Changed, unit: int) -> None:
        """See `Engine`."""
        write_job(folder, instance.public(unit), change.witness(secrets, unit))

    def prove_jobs(self, folders: Sequence[Path], workers: int | None, on_start: OnStart) -> None:
        """See `Engine`."""
        from zkapex.proofs.jobs.pool import prove_all

        prove_all(self._built, list(folders), workers, on_start=on_start)

    def opened_by(self, instance: Instance, secrets: Secrets, change: Changed, unit: int) -> tuple[Vectors, bytes]:
        """See `Engine`; proofs are blinded anew each time, so that none opens the same twice."""
        return opened_by(secrets, change, unit), b""

    def check_commitment(self, text: str) -> None:
        """See `Engine`."""
        Point.from_hex(text)

    def verify_enrolment(self, enrolment: Enrolment, units: Sequence[int] | None = None) -> float:
        """See `Engine`; of the curvature, whatever the units."""
        if enrolment.state_proofs or enrolment.moments:
            raise CommitmentError("an enrolment comes with proofs of another backend")
        curvature_distance(self.manifest, enrolment)
        return 0.0 if self.check is None else verify_enrolment(self.check, self.manifest, enrolment)

    def verify_continuation(self, enrolment: Enrolment, before: Before) -> None:
        """See `Engine`."""
        verify_continuation(self._built, self.manifest, enrolment, before)

    def verifier(self, claim: Claim) -> ChunkVerifier:
        """See `Engine`."""
        return claim.verifier(self._built)


class Halo2(Backend):
    """See `Backend`."""

    name = "halo2"

    def require_buildable(self, statement: StatementSpec) -> None:
        """See `Backend`."""
        require_buildable(statement)

    def manifest_fields(
        self, statement: StatementSpec, layers: Sequence[LayerSpec], kappa: int, srs: str, check: StatementSpec | None
    ) -> Fields:
        """See `Backend`."""
        built = circuit(statement, named_srs(srs, statement.log2_rows))
        found = {
            "circuit_digest": built.vk_digest,
            "settings_digest": built.settings_digest,
            "srs_digest": built.srs.digest,
            "srs_origin": "local" if built.srs.origin == "local" else "imported",
        }
        if check is None:
            return found
        of_check = circuit(check, built.srs)
        return {
            **found,
            "curvature_check": CurvatureCheck(
                statement=check,
                circuit_digest=of_check.vk_digest,
                settings_digest=of_check.settings_digest,
                largest_per_mille=LARGEST_PER_MILLE,
            ),
        }

    def open(self, manifest: ModelManifest, parcel: Mapping[str, bytes]) -> Halo2Engine:
        """See `Backend`; with a reference string that is on this machine or in the parcel."""
        if manifest.srs_digest is None or manifest.srs_origin is None:
            raise InputError("the manifest names no reference string")
        srs = find_srs(manifest.srs_digest, manifest.srs_origin)
        if srs is None:
            if "srs" not in parcel:
                raise InputError("the reference string of the circuit is not on this device", fix="enrol it again")
            srs = import_srs(parcel["srs"], manifest.srs_digest, manifest.statement.log2_rows, manifest.srs_origin)
        return Halo2Engine(manifest, circuit_of(manifest, srs))


BACKEND = Halo2()
