"""What a device says of every message: the step, the request it is about, how it ended, and how long it took."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from flwr.app import ConfigRecord, RecordDict

from zkapex.client.app import Agent
from zkapex.errors import Error
from zkapex.host.journal import Journal
from zkapex.proofs.records.envelope import peek

_ID: Final = re.compile(r'"request_id"\s*:\s*"([A-Za-z0-9._-]{1,64})"')
_LOOKED_AT: Final = 2**16
"""So much of a record is looked at for the id; where it stands further back, the line goes without."""


def request_of(content: RecordDict) -> str | None:
    """The id of the request that a message says it is about, not verified; None if it names none.

    Whatever is wrong with a message is found by who carries it out, not here.
    """
    try:
        record, blobs = content["zkapex.record"], content.get("zkapex.blobs")
        texts = [record["body"]] if isinstance(record, ConfigRecord) else []
        if isinstance(blobs, ConfigRecord) and isinstance(blobs.get("envelope"), bytes):
            texts.append(peek(blobs["envelope"]))  # type: ignore[arg-type]
        for text in texts:
            found = _ID.search(text[:_LOOKED_AT].decode("utf-8", "replace")) if isinstance(text, bytes) else None
            if found is not None:
                return found.group(1)
    except (Error, KeyError, TypeError, ValueError):
        pass
    return None


class Journalled:
    """An agent whose answers are written down; errors go on to whoever asked.

    Parameters
    ----------
    inner : Agent
    journal : Journal
    client_id : str
    """

    def __init__(self, inner: Agent, journal: Journal, client_id: str) -> None:
        self._inner, self._journal, self._client_id = inner, journal, client_id

    def train(self, content: RecordDict) -> RecordDict:
        """See `Agent`."""
        with self._noted("train", None):
            return self._inner.train(content)

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        """See `Agent`."""
        with self._noted(query, request_of(content)):
            return self._inner.answer(query, content)

    @contextmanager
    def _noted(self, step: str, request: str | None) -> Iterator[None]:
        start = time.monotonic()
        about: dict[str, Any] = {"step": step, "client": self._client_id, "request": request}
        self._journal.write("step.started", **about)
        try:
            yield
        except Error as error:
            wrong = {"error": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
            self._journal.write("step.failed", **about, **wrong, seconds=_since(start))
            raise
        except Exception as error:
            self._journal.write("step.failed", **about, error=type(error).__name__, what=error, seconds=_since(start))
            raise
        self._journal.write("step.done", **about, seconds=_since(start))


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)
