"""Photographs, sketches and paintings of the same classes: a data set of several domains, of a file or a folder.

The file is an ``.npz`` of encoded images: image i is ``blob[off[i]:off[i + 1]]`` (JPEG or PNG), of class ``y[i]`` and
domain ``domain[i]``, named in ``classes`` and ``domains``. The folder is laid out as ``domain/class/image``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from zkapex.errors import InputError, StorageError
from zkapex.foreign import shown
from zkapex.simulation.data.hub import HubData
from zkapex.simulation.data.image import decode
from zkapex.storage import load_arrays

FIELDS = ("blob", "off", "y", "domain", "classes", "domains")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
IntArray = npt.NDArray[np.int64]


class Images(Protocol):
    """Encoded images, or the files they are in, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> bytes | Path: ...


@dataclass(frozen=True)
class Gallery:
    """Encoded images with their class and domain.

    Attributes
    ----------
    images : Images
    labels, domains : int64 array [n]
    class_names, domain_names : tuple of str
    """

    images: Images
    labels: IntArray
    domains: IntArray
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]

    def encoded(self, index: int) -> bytes:
        """The file of one image. Raises InputError if it cannot be read."""
        image = self.images[index]
        if isinstance(image, bytes):
            return image
        try:
            return image.read_bytes()
        except OSError as e:
            raise InputError(f"cannot read {shown(image)}", why=e.strerror or type(e).__name__) from e

    def pixels(self, index: int, size: int) -> torch.Tensor:
        """One image, float32 ``[3, size, size]``, RGB in [0, 1]: its shorter side resized, the centre cut out.

        Raises
        ------
        InputError
            It is no image; see `zkapex.simulation.data.image.decode`.
        """
        image = decode(self.encoded(index), self._name(index))
        if image.size != (size, size):
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    def of(self, domain: str) -> IntArray:
        """Numbers of the images of a domain."""
        return np.flatnonzero(self.domains == self.domain_names.index(domain))

    def some_classes(self, count: int) -> Gallery:
        """The images of so many classes, evenly spread over all: of 1000, neighbours are often kinds of one thing.

        Raises
        ------
        InputError
            It has fewer classes.
        """
        have = len(self.class_names)
        if not 2 <= count <= have:
            raise InputError(f"--classes is {count}, and the data has {have}", fix=f"choose a number from 2 to {have}")
        chosen = [index * have // count for index in range(count)]
        kept = np.flatnonzero(np.isin(self.labels, chosen))
        labels = np.searchsorted(chosen, self.labels[kept]).astype(np.int64)
        names = tuple(self.class_names[index] for index in chosen)
        return Gallery(_Picked(self.images, kept), labels, self.domains[kept], names, self.domain_names)

    def _name(self, index: int) -> str:
        image = self.images[index]
        if isinstance(image, Path):
            return shown(image)
        return f"number {index} of {self.domain_names[self.domains[index]]}/{self.class_names[self.labels[index]]}"


class _Picked:
    """Some of the images, taken when they are asked for."""

    def __init__(self, images: Images, places: IntArray) -> None:
        self._images, self._places = images, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> bytes | Path:
        return self._images[int(self._places[index])]


def read(data: Path | HubData | None) -> Gallery:
    """The images of a file or folder, or of data sets by name, checked.

    Raises
    ------
    InputError
        There is none, or it does not hold what it should.
    """
    if isinstance(data, HubData):
        from zkapex.simulation.data.hub_pictures import gallery_of

        return gallery_of(data)
    if data is None or not data.exists():
        raise InputError(
            "this scenario needs images of several domains" if data is None else f"there is no {data}",
            why="they are not part of zkapex",
            fix="give a folder domain/class/image, an .npz of encoded images, or hub:NAME with --data or ZKAPEX_DATA",
        )
    return _from_folder(data) if data.is_dir() else _from_file(data)


def _from_folder(root: Path) -> Gallery:
    try:
        found = sorted(
            p
            for p in root.glob("*/*/*")
            if p.suffix.lower() in SUFFIXES and not _hidden(p.relative_to(root)) and p.is_file()
        )
    except OSError as e:
        raise InputError(f"cannot read {shown(root)}", why=str(e)) from e
    if not found:
        raise InputError(
            f"there are no images in {root}",
            why=f"looked for domain/class/image with {', '.join(SUFFIXES)}",
            fix="give the folder above those of the domains",
        )
    domains = tuple(sorted({p.parts[-3] for p in found}))
    classes = tuple(sorted({p.parts[-2] for p in found}))
    places, labels = {n: i for i, n in enumerate(domains)}, {n: i for i, n in enumerate(classes)}
    return Gallery(
        tuple(found),
        np.array([labels[p.parts[-2]] for p in found], np.int64),
        np.array([places[p.parts[-3]] for p in found], np.int64),
        tuple(map(shown, classes)),
        tuple(map(shown, domains)),
    )


def _hidden(path: Path) -> bool:
    """Whether a name on the way is hidden, as ``._x.png`` of macOS and ``.ipynb_checkpoints`` of Jupyter are."""
    return any(part.startswith(".") for part in path.parts)


def _from_file(path: Path) -> Gallery:
    try:
        arrays = load_arrays(path)
    except StorageError as e:
        raise InputError(f"{path} is not a readable .npz", why=e.why, fix="give another --data") from e
    missing = [name for name in FIELDS if name not in arrays]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}", fix=f"it must hold {', '.join(FIELDS)}")
    blob, off, y, domain, classes, domains = (arrays[name] for name in FIELDS)
    if blob.dtype != np.uint8 or any(a.ndim != 1 for a in (blob, off, y, domain, classes, domains)):
        raise InputError(f"the arrays of {path} are not of one dimension, or blob is not uint8")
    if any(not np.issubdtype(a.dtype, np.integer) for a in (off, y, domain)):
        raise InputError(f"off, y and domain in {path} are not all integers")
    if len(off) != len(y) + 1 or len(domain) != len(y) or len(y) == 0:
        raise InputError(
            f"{path} has {len(y)} labels, {len(domain)} domains and {len(off)} offsets",
            fix="there must be a label and a domain per image, and one offset more",
        )
    starts, labels, places = (a.astype(np.int64) for a in (off, y, domain))
    if starts[0] != 0 or starts[-1] > len(blob) or (np.diff(starts) <= 0).any():
        raise InputError(f"off in {path} does not increase from 0 to the length of blob")
    for name, values, names in (("y", labels, classes), ("domain", places, domains)):
        if values.min() < 0 or values.max() >= len(names):
            raise InputError(f"{name} in {path} counts to {values.max()}, and {len(names)} have names")
    whole = blob.tobytes()
    images = tuple(whole[a:b] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
    return Gallery(images, labels, places, tuple(map(str, classes)), tuple(map(str, domains)))
