"""Making a project from the template: the name is put in, and nothing that exists is overwritten."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from zkapex.errors import InputError, StorageError

PLACEHOLDER: Final = "mymodel"
_NAME: Final = re.compile("[a-z][a-z0-9_]{0,39}")


def package_name(folder: Path) -> str:
    """A name for the package in a folder, made of the folder's own; `create` refuses what is none."""
    return re.sub("[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")


def create(folder: Path, name: str | None = None) -> list[Path]:
    """Make a project in a folder; the files that were written.

    Parameters
    ----------
    folder : Path
        New, or empty.
    name : str, optional
        Of the Python package; by default made of the folder's.

    Raises
    ------
    InputError
        The folder holds something, or the name is none for a package of one's own.
    StorageError
        The folder cannot be written.
    """
    chosen = package_name(folder) if name is None else name
    if not _NAME.fullmatch(chosen) or keyword.iskeyword(chosen):
        raise InputError(
            f"{chosen!r} is no name for a package",
            why="lower-case letters, digits and underscores are, with a letter first",
            fix="give one with --name",
        )
    installed = importlib.util.find_spec(chosen)
    if installed is not None and installed.origin is not None:  # without an origin it is just a folder on the path
        raise InputError(
            f"a package {chosen} is installed already", why="the project would hide it", fix="give another --name"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something already", fix="name a new or an empty folder")
    files = {**_template(), f"{PLACEHOLDER}/__init__.py": '"""A federation whose deletions are proved."""\n'}
    written = []
    try:
        for path, text in sorted(files.items()):
            target = folder / path.replace(PLACEHOLDER, chosen)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace(PLACEHOLDER, chosen), encoding="utf-8")
            written.append(target)
    except OSError as error:
        raise StorageError(f"cannot write {folder}", why=str(error)) from error
    return written


def _template() -> dict[str, str]:
    """Text of every file of the template, by its path there."""
    found: dict[str, str] = {}

    def walk(place: Traversable, prefix: str) -> None:
        for one in place.iterdir():
            if one.is_dir() and one.name != "__pycache__":
                walk(one, f"{prefix}{one.name}/")
            elif one.name.endswith((".py", ".toml", ".md")):
                found[prefix + one.name] = one.read_text(encoding="utf-8")

    walk(resources.files("zkapex.project") / "template", "")
    return found
