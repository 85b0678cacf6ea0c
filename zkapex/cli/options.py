"""Options that several commands share: one help text each."""

from __future__ import annotations

from typing import Annotated

import typer

from zkapex.circuits.operators import operator_names

Backend = Annotated[str, typer.Option(help="halo2, or transparent (experimental: whole layers).")]
Profile = Annotated[str, typer.Option(help="Size of the circuit: see docs/performance.md.")]
Kind = Annotated[str, typer.Option(help=f"What is proved: {', '.join(operator_names())}.")]
Curvature = Annotated[str, typer.Option(help="Of guarded-group-obs: kfac or block-fisher.")]
GuardRank = Annotated[int, typer.Option(help="Columns of its guard; 0 is plain Group-OBS.")]
Freivalds = Annotated[bool, typer.Option("--freivalds/--no-freivalds", help="Check matrix products at a random point.")]
Workers = Annotated[int | None, typer.Option(help="Proofs made at a time; default: one per core.")]
JsonTable = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
