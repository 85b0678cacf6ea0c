"""Whom and what a verifier relies on, and how far it got with that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zkapex.errors import NotPinnedError
from zkapex.proofs.keys.trust import Trust
from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.receipts.bundle import Bundle

if TYPE_CHECKING:
    from zkapex.circuits.halo2.srs import Srs
    from zkapex.proofs.receipts.timestamp import Authorities

OnChunk = Callable[[int, int], None]
"""Called with (verified, total) after each proof."""

DepthName = Literal["signature", "evidence", "proofs", "time", "ledger"]
DEPTHS: tuple[DepthName, ...] = ("signature", "evidence", "proofs", "time", "ledger")


@dataclass(frozen=True)
class Depth:
    """How far one depth of verification got.

    Attributes
    ----------
    name : str
    result : str
        ``reached``, ``not reached`` (nothing was given to check, or to check it by) or ``failed``.
    note : str
        What was found, or is missing.
    """

    name: DepthName
    result: Literal["reached", "not reached", "failed"]
    note: str


@dataclass(frozen=True)
class Policy:
    """Whom and what a verifier relies on.

    Attributes
    ----------
    trust : Trust
        Keys a provider may sign with; without any, what a receipt says of itself is checked and nothing is pinned.
    srs : str or None
        SHA-256 (hex) of the reference string the verifier trusts; a receipt with another one is refused.
    srs_file : Path or None
        Where the reference string is, if it is not in the cache.
    logs : LogPolicy or None
        Logs and witnesses.
    authorities : Authorities or None
        Timestamping authorities.
    clients : frozenset of str or None
        Ids of clients that are known to exist; a receipt about another one is refused.
    now : datetime
        The verifier's clock.
    workers : int
        Processes that verify proofs; 1 is this process.
    statuses : tuple of bytes
        Signed words about receipts, besides those in the receipt's folder.
    """

    trust: Trust = field(default_factory=Trust)
    srs: str | None = None
    srs_file: Path | None = None
    logs: LogPolicy | None = None
    authorities: Authorities | None = None
    clients: frozenset[str] | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    workers: int = 1
    statuses: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Verified:
    """A receipt that passed every check there was something to check it by.

    Attributes
    ----------
    bundle : Bundle
    chunks : int
        Number of zero-knowledge proofs verified.
    cpu_s : float
        CPU seconds the proofs took to verify, those of the enrolment included.
    depths : tuple of Depth
    srs : Srs or None
        The reference string the proofs were verified with; None if there were none.
    """

    bundle: Bundle
    chunks: int
    cpu_s: float
    depths: tuple[Depth, ...] = ()
    srs: Srs | None = None

    def require_pinned(self) -> None:
        """Raise NotPinnedError unless the receipt is signed by a key the verifier had named."""
        if not self.bundle.receipt.pinned:
            raise NotPinnedError(
                "the receipt is consistent, but anybody could have made it up",
                why="no key was named whose signature would mean something",
                fix="get the provider's public key from a source you trust, and name it with --trust",
            )
