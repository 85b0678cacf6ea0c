"""All receipts of a folder, as one chain for every client: nothing between them can have brought anything back.

Each receipt is verified by itself (`zkapex.proofs.verify`). Between them, in the order in which requests were made:

* under one enrolment, a request starts from the commitments that the one proved before has left;
* a new enrolment continues the one before by proof: it holds the same weights, or every zero and target that was
  proved before (`zkapex.proofs.chunk.continuation`); those that no receipt rests on are in ``enrolments/<client>/`` of
  the folder;
* every request asks again, in each chunk it touches, for what earlier ones that were proved have asked for there.

Chunks a request does not touch keep their commitments. So a weight that one receipt shows to be zero is zero in all
that follow, and what one shows along a direction stays; where an audit was sampled, with the probability that receipt
states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.errors import CommitmentError, Error, InputError, ReceiptError
from zkapex.proofs.backends.interface import Before, Engine
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import Enrolment, ModelManifest
from zkapex.proofs.receipts.bundle import Bundle, receipts_in
from zkapex.proofs.records.sealed import Sealed, unseal_enrolment
from zkapex.proofs.records.signing import MAX_ENVELOPE_BYTES
from zkapex.proofs.verify import Policy, Verified, engine_of, verify_receipt

ENROLMENTS, RECEIPTS = "enrolments", "receipts"
OnReceipt = Callable[[int, int], None]
"""Called with (verified, total) after each receipt."""


@dataclass(frozen=True)
class ClientChain:
    """The receipts of one client, in order, that passed every check.

    Attributes
    ----------
    client_id : str
    receipts : tuple of Verified
    revisions : int
        Enrolments they rest on.
    masked : int
        Weights that they show to be zero, all together.
    along : int
        Targets that they show to be met: of rows, along directions.
    """

    client_id: str
    receipts: tuple[Verified, ...]
    revisions: int
    masked: int
    along: int = 0


def find_receipts(directory: Path) -> tuple[Path, ...]:
    """The folders of all receipts below a folder; of a federation's work folder, below its ``receipts``.

    Nothing else in a work folder is evidence: a device keeps its receipt as an archive, and what it says beside.

    Raises
    ------
    InputError
        There is none.
    """
    found = tuple(receipts_in(_evidence(directory), "**"))
    if not found:
        raise InputError(
            f"there are no receipts in {directory}", fix="name the folder that holds them, such as receipts/"
        )
    return found


def verify_chain(
    directory: Path,
    policy: Policy | Collection[Ed25519PublicKey] | None = None,
    on_receipt: OnReceipt = lambda done, total: None,
    workers: int | None = None,
) -> tuple[ClientChain, ...]:
    """Verify all receipts below a folder, and that those of each client make a chain; return only if they do.

    Parameters
    ----------
    policy, workers
        As for `zkapex.proofs.verify.verify_receipt`.
    on_receipt : callable
        Called with (verified, total) after each receipt.

    Raises
    ------
    VerificationError
        Or one of its subclasses, naming the first thing that is wrong.
    InputError
        There are no receipts, or a reference string is missing.
    """
    paths = find_receipts(directory)
    by_client: dict[str, list[tuple[Path, Verified]]] = defaultdict(list)
    for done, path in enumerate(paths, 1):
        try:
            verified = verify_receipt(path, policy, workers=workers)
        except Error as e:
            raise type(e)(f"{path.relative_to(directory)}: {e.what}", why=e.why, fix=e.fix) from e
        by_client[verified.bundle.receipt.facts.client_id].append((path, verified))
        on_receipt(done, len(paths))
    between = _enrolments(directory)
    chains = []
    for client_id in sorted(by_client):
        receipts = sorted(by_client[client_id], key=lambda one: one[1].bundle.receipt.facts.requested_at)
        chains.append(_Walk(client_id, between.get(client_id, {})).all([verified for _, verified in receipts]))
    return tuple(chains)


class _Walk:
    """One client's chain, walked from its first receipt to its last."""

    def __init__(self, client_id: str, between: Mapping[int, Sealed[Enrolment]]) -> None:
        self._client_id = client_id
        self._between = between
        self._enrolment: Sealed[Enrolment] | None = None
        self._theta: tuple[str, ...] = ()
        self._demands = Demands()
        self._seen: set[str] = set()
        self._revisions = 0

    def all(self, receipts: list[Verified]) -> ClientChain:
        for verified in receipts:
            self._step(verified.bundle)
        masked = sum(int(mask.sum()) for mask in self._demands.zeros.values())
        along = sum(one.targets.size for one in self._demands.along.values())
        return ClientChain(self._client_id, tuple(receipts), self._revisions, masked, along)

    def _step(self, bundle: Bundle) -> None:
        dossier, facts = bundle.dossier, bundle.receipt.facts
        name = f"request {facts.request_id} of client {self._client_id[:16]}"
        if facts.request_id in self._seen:
            raise ReceiptError(f"there are two receipts of {name}")
        self._seen.add(facts.request_id)
        self._follow(bundle, name)
        if dossier.pre != self._theta:
            raise CommitmentError(
                f"{name} starts from other commitments than the receipt before has left", why="the chain is cut"
            )
        if bundle.receipt.outcome.verdict != "proved":
            return
        if why := self._demands.lost(dossier.instance):
            raise ReceiptError(f"{name} allows what an earlier one deleted to come back", why=why)
        self._demands = self._demands.joined(Demands.of(dossier.manifest, [dossier.request.record]))
        self._theta = dossier.post

    def _follow(self, bundle: Bundle, name: str) -> None:
        """Go from the enrolment stood by so far to that of a receipt, by way of those between."""
        target, manifest = bundle.dossier.enrolment, bundle.dossier.manifest
        if self._enrolment is None:
            first = target.record if target.record.revision == 0 else self._between.get(0, target).record
            if first.revision != 0:
                raise ReceiptError(
                    f"{name} rests on revision {target.record.revision} of its client's enrolment, not the first",
                    fix=f"verify the folder that holds all receipts, and {ENROLMENTS}/",
                )
            self._take(target if target.record.revision == 0 else self._between[0])
        engine: Engine | None = None
        while self._enrolment is not None and self._enrolment.digest != target.digest:
            revision = self._enrolment.record.revision
            later = [number for number in self._between if revision < number < target.record.revision]
            step = self._between[min(later)] if later else target
            if step.record.revision <= revision:
                raise ReceiptError(f"{name} rests on an enrolment that was replaced before")
            engine = engine or engine_of(bundle, Policy(srs=manifest.srs_digest))[0]
            self._continue(step, manifest, engine, name)

    def _continue(self, step: Sealed[Enrolment], manifest: ModelManifest, engine: Engine, name: str) -> None:
        before, record = self._enrolment, step.record
        if before is None or record.continuation is None:
            raise ReceiptError(f"{name} rests on an enrolment that continues no other", why="the chain is cut")
        held = record.continuation.held
        holds = self._demands
        try:
            if held is not None:
                holds = Demands.unpacked(manifest, held.mask, held.guards)
            if manifest.by_layer:
                engine.verify_enrolment(record)
            engine.verify_continuation(
                record,
                Before(
                    before.digest,
                    commitment_root(list(enumerate(self._theta))),
                    self._theta,
                    before.record.curvature,
                    holds,
                ),
            )
        except Error as e:
            raise type(e)(f"{name}: revision {record.revision} of its enrolment: {e.what}", why=e.why) from e
        if not self._demands.within(holds):
            raise ReceiptError(
                f"{name}: revision {record.revision} of its enrolment does not hold what was proved before"
            )
        self._take(step)

    def _take(self, enrolment: Sealed[Enrolment]) -> None:
        self._enrolment, self._theta = enrolment, enrolment.record.theta
        self._revisions += 1


def _evidence(directory: Path) -> Path:
    inner = directory / RECEIPTS
    return inner if inner.is_dir() else directory


def _enrolments(directory: Path) -> dict[str, dict[int, Sealed[Enrolment]]]:
    """Enrolments beside the receipts, by client and revision; each is signed by its client."""
    found: dict[str, dict[int, Sealed[Enrolment]]] = defaultdict(dict)
    for path in sorted(_evidence(directory).glob(f"**/{ENROLMENTS}/*/*.json")):
        if path.stat().st_size > MAX_ENVELOPE_BYTES:
            raise ReceiptError(f"{path.relative_to(directory)} is too large")
        try:
            sealed = unseal_enrolment(path.read_bytes())
        except Error as e:
            raise type(e)(f"{path.relative_to(directory)}: {e.what}", why=e.why) from e
        found[sealed.record.client_id][sealed.record.revision] = sealed
    return found
