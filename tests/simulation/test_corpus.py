from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from limits import case, refuses
from tiny_language import save_code

from zkapex.errors import InputError
from zkapex.simulation.data.corpus import Windows, read_windows, split_by_file


def encode(text: str) -> list[int]:
    return list(text.encode())


def test_windows_come_from_every_language_and_do_not_change(tmp_path: Path) -> None:
    folder = save_code(tmp_path, ("c", "rust"))
    found = read_windows(folder, {"c": 20, "rust": 9}, 12, 2, encode)
    again = read_windows(folder, {"c": 20, "rust": 9}, 12, 2, encode)
    assert len(found["c"].tokens) >= 20
    assert found["rust"].tokens.shape[1] == 13
    assert np.array_equal(found["c"].tokens, again["c"].tokens)
    assert np.bincount(found["c"].files).max() == 2


def test_the_first_window_of_a_long_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.c").write_text("licence! " + "code " * 100)
    found = read_windows(tmp_path, {"c": 2}, 8, 2, encode)["c"]
    assert not any(b"licence" in bytes(row.tolist()) for row in found.tokens)


def test_what_is_no_source_is_skipped(tmp_path: Path) -> None:
    folder = save_code(tmp_path, ("c",))
    (folder / "c" / ".git").mkdir()
    (folder / "c" / ".git" / "x.c").write_text("Z" * 5000)
    (folder / "c" / "short.c").write_text("Z")
    (folder / "c" / "image.c").write_bytes(b"\xff\xfe" * 1000)
    found = read_windows(folder, {"c": 80}, 12, 2, encode)["c"]
    assert not any(set(row) & {ord("Z"), 0xFF} for row in found.tokens.tolist())


def test_parts_share_no_file() -> None:
    windows = Windows(np.arange(60).reshape(30, 2), np.repeat(np.arange(10), 3))
    parts = split_by_file(windows, [7, 5, 6], seed=3)
    assert [len(part) for part in parts] == [7, 5, 6]
    files = [set(windows.files[part]) for part in parts]
    assert not files[0] & files[1]
    assert not files[1] & files[2]
    assert all(np.array_equal(a, b) for a, b in zip(parts, split_by_file(windows, [7, 5, 6], seed=3), strict=True))
    assert not np.array_equal(parts[0], split_by_file(windows, [7, 5, 6], seed=4)[0])


def test_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        read_windows(tmp_path / "nowhere", {"c": 1}, 8, 2, encode)
    folder = save_code(tmp_path, ("c",))
    with pytest.raises(InputError, match="no subfolder rust"):
        read_windows(folder, {"c": 1, "rust": 1}, 8, 2, encode)
    with pytest.raises(InputError, match="fewer than the 1000"):
        read_windows(folder, {"c": 1000}, 8, 2, encode)
    with pytest.raises(InputError, match="cannot be split"):
        split_by_file(Windows(np.zeros((6, 2), np.int64), np.repeat([0, 1], 3)), [2, 2, 2], 0)


def lay(root: Path, *contents: bytes) -> Path:
    """A folder of one language with these files."""
    (root / "c").mkdir(parents=True)
    for index, content in enumerate(contents):
        (root / "c" / f"{index}.c").write_bytes(content)
    return root


SOURCE = "// größe\n" + "int main(void) { return 0; }\n" * 20


def test_what_was_skipped_and_why_is_said(tmp_path: Path) -> None:
    folder = lay(tmp_path / "x", *[SOURCE.encode("latin-1")] * 40, b"short", b"\0" * 900, SOURCE.encode() * 3000)
    error = refuses("text-skipped", lambda: read_windows(folder, {"c": 3}, 64, 2, encode))
    for said in ("43 files", "40 skipped as no UTF-8", "shorter than 200", "binary", "longer than 1 MiB", str(folder)):
        assert said in error.why
    assert "UTF-8" in error.fix


@case("text-hidden")
def test_hidden_files_are_no_source(tmp_path: Path) -> None:
    folder = lay(tmp_path / "x", SOURCE.encode())
    (folder / "c" / "._0.c").write_bytes(SOURCE.encode())
    (folder / "c" / ".venv").mkdir()
    (folder / "c" / ".venv" / "1.c").write_bytes(SOURCE.encode())
    assert len(read_windows(folder, {"c": 1}, 64, 9, encode)["c"].tokens) == len(SOURCE.encode()) // 65 - 1


def test_marks_and_line_ends_are_no_matter(tmp_path: Path) -> None:
    plain = lay(tmp_path / "plain", SOURCE.encode())
    marked = lay(tmp_path / "marked", b"\xef\xbb\xbf" + SOURCE.replace("\n", "\r\n").encode())
    one, other = (read_windows(folder, {"c": 1}, 64, 2, encode)["c"].tokens for folder in (plain, marked))
    assert np.array_equal(one, other)
