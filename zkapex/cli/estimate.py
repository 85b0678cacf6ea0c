"""``zkapex estimate``: what a deletion request will cost, before anything runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from zkapex.cli import options
from zkapex.cli.progress import duration
from zkapex.proofs.backends import DEFAULT, about, check_backend


def estimate(
    model: Annotated[
        str,
        typer.Argument(
            help="vit-b-16, vit-s-14, opt-125m, smollm2-135m, or a path: a Hugging Face config.json or its folder, a "
            ".safetensors checkpoint, or a zkapex manifest.json, which fixes the circuit as well."
        ),
    ],
    density: Annotated[float, typer.Option(help="Masked fraction of the target layers' weights.")] = 0.0005,
    concentration: Annotated[
        float, typer.Option(help="How many masked weights come together; 1: scattered uniformly, the worst case.")
    ] = 1.0,
    touched: Annotated[
        float | None, typer.Option(help="Fraction of the chunks a mask touches, where it is known.")
    ] = None,
    profile: options.Profile = "server",
    kind: options.Kind = "guarded-group-obs",
    curvature: options.Curvature = "kfac",
    guard_rank: options.GuardRank = 4,
    freivalds: options.Freivalds = True,
    audit: Annotated[
        str, typer.Option(help="full: every touched chunk is proved; sampled: some, drawn after all are committed to.")
    ] = "full",
    cheated: Annotated[float, typer.Option(help="Fraction of the chunks a cheat is about (sampled).")] = 0.01,
    detection: Annotated[float, typer.Option(help="With what probability it must be caught (sampled).")] = 0.99,
    workers: options.Workers = None,
    backend: options.Backend = DEFAULT,
    recalibrate: Annotated[
        bool,
        typer.Option("--recalibrate", help="Measure this machine again, even if it was before."),
    ] = False,
    as_json: options.JsonTable = False,
) -> None:
    """Estimate what a deletion request will cost a client and its provider, before anything runs.

    The first estimate for a circuit measures what one of its proofs costs on this machine (under a minute).
    """
    from zkapex.circuits.profiles import named_statement
    from zkapex.costs.estimate import Question, estimate
    from zkapex.costs.shapes import model_shapes
    from zkapex.proofs.jobs.resources import cores

    question = Question(density, concentration, touched, audit, cheated, detection, workers or cores())
    shapes = model_shapes(model)
    spec = shapes.statement or named_statement(profile, kind, curvature, guard_rank, freivalds)
    console = Console(stderr=True, highlight=False)
    known = about(backend)

    def on_start() -> None:
        console.print("Measuring what a proof costs on this machine ...")

    if backend == DEFAULT:
        from zkapex.costs import bench

        rates = bench.rates(spec, recalibrate, on_start)
        figures, measured = estimate(shapes, spec, rates, question), rates.model_dump()
    else:
        from zkapex.costs.layers import estimate_layers, layer_rates

        check_backend(backend, spec.kind, audit=audit)
        by_layer = layer_rates(spec, recalibrate, on_start)
        figures, measured = estimate_layers(shapes, spec, by_layer, question), by_layer.model_dump()
    if known.review:
        console.print(f"Backend {backend}: {known.review}.")
    if as_json:
        out = {**figures, "backend": backend, "statement": spec.model_dump(mode="json"), "rates": measured}
        print(json.dumps(out))
    else:
        Console(highlight=False).print(_table(figures))


def _table(figures: dict[str, str | int | float]) -> Table:
    table = Table("", "", show_header=False)
    for name, value in figures.items():
        title = name.removesuffix("_s").replace("_", " ")
        if name.endswith("_s"):
            text = duration(float(value))
        elif isinstance(value, float):
            text = f"{value:,.3g}" if value < 1 else f"{value:,.0f}"
        else:
            text = f"{value:,}" if isinstance(value, int) else value
        table.add_row(title, text)
    return table
