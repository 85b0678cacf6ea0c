"""The default demo with the transparent backend: targets proved, held in training, enrolled again; cheats caught."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import zkapex

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REVIEW = "experimental backend, not reviewed"


@pytest.mark.parametrize("cheat", ["half", "replay"])
def test_the_default_demo(tmp_path: Path, cheat: str) -> None:
    out = tmp_path / "demo"
    command = ("demo", "--backend", "transparent", "--clients", "3", "--cheat", cheat, "--out", out, "--json")
    code, stdout, stderr = zkapex(*command)
    assert code == 0, stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["settings"]["operator"] == "targeted-group-obs"
    verdicts = [row["verdict"] for row in summary["clients"]]
    assert sorted(verdicts) == ["proved", "proved", "quarantined"]
    accuracy = summary["accuracy"]
    assert accuracy["after"]["forget"] < 0.1 < accuracy["before"]["forget"]
    assert accuracy["tuned"]["forget"] < 0.1
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "tune.done" for event in events)
    program = (
        "import sys\n"
        "for name in ('ezkl', 'onnx', 'py_ecc', 'torch', 'flwr'): sys.modules[name] = None\n"
        f"sys.argv = ['zkapex', 'verify', {str(out / 'receipts')!r}, '--trust', {str(out / 'key.pub')!r}, '--chain']\n"
        "from zkapex.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert said.count(f"request-1 proved ({REVIEW})") == 2
    assert said.count(f"request-1 failed ({REVIEW})") == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [(("--audit", "sampled"), "sampled audit"), (("--curvature", "block-fisher"), "block-fisher")],
)
def test_what_the_backend_does_not_prove_is_refused_by_name(
    tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    code, _, stderr = zkapex("demo", "--backend", "transparent", "--out", tmp_path / "demo", *options)
    assert code == 10
    for word in ("transparent", named, "halo2"):
        assert word in stderr
    assert not (tmp_path / "demo").exists()
