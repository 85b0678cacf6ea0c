"""What others wrote, read with care: JSON that cannot end the process, and names that can always be shown."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

DEEPEST = 64
"""Lists and objects inside one another; nothing that zkapex reads has a fifth of it."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b.")
"""What terminals take for commands, such as colours."""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def parse_json(data: bytes | str, deepest: int = DEEPEST) -> Any:
    """The value of a JSON text.

    Python's parser recurses in C, so that deep nesting can end the process: how deep it is is counted first. NaN and
    infinities, which Python's parser takes and JSON does not know, are refused.

    Raises
    ------
    ValueError
        It is no UTF-8, no JSON, or nested too deeply.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if raw.count(b"[") + raw.count(b"{") > deepest:
        depth = 0
        for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", raw)):
            depth += 1 if bracket.group() in b"[{" else -1
            if depth > deepest:
                raise ValueError(f"it nests more than {deepest} lists and objects")
    try:
        return json.loads(data, parse_constant=_refuse)
    except RecursionError as e:
        raise ValueError("it nests too many lists and objects") from e


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def shown(path: Path | str) -> str:
    """A path, or part of one, as text that can be printed and stored: bytes that are no UTF-8 are written as escapes.

    Two names that differ stay different, but for a name that holds such an escape itself.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def one_line(text: str, most: int) -> str:
    """What somebody else wrote, as one line of at most `most` characters that can be shown and signed.

    Escape sequences and unprintable characters are left out: a message of a peer must neither command a terminal nor
    be a reason for a record to be refused.
    """
    words = " ".join(_ESCAPES.sub("", text).split())
    return "".join(c for c in words if c.isprintable())[:most].strip()
