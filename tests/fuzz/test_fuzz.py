"""A bounded run of the fuzzer; ``make fuzz`` runs longer."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parent / "fuzz.py"
ALL_BUT_LAYERS = "proof,point,envelope,record,evidence,image,text,foreign,safetensors"
SECONDS = {ALL_BUT_LAYERS: 8, "layer": 20}

needs_atheris = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="atheris has wheels for this platform alone"
)


@needs_atheris
@pytest.mark.parametrize(
    "targets", [pytest.param(name, marks=pytest.mark.slow) if name == "layer" else name for name in SECONDS]
)
def test_the_decoders_raise_nothing_but_their_own_errors(targets: str) -> None:
    command = [sys.executable, str(FUZZER), f"--targets={targets}", f"-max_total_time={SECONDS[targets]}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs.group(1)) > 50
