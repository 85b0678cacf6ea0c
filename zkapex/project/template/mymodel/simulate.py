"""Run the whole federation in this process: ``python -m mymodel.simulate FOLDER``. A debugger can stop anywhere."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from mymodel.app import client, server

from zkapex.transport.app import run_config_of
from zkapex.transport.grid import InProcessGrid, run_in_process

PROJECT = Path(__file__).parents[1]


def simulate(work_dir: Path, clients: int = 2, **settings: str | int | float | bool) -> dict[str, Any]:
    """Train, personalise, delete, prove, issue receipts; what came of it.

    `settings` are those in ``[tool.flwr.app.config]`` of ``pyproject.toml``, with ``_`` for ``-``.
    """
    torch.set_num_threads(1)  # a model this small gains nothing by more, and loses tenfold on a busy machine
    changed = {name.replace("_", "-"): value for name, value in settings.items()}
    config = run_config_of(PROJECT, {**changed, "work-dir": str(work_dir.resolve())})
    run_in_process(server, InProcessGrid(client, clients, config), config)
    result: dict[str, Any] = json.loads((work_dir / "result.json").read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "run")
    found = simulate(folder)
    for when in ("before", "after"):
        print(f"global model {when}:", {name: round(value, 3) for name, value in found["global"][when].items()})
    for one in found["clients"]:
        print(f"client {one['client_id'][:16]}: {one['verdict']}, receipt in {folder / one['receipt']}")
