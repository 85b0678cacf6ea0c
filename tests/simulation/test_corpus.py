from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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
