"""``zkapex new``: a project for a model and data of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make it: a new or an empty folder.")],
    name: Annotated[str | None, typer.Option(help="Of the Python package; by default made of the folder's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Make a working project for a model of your own: a device's task, a provider, a run configuration, a test.

    It runs as it is, on random numbers; docs/bring-your-own.md goes through it file by file.
    """
    from zkapex.project.make import create

    written = create(folder, name)
    if as_json:
        print(json.dumps({"folder": str(folder), "files": [str(path) for path in written]}))
        return
    for path in written:
        print(path)
    print(f"\nTry it:\n  cd {folder}\n  pip install --editable . pytest\n  pytest")
