"""Source code by language, from a folder with a subfolder for each: windows of tokens, split by file.

Which windows are looked at does not depend on the seed, so that a frozen trunk has to see them once; the seed decides
which files are trained on and which are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError

IntArray = npt.NDArray[np.int64]
_LARGEST_FILE = 2**20
_SHORTEST_FILE = 200


@dataclass(frozen=True)
class Windows:
    """Windows of one language.

    Attributes
    ----------
    tokens : int64 array [n, T + 1]
    files : int64 array [n]
        Which file each is from.
    """

    tokens: IntArray
    files: IntArray


def read_windows(
    folder: Path, wanted: Mapping[str, int], length: int, per_file: int, encode: Callable[[str], Sequence[int]]
) -> dict[str, Windows]:
    """Windows of every language, from files in an order that only their names decide.

    A file gives at most `per_file` windows, evenly spread and without its first if it has others: licences come first.

    Parameters
    ----------
    folder : Path
        One subfolder per language, holding text files at any depth; what is hidden, not UTF-8, shorter than 200
        characters or longer than 1 MiB is skipped.
    wanted : mapping of str to int
        Subfolder to windows.
    length : int
        Tokens of a window.
    per_file : int
    encode : callable

    Raises
    ------
    InputError
        A folder is missing or has too little text.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}", fix="give --data a folder with a subfolder of source files per language"
        )
    missing = [name for name in wanted if not (folder / name).is_dir()]
    if missing:
        raise InputError(
            f"{folder} has no subfolder {', '.join(missing)}",
            why=f"it is to hold source files in {', '.join(wanted)}, each in its own subfolder",
            fix="give another --data",
        )
    return {name: _read(folder / name, count, length, per_file, encode) for name, count in wanted.items()}


def split_by_file(windows: Windows, sizes: Sequence[int], seed: int) -> list[IntArray]:
    """Disjoint indices of `sizes` windows each, no file on both sides of a cut, by a seed.

    Raises
    ------
    InputError
        Files are too few, or too uneven, to be split so.
    """
    order = np.random.default_rng(seed).permutation(np.unique(windows.files))
    rows = [np.flatnonzero(windows.files == file) for file in order]
    parts: list[IntArray] = []
    start = 0
    for size in sizes:
        taken: list[IntArray] = []
        while sum(map(len, taken)) < size:
            if start == len(rows):
                raise InputError(
                    f"{len(rows)} files with {len(windows.files)} windows cannot be split into {list(sizes)} windows",
                    why="no file may be in two parts",
                    fix="add source files",
                )
            taken.append(rows[start])
            start += 1
        parts.append(np.concatenate(taken)[:size] if taken else np.zeros(0, np.int64))
    return parts


def _read(folder: Path, count: int, length: int, per_file: int, encode: Callable[[str], Sequence[int]]) -> Windows:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    tokens: list[Sequence[int]] = []
    files: list[int] = []
    for index in np.random.default_rng(0).permutation(len(paths)):
        if len(tokens) >= count:
            break
        found = _cut(_text(paths[index]), length, per_file, encode)
        tokens += found
        files += [int(index)] * len(found)
    if len(tokens) < count:
        raise InputError(
            f"{folder} has text for {len(tokens)} windows of {length} tokens, fewer than the {count} that are needed",
            why=f"a file gives at most {per_file}",
            fix="add source files",
        )
    return Windows(np.array(tokens, np.int64), np.array(files, np.int64))


def _text(path: Path) -> str:
    """The text of a file; nothing if it is none, or of an unusual size."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            return ""
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if len(text) >= _SHORTEST_FILE else ""


def _cut(text: str, length: int, per_file: int, encode: Callable[[str], Sequence[int]]) -> list[Sequence[int]]:
    tokens = encode(text) if text else []
    whole = len(tokens) // (length + 1)
    if not whole:
        return []
    first = 1 if whole > 1 else 0
    chosen = np.linspace(first, whole - 1, min(per_file, whole - first)).round().astype(int)
    return [tokens[i * (length + 1) : (i + 1) * (length + 1)] for i in chosen]
