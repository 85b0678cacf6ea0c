"""Data sets that are named, not given as files: from the Hugging Face hub, through flwr-datasets.

``hub:`` and then NAME, or NAME/FILES for some Parquet files of it, followed by any of ``@REVISION``, ``[SPLIT]`` and
``=PART``, in this order; several are separated by ``,hub:``. PART says of which domain, or in which language,
everything in it is, and is left out where a column says so. A folder on this disk may stand for NAME: nothing is
downloaded then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zkapex.errors import InputError
from zkapex.simulation.evaluation.provenance import digest_of

PREFIX = "hub:"
_ITEM = re.compile(
    r"(?P<name>[^\[\]=@]+)(?:@(?P<revision>[^\[\]=@]+))?(?:\[(?P<split>[\w.-]+)\])?(?:=(?P<part>[^\[\]=]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubItem:
    """One data set.

    Attributes
    ----------
    name : str
        A repository of the hub, or a folder.
    files : str or None
        A pattern of Parquet files in it; None for what the data set itself declares.
    revision : str or None
        Branch, tag or commit of the repository.
    split : str
    part : str or None
        Domain or language of everything in it.
    local : bool
        Whether `name` is a folder.
    """

    name: str
    files: str | None
    revision: str | None
    split: str
    part: str | None
    local: bool

    def __str__(self) -> str:
        return self.name if self.files is None else f"{self.name}/{self.files}"

    def facts(self) -> dict[str, Any]:
        """What names this data in a result, with the commit it is of, or a digest of the folder. Raises InputError."""
        return {"name": str(self), "split": self.split, "part": self.part, "revision": revision_of(self)}


@dataclass(frozen=True)
class HubData:
    """What ``--data hub:...`` names.

    Attributes
    ----------
    items : tuple of HubItem
    """

    items: tuple[HubItem, ...]

    def __str__(self) -> str:
        return ",".join(f"{PREFIX}{item}" for item in self.items)


def parse_data(text: str) -> Path | HubData:
    """What the value of ``--data`` stands for: a path, or data sets by name.

    Raises
    ------
    InputError
        It starts with ``hub:`` and is not of the form above, or names a folder that is not there.
    """
    if not text.startswith(PREFIX):
        return Path(text)
    return HubData(tuple(_parse_item(item) for item in text.removeprefix(PREFIX).split(f",{PREFIX}")))


def _parse_item(text: str) -> HubItem:
    match = _ITEM.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"cannot read {PREFIX}{text}",
            why="a data set is named hub:NAME, hub:NAME/FILES, and then @REVISION, [SPLIT] and =PART if need be",
            fix="for example --data 'hub:flwrlabs/pacs[train]'",
        )
    revision, split, part = (match[group] for group in ("revision", "split", "part"))
    name, files, local = _place(match["name"])
    if files and split:
        raise InputError(f"{PREFIX}{text} names files and a split", fix="leave [SPLIT] out: the files are all there is")
    if local and revision:
        raise InputError(f"the folder {name} has no revision {revision}", fix=f"leave @{revision} out")
    return HubItem(name, files, revision, split or "train", part, local)


def _place(text: str) -> tuple[str, str | None, bool]:
    """Name, files and whether it is a folder."""
    parts = text.rstrip("/").split("/")
    fixed = next((i for i, part in enumerate(parts) if "*" in part or part.endswith(".parquet")), len(parts))
    folder = Path("/".join(parts[:fixed]) or "/").expanduser()
    if folder.is_dir():
        return str(folder), "/".join(parts[fixed:]) or None, True
    if text.startswith(("/", ".", "~")):
        raise InputError(f"there is no folder {folder}", fix="give another --data")
    if len(parts) <= 2:
        return text, None, False
    files = "/".join(parts[2:])
    return "/".join(parts[:2]), files if fixed < len(parts) else f"{files}/*.parquet", False


@lru_cache(maxsize=16)
def revision_of(item: HubItem) -> str:
    """The commit that the hub has for the revision asked for; of a folder, a digest of its files' names and sizes.

    Raises
    ------
    InputError
        There is no such data set, or the hub cannot be reached.
    StorageError
        The folder cannot be read.
    """
    if item.local:
        return f"sha256:{digest_of(Path(item.name))}"
    if item.revision and _COMMIT.fullmatch(item.revision):
        return item.revision
    _library()
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(item.name, revision=item.revision).sha)
    except Exception as e:  # httpx's errors as well as the hub's own
        raise _explain(item, e) from e


def load(item: HubItem) -> Any:
    """A split, as a `datasets.Dataset`; what is not here yet is downloaded.

    Raises
    ------
    InputError
        flwr-datasets is not installed, the hub cannot be reached, or it has no such data set or split.
    """
    library, arguments = _library(), _arguments(item, "dataset")
    try:
        return library.FederatedDataset(partitioners={}, shuffle=False, **arguments).load_split(item.split)
    except Exception as e:  # whatever flwr-datasets, datasets, the hub, its cache and the readers of formats raise
        raise _explain(item, e) from e


def stream(item: HubItem) -> Iterator[Mapping[str, Any]]:
    """Rows of a split, downloaded as they are asked for.

    FederatedDataset cannot: it has a data set downloaded whole before its first row, and data sets of source code are
    of hundreds of gigabytes. What it calls, `datasets.load_dataset`, can.

    Raises
    ------
    InputError
        As `load`.
    """
    _library()
    from datasets import load_dataset

    arguments = _arguments(item, "path")
    try:
        yield from load_dataset(split=item.split, streaming=True, **arguments)
    except Exception as e:  # as above, and the network's while rows are read
        raise _explain(item, e) from e


def _arguments(item: HubItem, name: str) -> dict[str, Any]:
    if item.files is not None:
        root = item.name if item.local else f"hf://datasets/{item.name}@{revision_of(item)}"
        return {name: "parquet", "data_files": {item.split: f"{root}/{item.files}"}}
    return {name: item.name} if item.local else {name: item.name, "revision": revision_of(item)}


def _library() -> Any:
    # Read when it is imported. As in Flower, zkapex reports to nobody what its users load.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        import flwr_datasets
    except ImportError as e:
        raise InputError(
            "data sets by name need flwr-datasets", why=str(e), fix="pip install 'zkapex[hub]', or give a path"
        ) from e
    return flwr_datasets


def _explain(item: HubItem, error: Exception) -> InputError:
    import httpx

    why = str(error).strip()[:300] or type(error).__name__
    if isinstance(error, (ConnectionError, TimeoutError, httpx.TransportError)):
        return InputError(
            f"cannot reach the hub for {item}",
            why=why,
            fix="check the network and HF_HUB_OFFLINE, or download it elsewhere and give hub:FOLDER",
        )
    if "scripts are no longer supported" in why:
        return InputError(
            f"{item} is a program, not files, and zkapex runs no code of a data set",
            why=why,
            fix="name Parquet files of it, hub:NAME/FOLDER or hub:NAME/FOLDER@refs/convert/parquet",
        )
    return InputError(
        f"cannot load the data set {item}, split {item.split}",
        why=why,
        fix="check its name, revision and split; if it asks to accept terms, do so there and log in with hf auth login",
    )
