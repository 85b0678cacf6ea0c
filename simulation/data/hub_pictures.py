"""Images of data sets by name, read where they are when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zkapex.errors import InputError
from zkapex.simulation.data.hub import HubData, HubItem, load
from zkapex.simulation.data.pictures import Gallery, IntArray


def gallery_of(data: HubData) -> Gallery:
    """The images of data sets with the columns ``image``, ``label`` and, where a data set is of several, ``domain``.

    Labels are classes that the data set names, or words. Data sets of plain numbers take the others' names.

    Raises
    ------
    InputError
        A data set cannot be loaded, lacks a column or labels, or has other classes than the others.
    """
    tables = [_Table(item) for item in data.items]
    named = [table for table in tables if table.classes is not None]
    classes = named[0].classes if named else None
    for table in named:
        if table.classes != classes:
            raise InputError(
                f"{table.item} and {named[0].item} have different classes",
                why=_difference(table.classes or (), classes or ()),
                fix="data sets of different domains must number and name the same classes",
            )
    count = 1 + max(int(table.labels.max()) for table in tables)
    if classes is None:
        classes = tuple(map(str, range(count)))
    elif count > len(classes):
        raise InputError(f"labels count to {count - 1}, and {len(classes)} classes have names")
    domains = tuple(sorted({name for table in tables for name in table.domains}))
    places = {name: index for index, name in enumerate(domains)}
    return Gallery(
        Rows([table.images for table in tables]),
        np.concatenate([table.labels for table in tables]),
        np.array([places[name] for table in tables for name in table.domains], np.int64),
        classes,
        domains,
    )


class Rows:
    """Encoded images of data sets one after the other, none of them in memory."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int, /) -> bytes | Path:
        part = int(np.searchsorted(self._ends, index, "right"))
        own = self._parts[part]
        image = own[index - int(self._ends[part]) + len(own)]["image"] or {}
        # Folders of image files hold paths, everything else bytes.
        return image.get("bytes") or (Path(image["path"]) if image.get("path") else b"")


class _Table:
    """One data set: `images` undecoded, `labels` int64 [n], `classes` if it names them, `domains` of its rows."""

    def __init__(self, item: HubItem) -> None:
        self.item = item
        data = load(item)
        from datasets import ClassLabel, Image  # it is there, or load would have said so

        missing = [name for name in ("image", "label", "domain") if name not in data.column_names]
        if item.part is not None:
            missing = [name for name in missing if name != "domain"]
        if missing:
            raise InputError(
                f"{item} has no column {', '.join(missing)}",
                why=f"it has {', '.join(data.column_names)}",
                fix="say which domain it is of, as in hub:NAME=photo"
                if missing == ["domain"]
                else "give another --data",
            )
        if not len(data):
            raise InputError(f"{item} has no images", fix="give another --data")
        try:
            self.images = data.select_columns(["image"]).cast_column("image", Image(decode=False))
        except Exception as e:  # pyarrow's errors, and datasets' own
            raise InputError(f"the column image of {item} holds no images", why=str(e)[:300]) from e
        labels = data.features["label"]
        self.labels, self.classes = _numbers(
            data.with_format("numpy")["label"][:], tuple(labels.names) if isinstance(labels, ClassLabel) else None, item
        )
        self.domains = [item.part] * len(data) if item.part is not None else _words(data, item)


def _numbers(column: Any, names: tuple[str, ...] | None, item: HubItem) -> tuple[IntArray, tuple[str, ...] | None]:
    values = np.asarray(column)
    if values.ndim == 1 and values.dtype.kind in "OTU" and all(isinstance(value, str) for value in values):
        found, numbers = np.unique(values.astype(str), return_inverse=True)
        return numbers.astype(np.int64), tuple(map(str, found))
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.min() < 0:
        raise InputError(
            f"{item} has images without a class",
            why="labels are neither words nor numbers from 0",
            fix="give another split",
        )
    return values.astype(np.int64), names


def _words(data: Any, item: HubItem) -> list[str]:
    feature, values = data.features["domain"], data["domain"][:]
    if hasattr(feature, "int2str"):
        values = [feature.int2str(value) for value in values]
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"the column domain of {item} holds no words", fix="name a domain, as in hub:NAME=photo")
    return list(values)


def _difference(own: Sequence[str], first: Sequence[str]) -> str:
    if len(own) != len(first):
        return f"{len(own)} and {len(first)} of them"
    index = next(i for i, (a, b) in enumerate(zip(own, first, strict=True)) if a != b)
    return f"class {index} is {own[index]!r} in one, {first[index]!r} in the other"
