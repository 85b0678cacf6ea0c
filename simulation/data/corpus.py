"""Source code by language: windows of tokens, split by file.

It comes from a folder with a subfolder for each language, or from data sets by name, of a file in each row.

Which windows are looked at does not depend on the seed, so that a frozen trunk has to see them once; the seed decides
which files are trained on and which are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError
from zkapex.foreign import shown
from zkapex.simulation.data.hub import HubData, HubItem, stream
from zkapex.simulation.data.text import LARGEST, NO_UTF8, SHORTEST, read_text

IntArray = npt.NDArray[np.int64]
Encode = Callable[[str], Sequence[int]]
_CODE, _LANGUAGE = ("code", "content"), ("language", "lang")
_ALIASES = {"c++": "cpp", "c#": "csharp"}
_MOST_ROWS = 500_000
"""Rows of a data set that are looked at, lest all of it be downloaded in search of a language that it lacks."""


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
    source: Path | HubData, wanted: Mapping[str, int], length: int, per_file: int, encode: Encode
) -> dict[str, Windows]:
    """Windows of every language, from files in an order that only their names decide, or in that of the rows.

    A file gives at most `per_file` windows, evenly spread and without its first if it has others: licences come first.

    Parameters
    ----------
    source : Path or HubData
        A folder with one subfolder per language, holding text files at any depth; what is hidden, not UTF-8, binary,
        shorter than 200 characters or longer than 1 MiB is skipped. Or data sets with the columns ``code`` (or
        ``content``) and ``language`` (or ``lang``, or a language of the whole); C++ is ``cpp``, upper case is lower.
    wanted : mapping of str to int
        Language to windows.
    length : int
        Tokens of a window.
    per_file : int
    encode : callable

    Raises
    ------
    InputError
        A folder, column or language is missing or has too little text.
    """
    if isinstance(source, HubData):
        return _read_rows(source, wanted, length, per_file, encode)
    folder = source
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


def _read_rows(
    data: HubData, wanted: Mapping[str, int], length: int, per_file: int, encode: Encode
) -> dict[str, Windows]:
    names = {_plain(name): name for name in wanted}
    tokens: dict[str, list[Sequence[int]]] = {name: [] for name in wanted}
    files: dict[str, list[int]] = {name: [] for name in wanted}
    number = 0
    for item in data.items:
        open_ = {name for name in wanted if len(tokens[name]) < wanted[name]}
        if item.part is not None:
            open_ &= {names.get(_plain(item.part), "")}
        if not open_:
            continue
        for language, text in islice(_rows(item), _MOST_ROWS):
            number += 1
            name = names.get(_plain(language), "")
            if name not in open_ or not SHORTEST <= len(text) <= LARGEST:
                continue
            found = _cut(text, length, per_file, encode)
            tokens[name] += found
            files[name] += [number] * len(found)
            if len(tokens[name]) >= wanted[name]:
                open_.remove(name)
                if not open_:
                    break
    short = {name: len(tokens[name]) for name, count in wanted.items() if len(tokens[name]) < count}
    if short:
        raise InputError(
            f"{data} has too little of {', '.join(short)}",
            why="windows of tokens found and needed: "
            + ", ".join(f"{name} {have} of {wanted[name]}" for name, have in short.items())
            + f"; at most {_MOST_ROWS} rows are looked at",
            fix="name another data set, or one more, of that language, as in hub:NAME/FOLDER=scala",
        )
    return {name: Windows(np.array(tokens[name], np.int64), np.array(files[name], np.int64)) for name in wanted}


def _rows(item: HubItem) -> Iterator[tuple[str, str]]:
    """Language and text of every row."""
    columns: tuple[str | None, str | None] | None = None
    for row in stream(item):
        if columns is None:
            code, language = (next((n for n in names if n in row), None) for names in (_CODE, _LANGUAGE))
            if code is None or (language is None and item.part is None):
                lacking = _CODE if code is None else _LANGUAGE
                raise InputError(
                    f"{item} has no column {' or '.join(lacking)}",
                    why=f"it has {', '.join(row)}",
                    fix="give another --data, or the language of all of it, as in hub:NAME=scala",
                )
            columns = code, language
        code, language = columns
        text, spoken = row[str(code)], item.part if item.part is not None else row[str(language)]
        if isinstance(text, str) and isinstance(spoken, str):
            yield spoken, text


def _plain(language: str) -> str:
    name = language.strip().lower()
    return _ALIASES.get(name, name)


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


def _read(folder: Path, count: int, length: int, per_file: int, encode: Encode) -> Windows:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    tokens: list[Sequence[int]] = []
    files: list[int] = []
    skipped: dict[str, list[Path]] = {}
    for index in np.random.default_rng(0).permutation(len(paths)):
        if len(tokens) >= count:
            break
        text, reason = read_text(paths[index])
        if reason:
            skipped.setdefault(reason, []).append(paths[index])
        found = _cut(text, length, per_file, encode)
        tokens += found
        files += [int(index)] * len(found)
    if len(tokens) < count:
        raise InputError(
            f"{shown(folder)} has text for {len(tokens)} windows of {length} tokens, "
            f"fewer than the {count} that are needed",
            why=f"a file gives at most {per_file}; of {len(paths)} files "
            + (", ".join(_told(reason, some) for reason, some in skipped.items()) or "none was skipped"),
            fix="convert what is no UTF-8, or add source files" if NO_UTF8 in skipped else "add source files",
        )
    return Windows(np.array(tokens, np.int64), np.array(files, np.int64))


def _told(reason: str, paths: Sequence[Path]) -> str:
    return f"{len(paths)} skipped as {reason} (e.g. {shown(paths[0])})"


def _cut(text: str, length: int, per_file: int, encode: Encode) -> list[Sequence[int]]:
    tokens = encode(text) if text else []
    whole = len(tokens) // (length + 1)
    if not whole:
        return []
    first = 1 if whole > 1 else 0
    chosen = np.linspace(first, whole - 1, min(per_file, whole - first)).round().astype(int)
    return [tokens[i * (length + 1) : (i + 1) * (length + 1)] for i in chosen]
