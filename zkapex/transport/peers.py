"""Asking many nodes at once over Flower's grid, with retries: nothing is redelivered unless we ask again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from zkapex.foreign import one_line
from zkapex.proofs.records.record import Record
from zkapex.transport.wire import unpack

MAX_REPLY_BYTES = 256 * 2**20
ATTEMPTS = 3
_SHORTEST_S, _LONGEST_S, _SHARE = 0.1, 2.0, 0.1
"""Between two looks for answers: a share of how long there have been none. Every look is a request to a SuperLink and
some to its database, and answers to a proof take minutes."""
_SAID = re.compile(r"<class '[\w.]+'>:<['\"](.*?)['\"]?>?$")
"""How Flower wraps what an app said."""
_KIND = re.compile(r"(?:Message: |<')([A-Z][A-Za-z]{1,40}Error): ")
"""How Flower words the error of an app: see `zkapex.client.app.described`."""


@dataclass(frozen=True)
class Trouble:
    """A node that did not answer as it should.

    Attributes
    ----------
    reachable : bool
        True if the node itself reported an error, False if nothing was heard from it.
    reason : str
        For a person, at most 500 characters, one line.
    kind : str
        Class of the error of zkapex that the node reported; empty if it was another one.
    """

    reachable: bool
    reason: str
    kind: str = ""

    @property
    def for_now(self) -> bool:
        """Whether asking again later may help: nothing was heard, or the node lacks space or memory."""
        return not self.reachable or self.kind in ("StorageError", "ResourceError")


Answer = RecordDict | Trouble
R = TypeVar("R", bound=Record)


def opened(answer: RecordDict, record_type: type[R]) -> tuple[R, dict[str, bytes]]:
    """The record and blobs of an answer.

    Raises
    ------
    ProtocolError, FormatVersionError
        As `zkapex.transport.wire.unpack`, with at most `MAX_REPLY_BYTES`.
    """
    return unpack(answer, record_type, MAX_REPLY_BYTES)


class Peers:
    """The nodes of a run.

    Parameters
    ----------
    grid : Grid
    timeout_s : float
        How long to wait for the replies to one message.
    """

    def __init__(self, grid: Grid, timeout_s: float) -> None:
        self._grid = grid
        self._timeout_s = timeout_s

    def nodes(self) -> list[int]:
        """Ids of the nodes that are connected, ascending."""
        return sorted(self._grid.get_node_ids())

    def ask(
        self,
        step: str,
        contents: Mapping[int, RecordDict],
        attempts: int = ATTEMPTS,
        on_answer: Callable[[int, Answer], None] = lambda node, answer: None,
    ) -> dict[int, Answer]:
        """Send every node its message of type ``query.<step>`` and collect the answers; ask those again that fail.

        Steps are idempotent, so a reply that was lost on the way costs only time.

        Parameters
        ----------
        step : str
            Name of the step.
        contents : mapping of int to RecordDict
            Message content by node.
        attempts : int
            How often a node is asked at most.
        on_answer : callable
            Called with every node's final answer as it arrives.
        """
        answers: dict[int, Answer] = {}
        waiting = dict(contents)
        for attempt in range(attempts):
            last = attempt == attempts - 1
            for node, answer in self._exchange(step, waiting):
                if isinstance(answer, RecordDict) or last:
                    answers[node] = answer
                    on_answer(node, answer)
            waiting = {node: content for node, content in waiting.items() if node not in answers}
            if not waiting:
                break
        return answers

    def _exchange(self, step: str, contents: Mapping[int, RecordDict]) -> Iterator[tuple[int, Answer]]:
        """One message to each node; yields each answer when it arrives, at the end the nodes that were not heard."""
        messages = [Message(content, node, f"query.{step}", ttl=self._timeout_s) for node, content in contents.items()]
        sent = dict(zip(self._grid.push_messages(messages), contents, strict=True))
        heard = time.monotonic()
        deadline = heard + self._timeout_s
        while sent and time.monotonic() < deadline:
            replies = list(self._grid.pull_messages(list(sent)))
            for reply in replies:
                node = sent.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    yield node, _answer(reply)
            if replies:
                heard = time.monotonic()
            elif sent:
                time.sleep(wait_s(time.monotonic() - heard))
        for node in sent.values():
            yield node, Trouble(False, f"no answer within {self._timeout_s:.0f} s")


def wait_s(silent_s: float) -> float:
    """How long to wait before looking for answers again, in seconds, after so many without one."""
    return min(max(_SHORTEST_S, _SHARE * silent_s), _LONGEST_S)


def _answer(reply: Message) -> Answer:
    if reply.has_content():
        return reply.content
    reason = one_line(str(reply.error.reason), 10_000) or "no reason given"
    kind = _KIND.search(reason)
    said = _SAID.search(reason)
    reason = (said.group(1) if said else reason)[:500]
    reachable = reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    return Trouble(reachable, reason, kind.group(1) if kind and reachable else "")
