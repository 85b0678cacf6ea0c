"""Every error zkapex raises on purpose, and the exit code each one ends the command line with.

An error says *what* happened, *why*, and *what to do* (``fix``). Exit codes are stable: scripts and monitoring may rely
on them. They are grouped by whose fault it is, as documented in ``docs/exit-codes.md``:

* 10-19 the caller's input or environment,
* 20-29 something that was to be verified is not what it claims to be,
* 30-39 a peer or an operator broke the protocol,
* 40-49 the prover could not do its work,
* 50-59 the Flower runtime failed.
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """Base of all zkapex errors.

    Parameters
    ----------
    what : str
        One sentence naming the thing that is wrong.
    why : str
        The cause, as far as it is known.
    fix : str
        What the user can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def explain(self) -> str:
        """The error as text for a person: what, why and what to do, one line each."""
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class InputError(Error):
    """A file, option or value given by the caller is missing, malformed or out of range."""

    exit_code = 10


class FormatVersionError(Error):
    """A file or record carries a format version this release cannot read."""

    exit_code = 11


class StorageError(Error):
    """A file could not be written or read: disk full, no permission, or damaged.

    Parameters
    ----------
    retryable : bool
        The same may go well later, without anything having been repaired: a lock is given back, space is freed, a
        server of databases is up again.
    """

    exit_code = 12

    def __init__(self, what: str, *, why: str = "", fix: str = "", retryable: bool = False) -> None:
        super().__init__(what, why=why, fix=fix)
        self.retryable = retryable


class VerificationError(Error):
    """Something that was to be verified is not what it claims to be. Never raised for anything else."""

    exit_code = 20


class SignatureError(VerificationError):
    """A signature is missing, wrong, or by a key that is not trusted."""

    exit_code = 21


class CommitmentError(VerificationError):
    """A commitment is malformed, not the expected one, or breaks the chain of commitments."""

    exit_code = 22


class ProofError(VerificationError):
    """A zero-knowledge proof is malformed or does not verify against the expected public values."""

    exit_code = 23


class ReceiptError(VerificationError):
    """A receipt contradicts itself, its proofs, or its manifest."""

    exit_code = 24


class NotProvedError(VerificationError):
    """A receipt is genuine, but its verdict is not `proved`."""

    exit_code = 25


class NotPinnedError(VerificationError):
    """A receipt is consistent, but nobody was named whose signature on it would mean something."""

    exit_code = 26


class LedgerError(VerificationError):
    """A log is not what it claims to be, or something is not in it as claimed, or too few witnesses say so."""

    exit_code = 27


class TimestampError(VerificationError):
    """A timestamp is wrong, of something else, or by an authority that is not trusted."""

    exit_code = 28


class StatusError(VerificationError):
    """What was signed was later withdrawn, disputed or superseded by whoever signed it."""

    exit_code = 29


class ProtocolError(Error):
    """A message does not fit the state of the protocol, or its sender is not who it must be."""

    exit_code = 30


class IllegalTransitionError(ProtocolError):
    """A client's or request's state machine was asked for a transition that does not exist."""

    exit_code = 31


class ProverError(Error):
    """The prover failed on an honest input, or the witness does not satisfy the statement."""

    exit_code = 40


class ResourceError(ProverError):
    """Not enough memory or disk to set up or prove."""

    exit_code = 41


class SaltsSpentError(ProverError):
    """Another proof would open a commitment more often than its salts can hide it; the device must enrol again."""

    exit_code = 42
    SENTENCE: ClassVar[str] = "the salts that hide this device's commitments are used up; it must enrol again"
    """What it says: a server hears no more of a client's error, and asks such a client to enrol again."""


class RuntimeFailure(Error):
    """Flower's runtime could not be started, or the run it executed failed."""

    exit_code = 50
