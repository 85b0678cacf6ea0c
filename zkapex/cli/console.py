"""What commands of a server share: its SuperLink, and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from zkapex.server.deployment.link import SuperLink


@contextmanager
def link_of(folder: Path) -> Iterator[SuperLink]:
    """The SuperLink of the server in a folder; errors as `zkapex.server.deployment.link.SuperLink`."""
    from zkapex.server.deployment.link import SuperLink
    from zkapex.server.deployment.settings import Place, load

    settings = load(folder)
    with SuperLink(settings.link.port, Place(folder.resolve()).provider / "ca.pem") as link:
        yield link


def show(name: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows of the same columns as a table, or as one JSON object ``{name: [...]}``."""
    if as_json:
        print(json.dumps({name: list(rows)}))
        return
    if not rows:
        print(f"no {name}")
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(soft_wrap=True, highlight=False).print(table)
