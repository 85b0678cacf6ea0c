"""``zkapex bench``: what proofs cost on this machine, and where their time goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from zkapex.cli import options
from zkapex.cli.progress import following
from zkapex.proofs.backends import DEFAULT, about

app = typer.Typer(help="Measure what things cost on this machine.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def root() -> None:
    """Measure what things cost on this machine."""


@app.command("proof")
def proof(
    profile: options.Profile = "server",
    kind: options.Kind = "guarded-group-obs",
    curvature: options.Curvature = "kfac",
    guard_rank: options.GuardRank = 4,
    freivalds: options.Freivalds = True,
    chunks: Annotated[int, typer.Option(help="Proofs to make.")] = 4,
    workers: options.Workers = None,
    memory_mb: Annotated[
        float | None, typer.Option(help="What they may take together, in 10^6 bytes; default: all that is free.")
    ] = None,
    rows_per_chunk: Annotated[int | None, typer.Option(help="Other than the profile's.")] = None,
    block_width: Annotated[int | None, typer.Option(help="Other than the profile's.")] = None,
    log2_rows: Annotated[int | None, typer.Option(help="Other than the profile's.")] = None,
    backend: options.Backend = DEFAULT,
    rows: Annotated[int, typer.Option(help="Transparent: rows of the layer.")] = 3072,
    cols: Annotated[int, typer.Option(help="Transparent: its columns.")] = 768,
    density: Annotated[float, typer.Option(help="Transparent: masked fraction of its weights.")] = 0.005,
    as_json: options.JsonTable = False,
) -> None:
    """Build a circuit's keys, prove random chunks in worker processes, verify them, and print what it took.

    With the transparent backend, random layers instead: there are no keys, and --chunks counts layers. CPU seconds
    count user and system time of all threads of the process concerned; memory is its own peak (VmHWM).
    """
    about(backend)
    if backend != DEFAULT:
        from zkapex.costs.layers import bench_layers

        _print(bench_layers(profile, kind, guard_rank, rows, cols, density, chunks, block_width), as_json)
        return
    from zkapex.costs.bench import BenchSettings, bench

    settings = BenchSettings(
        profile,
        kind,
        curvature,
        guard_rank,
        freivalds,
        chunks,
        workers,
        memory_mb,
        rows_per_chunk,
        block_width,
        log2_rows,
    )
    with following("proving") as on_progress:
        figures = bench(settings, on_progress)
    _print(figures, as_json)


def _print(figures: dict[str, str | int | float], as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures))
        return
    table = Table("", "", show_header=False)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.3f}" if isinstance(value, float) else str(value))
    Console(highlight=False).print(table)


@app.command("stages")
def stages(
    profile: options.Profile = "server",
    kind: options.Kind = "guarded-group-obs",
    curvature: options.Curvature = "kfac",
    guard_rank: options.GuardRank = 4,
    freivalds: options.Freivalds = True,
    as_json: options.JsonTable = False,
) -> None:
    """Prove and verify one random chunk in this process and print the CPU seconds of each stage."""
    from zkapex.circuits.profiles import named_statement
    from zkapex.costs.stages import stages

    spent = stages(named_statement(profile, kind, curvature, guard_rank, freivalds))
    if as_json:
        print(json.dumps(spent))
        return
    table = Table("stage", "CPU s")
    table.columns[1].justify = "right"
    for name, cpu_s in spent.items():
        table.add_row(name, f"{cpu_s:.3f}")
    Console(highlight=False).print(table)


@app.command("registry")
def registry(
    database: Annotated[
        str | None, typer.Option(help="URL of a PostgreSQL database to measure, too: postgresql+psycopg://...")
    ] = None,
    proofs: Annotated[int, typer.Option(help="Proofs to accept for each size of model, at most 1024.")] = 200,
    as_json: options.JsonTable = False,
) -> None:
    """Measure what the registry's bookkeeping of an accepted proof takes, by the number of chunks of the model.

    Wall time, durable on this machine's disk: milliseconds by kind of database and number of chunks, the mean of all
    proofs. The SQLite file is in the temporary folder (TMPDIR).
    """
    from zkapex.costs.registry import bench_registry

    figures = bench_registry(proofs, database)
    if as_json:
        print(json.dumps(figures))
        return
    measured = figures["ms_per_accepted_proof"]
    table = Table("ms per accepted proof", *(f"{chunks} chunks" for chunks in measured["sqlite"]))
    for kind, by_chunks in measured.items():
        table.add_row(kind, *(f"{ms:.2f}" for ms in by_chunks.values()))
    Console(highlight=False).print(table)


@app.command("request")
def request(
    model: Annotated[str, typer.Argument(help="As for zkapex estimate; only the shapes are taken.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; run again with the same one to resume.")],
    profile: options.Profile = "edge",
    density: Annotated[float, typer.Option(help="Masked fraction of the weights, scattered uniformly.")] = 0.0005,
    guard_rank: Annotated[int, typer.Option(help="Columns of the guard; 0 is plain Group-OBS.")] = 4,
    audit: Annotated[str, typer.Option(help="What is proved of the touched chunks: full or sampled.")] = "sampled",
    audit_detect: Annotated[float, typer.Option(help="Probability with which a sample finds a cheat out.")] = 0.99,
    audit_cheating: Annotated[float, typer.Option(help="Fraction of the chunks the cheat leaves undone.")] = 0.01,
    workers: options.Workers = None,
    backend: options.Backend = DEFAULT,
    as_json: options.JsonTable = False,
) -> None:
    """Carry out one deletion request on random weights of a model's shapes, from enrolment to the verified receipt.

    Provider and device talk in this process, without a network; all else is as in a deployment.
    """
    import logging

    from zkapex.costs.rehearsal import RehearsalSettings, rehearse
    from zkapex.costs.shapes import model_shapes

    settings = RehearsalSettings(
        profile, density, guard_rank, audit, audit_detect, audit_cheating, workers, backend=backend
    )
    logging.getLogger("flwr").setLevel(logging.ERROR)
    Console(stderr=True).print(f"events: {out / 'events.jsonl'}", highlight=False)
    figures = rehearse(model_shapes(model), settings, out)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table("", "", show_header=False)
    for name, value in {**figures, **figures["stages"]}.items():
        if not isinstance(value, dict):
            table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else str(value))
    Console(highlight=False).print(table)


@app.command("ledger")
def ledger(
    entries: Annotated[int, typer.Option(help="Entries to log.")] = 100_000,
    batch: Annotated[int, typer.Option(help="How many are appended together.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder to work in; default: that of temporary files.")] = None,
    as_json: options.JsonTable = False,
) -> None:
    """Fill a log, and measure what another append, a proof, its verification and a check of the whole log take."""
    from zkapex.costs.ledger import measure_log

    figures = measure_log(entries, batch, out)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table("", "CPU s", "wall s")
    for name, value in figures.items():
        row = (f"{value['cpu_s']:.6f}", f"{value['wall_s']:.6f}") if isinstance(value, dict) else (str(value), "")
        table.add_row(name, *row)
    Console(highlight=False).print(table)
