"""Which logs and witnesses somebody relies on, and how many of them (https://c2sp.org/tlog-policy)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from zkapex.errors import InputError, LedgerError
from zkapex.proofs.ledger.checkpoint import Checkpoint
from zkapex.proofs.ledger.note import LOG_KEY, WITNESS_KEY, Note, VerifierKey

MAX_LINES = 1024


@dataclass(frozen=True)
class Group:
    """At least `threshold` of `members`, which are names of witnesses and groups."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class LogPolicy:
    """What a policy file says.

    Attributes
    ----------
    logs : tuple of VerifierKey
        Logs that are accepted.
    witnesses : mapping of str to VerifierKey
        By the name they have in the file.
    groups : mapping of str to Group
    quorum : str
        Name of the witness or group that must have signed, or ``none``.
    urls : mapping of str to str
        Where a witness takes checkpoints, by its name; and where a log is published, by its origin.
    """

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str = "none"
    urls: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> LogPolicy:
        """Read a policy file, or a file with nothing but a log's key in it.

        Raises
        ------
        InputError
            It is missing or malformed; says where.
        """
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the policy {path} could not be read", why=str(error)) from error
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if len(lines) == 1 and len(lines[0].split()) == 1:
            return cls.parse(f"log {lines[0]}\nquorum none\n", str(path))
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str = "the policy") -> LogPolicy:
        """Parse the text of a policy file."""
        parser = _Parser()
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            try:
                if number > MAX_LINES:
                    raise ValueError("it has too many lines")
                parser.take(words)
            except (ValueError, IndexError, InputError) as error:
                why = error.what if isinstance(error, InputError) else str(error) or "malformed"
                raise InputError(f"{name} is wrong in line {number}", why=why) from None
        if parser.quorum is None:
            raise InputError(f"{name} has no quorum line", fix="add `quorum none`, or the name of a witness or group")
        return cls(tuple(parser.logs), parser.witnesses, parser.groups, parser.quorum, parser.urls)

    def check(self, note: Note) -> tuple[VerifierKey, tuple[str, ...], datetime | None]:
        """Check a signed checkpoint: the log it is of, the witnesses that signed it, and when enough of them had.

        Raises
        ------
        LedgerError
            It is not of a log that is accepted, or too few witnesses have signed it, or a signature is wrong.
        """
        origin = Checkpoint.of(note).origin
        logs = [log for log in self.logs if log.name == origin]
        if not logs:
            raise LedgerError(f"the log {origin[:100]!r} is none that is relied on")
        note.verify(logs[0])
        times: dict[str, datetime] = {}
        for name, witness in self.witnesses.items():
            if any((s.name, s.key_id) == (witness.name, witness.key_id) for s in note.signatures):
                when = note.verify(witness)
                if when is not None:
                    times[name] = when
        when = self._reached(self.quorum, times) if self.quorum != "none" else min(times.values(), default=None)
        if self.quorum != "none" and when is None:
            raise LedgerError(
                "too few witnesses have signed the log's checkpoint",
                why=f"{len(times)} of {len(self.witnesses)} did, which is not the quorum {self.quorum!r}",
            )
        return logs[0], tuple(sorted(times)), when

    def _reached(self, name: str, times: Mapping[str, datetime]) -> datetime | None:
        """When a witness or enough of a group had signed; None: not yet."""
        if name in self.witnesses:
            return times.get(name)
        group = self.groups[name]
        reached = sorted(when for member in group.members if (when := self._reached(member, times)) is not None)
        return reached[group.threshold - 1] if len(reached) >= group.threshold else None


class _Parser:
    """Collects the lines of a policy file."""

    def __init__(self) -> None:
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, Group] = {}
        self.urls: dict[str, str] = {}
        self.quorum: str | None = None
        self._used: set[str] = set()

    def take(self, words: list[str]) -> None:
        """Take one line; raises ValueError or InputError if it is wrong."""
        kind, *rest = words
        if kind == "log" and len(rest) in (1, 2):
            key = self._key(rest[0], LOG_KEY)
            self.logs.append(key)
            self.urls |= {key.name: rest[1]} if rest[1:] else {}
        elif kind == "witness" and len(rest) in (2, 3):
            self.witnesses[self._fresh(rest[0])] = self._key(rest[1], WITNESS_KEY)
            self.urls |= {rest[0]: rest[2]} if rest[2:] else {}
        elif kind == "group" and len(rest) >= 3:
            members = tuple(rest[2:])
            if any(member not in self.witnesses and member not in self.groups for member in members):
                raise ValueError("a group names a member that no line before it defines")
            if len(set(members)) != len(members) or self._used & set(members):
                raise ValueError("a witness or group belongs to two groups")
            self._used |= set(members)
            threshold = {"all": len(members), "any": 1}.get(rest[1]) or int(rest[1])
            if not 1 <= threshold <= len(members):
                raise ValueError(f"a group of {len(members)} cannot ask for {threshold}")
            self.groups[self._fresh(rest[0])] = Group(threshold, members)
        elif kind == "quorum" and len(rest) == 1:
            if self.quorum is not None:
                raise ValueError("there are two quorum lines")
            if rest[0] != "none" and rest[0] not in self.witnesses and rest[0] not in self.groups:
                raise ValueError(f"{rest[0]!r} is not defined before it")
            self.quorum = rest[0]
        else:
            raise ValueError(f"{kind!r} is no line of a policy, or has too few or too many words")

    def _fresh(self, name: str) -> str:
        if name == "none" or name in self.witnesses or name in self.groups:
            raise ValueError(f"the name {name!r} is taken")
        return name

    def _key(self, text: str, kind: int) -> VerifierKey:
        key = VerifierKey.parse(text)
        if key.kind != kind:
            raise ValueError("the key is of another type: logs have 1, witnesses 4")
        if any(key.key == other.key for other in (*self.logs, *self.witnesses.values())):
            raise ValueError("the same key is listed twice")
        return key
