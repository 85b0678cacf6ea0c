"""The transparent backend: proofs of whole layers from codes and hashes, without a reference string."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from zkapex.circuits.statement import StatementSpec
from zkapex.circuits.transparent.compliance import Compliance
from zkapex.circuits.transparent.merkle import DIGEST
from zkapex.circuits.transparent.prove import verify_change
from zkapex.errors import CommitmentError, ProofError, ReceiptError, SaltsSpentError
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
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.jobs.worker import finished
from zkapex.proofs.layer.job import write_layer_job
from zkapex.proofs.layer.moment import check_digest, claims_from, made_digest, moment_distance
from zkapex.proofs.layer.process import prove_layers
from zkapex.proofs.layer.state import (
    prove_held_state,
    prove_same,
    prove_state,
    require_every_layer,
    roots,
    verify_continued,
    verify_state,
)
from zkapex.proofs.layer.terms import change_context, parameters_digest, terms_of
from zkapex.proofs.messages import (
    LARGEST_PER_MILLE,
    Continuation,
    CurvatureCheck,
    Demand,
    Enrolment,
    Held,
    HeldProof,
    LayerSpec,
    ModelManifest,
    SameStates,
)
from zkapex.proofs.records.record import encode_parts


class LayerVerifier:
    """Checks the proofs of one request against the states before and after.

    The states before have to be states: by the enrolment's proofs, and those of every request since.

    Parameters
    ----------
    instance : Instance
    pre, post : sequence of str
        Roots of all layers (hex) before and after.
    """

    def __init__(self, instance: Instance, pre: Sequence[str], post: Sequence[str]) -> None:
        self._instance, self._pre, self._post = instance, tuple(pre), tuple(post)

    def verify(self, chunk: int, proof: bytes) -> float:
        """Return only if `proof` proves the layer; the CPU seconds that took.

        Raises
        ------
        CommitmentError, ProofError
            Otherwise.
        InputError
            The request asks for what cannot be proved.
        """
        start = time.thread_time()  # other threads of the process may prove meanwhile
        terms = terms_of(self._instance, chunk)
        before, after = bytes.fromhex(self._pre[chunk]), bytes.fromhex(self._post[chunk])
        try:
            verify_change(terms, before, after, change_context(self._instance, chunk), proof)
        except ProofError as e:
            rejected = self._instance.manifest.statement.statement.rejected
            raise ProofError(rejected, why=f"{e.what}: {e.why}" if e.why else e.what) from e
        return time.thread_time() - start


class TransparentEngine(Engine):
    """See `Engine`."""

    def __init__(self, manifest: ModelManifest) -> None:
        self.manifest = manifest

    def commit(self, secrets: Secrets, units: Sequence[int]) -> Iterator[tuple[int, str]]:
        """See `Engine`."""
        return roots(secrets, units)

    def prove_states(
        self,
        secrets: Secrets,
        theta: Sequence[str],
        client_id: str,
        nonce: str,
        openings: Openings,
        made: Sequence[Made] = (),
    ) -> Fields:
        """See `Engine`; a proof about each layer's state shows what its curvature was made of, too."""
        proofs = []
        for unit in range(self.manifest.n_chunks):
            whole = _statement("state", client_id, nonce, theta[unit], *made_digest(self.manifest, made, unit))
            openings.spend(_vector(secrets, unit), whole)
            proofs.append(prove_state(secrets, unit, client_id, nonce, made))
        claims = {} if self.manifest.curvature_check is None else {"moments": claims_from(made)}
        return {"state_proofs": tuple(proofs), **claims}

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
        equal = held = unchanged = None
        units = range(self.manifest.n_chunks)
        both = [] if same is None else [
            {"before": same.secrets.salts[f"theta/{unit}"], "after": secrets.salts[f"theta/{unit}"]} for unit in units
        ]  # fmt: skip
        if same is not None:
            whats = [_statement("same", context, same.theta[unit], theta[unit]) for unit in units]
            try:
                openings.require(both, whats)
            except SaltsSpentError:
                same = None  # zeros where they have to be can be shown of the new states alone
        if same is not None:
            proofs = []
            for unit in units:
                openings.spend(both[unit], whats[unit])
                proofs.append(prove_same(secrets, same.secrets, unit, kept is not None, context))
            equal = SameStates(proofs=tuple(proofs))
            unchanged = None if kept is None else SameStates(proofs=())
        else:
            demands = Demands.unpacked(self.manifest, demand.mask, demand.guards)
            shown = []
            for unit in demands.touched(self.manifest):
                openings.spend(_vector(secrets, unit), _statement("held", context, theta[unit]))
                shown.append(HeldProof(chunk=unit, proof=prove_held_state(secrets, unit, demands, context)))
            held = Held(mask=demand.mask, guards=demand.guards, proofs=tuple(shown))
        return Continuation(previous=demand.previous, root=demand.root, theta=equal, held=held, curvature=unchanged)

    def write_job(self, folder: Path, instance: Instance, secrets: Secrets, change: Changed, unit: int) -> None:
        """See `Engine`."""
        terms, context = terms_of(instance, unit), change_context(instance, unit)
        write_layer_job(folder, terms, secrets, change, unit, context)

    def prove_jobs(self, folders: Sequence[Path], workers: int | None, on_start: OnStart) -> None:
        """See `Engine`; one process does all of them, or several if that is asked for."""
        prove_layers([folder for folder in folders if finished(folder) is None], workers or 1, on_start)

    def opened_by(self, instance: Instance, secrets: Secrets, change: Changed, unit: int) -> tuple[Vectors, bytes]:
        """See `Engine`."""
        name = f"theta/{unit}"
        opened = {f"{name} before": secrets.salts[name], f"{name} after": change.salts[name]}
        if isinstance(terms_of(instance, unit), Compliance):
            del opened[f"{name} before"]
        return opened, _statement("change", change_context(instance, unit).hex())

    def check_commitment(self, text: str) -> None:
        """See `Engine`."""
        if len(text) != 2 * DIGEST:
            raise CommitmentError(f"a root has {len(text)} hex digits, expected {2 * DIGEST}")

    def verify_enrolment(self, enrolment: Enrolment, units: Sequence[int] | None = None) -> float:
        """See `Engine`."""
        start = time.process_time()
        if enrolment.curvature or enrolment.curvature_proofs:
            raise CommitmentError("an enrolment comes with commitments or proofs of another backend")
        require_every_layer(self.manifest, enrolment)
        moment_distance(self.manifest, enrolment)
        for unit in range(self.manifest.n_chunks) if units is None else units:
            verify_state(self.manifest, enrolment, unit)
        return time.process_time() - start

    def verify_continuation(self, enrolment: Enrolment, before: Before) -> None:
        """See `Engine`."""
        verify_continued(self.manifest, enrolment, before)

    def verifier(self, claim: Claim) -> LayerVerifier:
        """See `Engine`."""
        return LayerVerifier(Instance(claim.manifest, claim.request), claim.pre, claim.post)


class Transparent(Backend):
    """See `Backend`."""

    name = "transparent"

    def require_buildable(self, statement: StatementSpec) -> None:
        """See `Backend`: nothing has to be built."""

    def manifest_fields(
        self, statement: StatementSpec, layers: Sequence[LayerSpec], kappa: int, srs: str, check: StatementSpec | None
    ) -> Fields:
        """See `Backend`."""
        shapes = [(layer.rows, layer.cols) for layer in layers]
        found = {"circuit_digest": parameters_digest(statement, shapes, kappa), "backend": self.name}
        if check is None:
            return found
        digest = check_digest(check, statement, shapes, kappa)
        asked = CurvatureCheck(statement=check, circuit_digest=digest, largest_per_mille=LARGEST_PER_MILLE)
        return {**found, "curvature_check": asked}

    def open(self, manifest: ModelManifest, parcel: Mapping[str, bytes]) -> TransparentEngine:
        """See `Backend`."""
        shapes = [(layer.rows, layer.cols) for layer in manifest.layers]
        statement, kappa, check = manifest.statement, manifest.curvature_bits, manifest.curvature_check
        digests = [(parameters_digest(statement, shapes, kappa), manifest.circuit_digest)]
        if check is not None:
            digests.append((check_digest(check.statement, statement, shapes, kappa), check.circuit_digest))
        for ours, theirs in digests:
            if ours != theirs:
                raise ReceiptError(
                    "the manifest's parameters are not those its statement has",
                    why=f"made here: {ours[:16]}..., claimed: {theirs[:16]}...",
                    fix="whoever made it used other parameters or another release; do not accept it",
                )
        return TransparentEngine(manifest)


def _vector(secrets: Secrets, unit: int) -> Vectors:
    return {f"theta/{unit}": secrets.salts[f"theta/{unit}"]}


def _statement(what: str, *parts: str) -> bytes:
    return encode_parts("zkapex:opened:v1", what, *parts)


BACKEND = Transparent()
