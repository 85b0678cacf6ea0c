"""JSON and names of others."""

from __future__ import annotations

import os

import pytest

from zkapex.foreign import one_line, parse_json, shown


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a":' * 200_000, b"[" * 65 + b"]" * 65, "[{}" * 100_000])
def test_what_is_nested_too_deep_does_not_end_the_process(data: bytes | str) -> None:
    with pytest.raises(ValueError, match="nests"):
        parse_json(data)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"NaN", b"[Infinity]", b'{"a": -Infinity}', b"9" * 5000, '"\ud800"x']
)
def test_what_is_no_json_is_refused(data: bytes | str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_json(data)
    assert str(caught.value)


def test_brackets_that_are_not_nested_are_no_matter() -> None:
    assert parse_json(b"[" + b",".join([b"[]"] * 1000) + b"]") == [[]] * 1000
    assert parse_json(b'["' + b"[{" * 1000 + b'"]') == ["[{" * 1000]
    assert parse_json(b'["\\"' + b"[" * 1000 + b'"]') == ['"' + "[" * 1000]
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_names_can_be_shown_and_stay_apart() -> None:
    assert shown(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert shown("café") == "café"
    shown(os.fsdecode(bytes(range(1, 256)))).encode("utf-8")


def test_what_a_peer_wrote_neither_commands_a_terminal_nor_breaks_a_record() -> None:
    text = "\x1b[36mray::run()\x1b[39m failed:\n\n  no\x00 disk\u200b \x1b]0;title\x07 end"
    assert one_line(text, 100) == "ray::run() failed: no disk 0;title end"
    assert one_line("a" * 20, 5) == "aaaaa"
    assert one_line("\x1b[0m\x00", 5) == ""
