"""Who may use the console: operators by token, or by a header that a reverse proxy sets, each with one role.

Tokens are in a TOML file, as digests only, so that reading the file lets nobody in::

    [[operator]]
    name = "ada"
    role = "operator"              # or "auditor", "data-protection-officer"
    token_sha256 = "…"             # of the token that `zkapex server console-token` printed once
"""

from __future__ import annotations

import hmac
import os
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import tomli_w

from zkapex.errors import InputError, StorageError
from zkapex.proofs.records.record import sha256_hex


class Role(StrEnum):
    """What somebody may do."""

    OPERATOR = "operator"
    """Everything."""
    AUDITOR = "auditor"
    """See everything, verify receipts; change nothing."""
    OFFICER = "data-protection-officer"
    """See requests and receipts, and sign reports; neither the audit trail nor anything that changes a client."""


class Right(StrEnum):
    """What a page or a button needs."""

    SEE = "see"
    INSPECT = "inspect"
    REPORT = "report"
    CHANGE = "change"


RIGHTS = {
    Role.OPERATOR: frozenset(Right),
    Role.AUDITOR: frozenset({Right.SEE, Right.INSPECT}),
    Role.OFFICER: frozenset({Right.SEE, Right.REPORT}),
}


@dataclass(frozen=True)
class Operator:
    """Somebody who is signed in."""

    name: str
    role: Role

    def may(self, right: Right | str) -> bool:
        """Whether the role includes a right."""
        return Right(right) in RIGHTS[self.role]


@dataclass(frozen=True)
class Access:
    """Whom the console lets in.

    Attributes
    ----------
    tokens : sequence of (str, Operator)
        SHA-256 of each token, hex, and whose it is.
    header : str
        Name of a header that a reverse proxy sets to an operator's name; empty: none is believed.
    proxies : frozenset of str
        Addresses that may set it.
    """

    tokens: Sequence[tuple[str, Operator]]
    header: str = ""
    proxies: frozenset[str] = frozenset()

    def by_token(self, token: str) -> Operator | None:
        """The operator whose token this is; every stored digest is compared, in constant time each."""
        digest, found = sha256_hex(token.encode()), None
        for stored, operator in self.tokens:
            if hmac.compare_digest(stored, digest):
                found = operator
        return found

    def by_name(self, name: str) -> Operator | None:
        """The operator of a name."""
        return next((operator for _, operator in self.tokens if operator.name == name), None)

    def by_header(self, value: str | None, peer: str) -> Operator | None:
        """The operator whom a reverse proxy names, if that proxy is believed."""
        return self.by_name(value) if value and self.header and peer in self.proxies else None


def load_access(path: Path, header: str = "", proxies: Sequence[str] = ()) -> Access:
    """Read the file of tokens.

    Raises
    ------
    InputError
        It is missing, malformed, or readable by other users.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise InputError(f"{path} can be read by other users", fix=f"chmod 600 {path}")
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("operator", [])
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} holds no operators of the console",
            why=str(error),
            fix="make one with zkapex server console-token DIR NAME --role ROLE",
        ) from error
    tokens = []
    for number, entry in enumerate(entries):
        try:
            name, digest = str(entry["name"]), str(entry["token_sha256"])
            tokens.append((digest, Operator(name, Role(entry["role"]))))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"operator {number} in {path} is malformed",
                why=f"{error}",
                fix="give name, role (operator, auditor or data-protection-officer) and token_sha256",
            ) from error
    names = [operator.name for _, operator in tokens]
    if len(set(names)) != len(names):
        raise InputError(f"{path} names an operator twice", fix="give each a name of their own")
    return Access(tuple(tokens), header, frozenset(proxies))


def add_operator(path: Path, name: str, role: Role) -> str:
    """Add somebody to the file of tokens, in place of an entry of the same name; returns the token, kept nowhere.

    Raises
    ------
    InputError
        The file is malformed, or the name is empty.
    StorageError
        It cannot be written.
    """
    if not name.strip():
        raise InputError("an operator has no name", fix="name one: it stands in the audit trail")
    known = load_access(path).tokens if path.exists() else ()
    token = secrets.token_urlsafe(32)
    entries = [(digest, operator) for digest, operator in known if operator.name != name]
    entries.append((sha256_hex(token.encode()), Operator(name, role)))
    rows = [{"name": o.name, "role": str(o.role), "token_sha256": digest} for digest, o in entries]
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as f:
            f.write(tomli_w.dumps({"operator": rows}))
            f.flush()
            os.fsync(f.fileno())
        partial.rename(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}", why=str(error), fix="free disk space, or mend permissions"
        ) from error
    return token
