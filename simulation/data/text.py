"""Source code in files: what counts as such, and why the rest is skipped."""

from __future__ import annotations

from pathlib import Path

LARGEST = 2**20
"""Bytes of a file: what is larger is generated, or data."""
SHORTEST = 200
"""Characters."""
NO_UTF8 = "no UTF-8"


def read_text(path: Path) -> tuple[str, str]:
    """The text of a file, and why it is skipped, if it is: then there is no text."""
    try:
        if path.stat().st_size > LARGEST:
            return "", "longer than 1 MiB"
        return decode(path.read_bytes())
    except OSError:
        return "", "unreadable"


def decode(data: bytes) -> tuple[str, str]:
    """As `read_text`, of a file's content. A byte order mark is no text, and lines end as Python has it."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return "", NO_UTF8
    if "\0" in text:
        return "", "binary"
    return (text, "") if len(text) >= SHORTEST else ("", f"shorter than {SHORTEST} characters")
