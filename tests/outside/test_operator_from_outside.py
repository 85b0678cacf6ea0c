"""An operator that another package declares, in five files, goes from plan to receipt; nothing of zkapex names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUN = """
import json, sys
from pathlib import Path
import numpy as np
from federation import LAYERS, Federation, SmallTask, honest
from zkapex.simulation.federation.adversaries import make_cheat
from zkapex.storage import load_arrays
from zkapex.circuits.encoding import dequantise

def device(index, folder, task):
    return make_cheat("half", folder, task, workers=1) if index else honest(index, folder, task)

federation = Federation(Path(sys.argv[1]), 2, device, settings={"operator": "halving", "backend": "halo2"})
result = federation.serve()
before = load_arrays(federation.folder / "provider" / "global.npz")
after = load_arrays(federation.folder / "global-request-1.npz")
plan = load_arrays(federation.folder / "provider" / "requests" / "request-1" / "plan.npz")
exponents = {layer["name"]: layer["exponent"] for layer in result["manifest"]["layers"]}
for name in LAYERS:
    grid = dequantise(np.array([1]), exponents[name])[0]
    wanted = np.where(plan[f"mask/{name}"], before[f"{name}.weight"] / 2, before[f"{name}.weight"])
    assert np.abs(after[f"{name}.weight"] - wanted).max() <= 1.01 * grid
print(json.dumps([federation.row(result, 0), federation.row(result, 1)]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is found as if pip had installed it."""
    points = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["entry-points"]
    metadata = tmp_path_factory.mktemp("site") / "halving-1.0.dist-info"
    metadata.mkdir()
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in of.items()) for group, of in points.items()
    ]
    (metadata / "entry_points.txt").write_text("".join(lines))
    path = [str(ROOT), str(ROOT / "tests" / "support"), str(HERE), str(metadata.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def test_an_operator_from_outside_goes_from_plan_to_receipt(installed: dict[str, str], tmp_path: Path) -> None:
    run = python(installed, "-c", RUN, str(tmp_path / "run"))
    assert run.returncode == 0, run.stderr
    honest, cheat = json.loads(run.stdout.splitlines()[-1])
    assert (honest["verdict"], honest["reason"]) == ("proved", None)
    assert honest["chunks"] == honest["chunks_proved"] > 0
    assert cheat["verdict"] == "quarantined"
    assert "does not commit to the weights after unlearning" in cheat["reason"]

    main = "import sys; from zkapex.cli import main; sys.argv = ['zkapex', *sys.argv[1:]]; main()"
    receipt, key = str(tmp_path / "run" / honest["receipt"]), str(tmp_path / "run" / "key.pub")
    verified = python(installed, "-c", main, "verify", receipt, "--trust", key)
    assert verified.returncode == 0, verified.stderr
    shown = " ".join(json.loads((tmp_path / "run" / honest["receipt"] / "receipt.json").read_text()).get("shows", []))
    assert "halved" in verified.stdout + shown

    without = {**installed, "PYTHONPATH": str(ROOT)}
    refused = python(without, "-c", main, "verify", receipt, "--trust", key)
    assert refused.returncode not in (0, 1)
    assert "unknown operator 'halving'" in refused.stderr


def test_five_files_are_all_there_is() -> None:
    files = [path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert len([path for path in files if path != Path(__file__)]) == 5
    own = [
        p
        for folder in ("circuits", "proofs", "zkapex", "client", "server", "simulation")
        for p in (ROOT / folder).rglob("*.py")
    ]
    assert not [path for path in own if "halving" in path.read_text(encoding="utf-8")]
