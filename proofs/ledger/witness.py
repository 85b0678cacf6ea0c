"""A witness: signs that a log has only ever grown, after checking that it has (https://c2sp.org/tlog-witness).

It keeps, of each log it knows, the latest checkpoint it has signed. Run on a machine of somebody else's than the log's,
it keeps whoever owns the log from showing one history to some and another to others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.server
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock

from zkapex.errors import CommitmentError, Error, InputError, LedgerError
from zkapex.proofs.ledger.checkpoint import Checkpoint
from zkapex.proofs.ledger.files import put
from zkapex.proofs.ledger.log import Log, checked_checkpoint
from zkapex.proofs.ledger.note import (
    MAX_NOTE_BYTES,
    WITNESS_KEY,
    Note,
    NoteSignature,
    VerifierKey,
    cosign_note,
    parse_signatures,
)
from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.merkle import verify_consistency
from zkapex.proofs.records.signing import load_or_create_private_key

MAX_BODY_BYTES = MAX_NOTE_BYTES + 8192
MAX_STEPS = 63
_TIMEOUT_S = 15


@dataclass(frozen=True)
class Reply:
    """An HTTP answer: status, body and its type."""

    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"


class Witness:
    """A witness in a folder: its key, the logs it knows, and what it has signed of each.

    Parameters
    ----------
    folder : Path
        Made when missing.
    name : str
        What it signs as.
    logs : sequence of VerifierKey
        Logs it watches.
    clock : callable
        Time in UTC.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        logs: Sequence[VerifierKey],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self.name = name
        self._key: Ed25519PrivateKey = load_or_create_private_key(folder / "key.pem")
        self._logs = {log.name: log for log in logs}
        self._clock = clock
        put(folder / "witness.vkey", f"{self.verifier}\n".encode())

    @property
    def verifier(self) -> VerifierKey:
        """The witness's public key."""
        return VerifierKey.of(self.name, WITNESS_KEY, self._key.public_key())

    def add_checkpoint(self, body: bytes) -> Reply:
        """Answer ``POST add-checkpoint``."""
        try:
            head, _, rest = body.partition(b"\n\n")
            lines = head.decode("ascii").split("\n")
            old = int(lines[0].removeprefix("old "))
            path = tuple(base64.b64decode(line, validate=True) for line in lines[1:])
            if lines[0] != f"old {old}" or old < 0 or len(path) > MAX_STEPS:
                raise ValueError
            note = Note.from_bytes(rest)
            stated = Checkpoint.of(note)
        except (ValueError, binascii.Error, LedgerError):
            return Reply(400, b"malformed\n")
        log = self._logs.get(stated.origin)
        if log is None:
            return Reply(404, b"unknown log\n")
        try:
            new = checked_checkpoint(note, log)
        except LedgerError as error:
            return Reply(403, f"{error.what}\n".encode())
        if old > new.size:
            return Reply(400, b"the old size is larger than the new one\n")
        kept = self._folder / "logs" / hashlib.sha256(stated.origin.encode()).hexdigest()
        kept.parent.mkdir(parents=True, exist_ok=True)
        # From reading what was signed to having written what is signed now, nobody else may.
        with FileLock(f"{kept}.lock"):
            before = Checkpoint.of(Note.from_bytes(kept.read_bytes())) if kept.exists() else None
            if old != (before.size if before else 0):
                return Reply(409, f"{before.size if before else 0}\n".encode(), "text/x.tlog.size")
            try:
                if before is None:
                    if path:
                        raise LedgerError("the proof of consistency with nothing must be empty")
                else:
                    verify_consistency(before.size, before.root, new.size, new.root, path)
            except (CommitmentError, LedgerError) as error:
                return Reply(422, f"{error.what}\n".encode())
            signature = cosign_note(note.text, self.name, self._key, self._clock())
            put(kept, note.to_bytes())
        return Reply(200, signature.line().encode())


def serve(witness: Witness, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """A server for a witness; call its ``serve_forever``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
                self._answer(Reply(400, b"a body of a stated and reasonable length is needed\n"))
            elif not self.path.endswith("/add-checkpoint"):
                self._answer(Reply(404, b"only add-checkpoint is answered\n"))
            else:
                try:
                    reply = witness.add_checkpoint(self.rfile.read(int(length)))
                except Error as error:
                    reply = Reply(500, f"{error.what}\n".encode())
                self._answer(reply)

        def _answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return http.server.ThreadingHTTPServer((host, port), Handler)


def ask_witnesses(
    policy: LogPolicy, failed: Callable[[str, str], None] = lambda name, why: None
) -> Callable[[Note, Log], list[NoteSignature]]:
    """What asks the witnesses of a policy for their signatures on a checkpoint.

    Parameters
    ----------
    policy : LogPolicy
        Its witnesses that have a URL are asked, each in a thread of its own.
    failed : callable
        Told the name of a witness that did not sign, and why.
    """

    def ask(note: Note, log: Log) -> list[NoteSignature]:
        found: list[NoteSignature] = []
        problems: list[tuple[str, str]] = []

        def one(name: str) -> None:
            try:
                found.extend(_ask(note, log, policy.urls[name], policy.witnesses[name]))
            except (Error, OSError, ValueError) as error:
                problems.append((name, error.what if isinstance(error, Error) else str(error)))

        threads = [threading.Thread(target=one, args=(name,)) for name in policy.witnesses if name in policy.urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, why in problems:
            failed(name, why)
        return found

    return ask


def _ask(note: Note, log: Log, url: str, witness: VerifierKey) -> list[NoteSignature]:
    """Ask one witness; twice if it has seen another state than the beginning."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url} is no address of a witness", fix="it begins with https:// or http://")
    signed = Note(note.text, note.signatures[:1])
    old = 0
    for _ in range(2):
        path = log.consistency(old)
        lines = [f"old {old}", *(base64.b64encode(step).decode() for step in path)]
        body = ("\n".join(lines) + "\n\n").encode() + signed.to_bytes()
        request = urllib.request.Request(f"{url.rstrip('/')}/add-checkpoint", body, method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310 (scheme checked above)
                lines_of = parse_signatures(reply.read(MAX_NOTE_BYTES).decode("utf-8"))
        except urllib.error.HTTPError as error:
            answer = error.read(MAX_NOTE_BYTES).decode("utf-8", "replace").strip()
            if error.code == 409 and answer.isdecimal() and int(answer) != old:
                old = int(answer)
                if old > Checkpoint.of(note).size:
                    raise LedgerError(f"{witness.name} has signed a longer log than this: it was cut short") from None
                continue
            raise LedgerError(f"{witness.name} does not sign the checkpoint", why=f"{error.code} {answer}") from None
        mine = [s for s in lines_of if (s.name, s.key_id) == (witness.name, witness.key_id)]
        Note(note.text, tuple(mine)).verify(witness)
        return mine
    raise LedgerError(f"{witness.name} does not say what it has seen")
