"""Verifiers and provers on aarch64, under qemu: vectors that were proved on x86-64, and the same bytes proved on both.

The root is put together from Debian's arm64 packages and the index's aarch64 wheels, below the test's own folder. Where
they, or qemu, cannot be had, the test is skipped and says so.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from transparent_vectors import FOLDER

from zkapex.circuits.profiles import named_statement
from zkapex.circuits.transparent.prove import verify_enrolment
from zkapex.costs.workload import Shape, layer_workload, random_mask
from zkapex.proofs.jobs.worker import finished
from zkapex.proofs.layer.terms import layout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[3]
PACKAGES = (
    "libpython3.11-stdlib", "libpython3.11-minimal", "python3.11-minimal", "libc6", "libstdc++6", "libgcc-s1", "zlib1g",
    "libssl3", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1", "libcrypt1",
)  # fmt: skip
WHEELS = ("numpy", "numba", "llvmlite", "pydantic")
PROGRAM = """
import json, pathlib, platform, sys
import second_verifier, transparent_vectors
assert platform.machine() == "aarch64"
for name in sys.argv[1:]:
    vector = transparent_vectors.load(name)
    second_verifier.verify(vector.about, vector.proof)
    assert transparent_vectors.reason(vector.about, vector.proof) == ""
    altered = vector.proof[:-1] + bytes([vector.proof[-1] ^ 1])
    assert transparent_vectors.reason(vector.about, altered)
    print(name, "accepted")
"""


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command[:2])}: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A command that starts Python on aarch64, and the folder with its packages."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("arm")
    for name in ("lists/partial", "cache/archives/partial", "debs", "root", "qemu", "site", "wheels"):
        (folder / name).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources.list").write_text(f"deb [signed-by={keyring}] http://deb.debian.org/debian bookworm main\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    apt += ["-o", "APT::Architectures::=amd64", "-o", "APT::Architectures::=arm64"]
    run(*apt, "update", cwd=folder)
    run(*apt, "download", "qemu-user-static", *(f"{name}:arm64" for name in PACKAGES), cwd=folder / "debs")
    for path in (folder / "debs").iterdir():
        run("dpkg", "-x", str(path), str(folder / ("root" if path.name.endswith("_arm64.deb") else "qemu")), cwd=folder)
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in WHEELS]
    platforms = ("--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--only-binary",
        ":all:",
        *platforms,
        "--python-version",
        "3.11",
    )
    run(*pip, *wanted, "platformdirs", "filelock", "-d", str(folder / "wheels"), cwd=folder)
    for path in (folder / "wheels").iterdir():
        zipfile.ZipFile(path).extractall(folder / "site")
    python = [
        str(folder / "qemu/usr/bin/qemu-aarch64-static"),
        "-L",
        str(folder / "root"),
        str(folder / "root/usr/bin/python3.11"),
    ]
    return python, folder


def environment(folder: Path) -> dict[str, str]:
    paths = (folder / "site", ROOT, ROOT / "tests" / "support")
    (folder / "home").mkdir(exist_ok=True)
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "ZKAPEX_CACHE": str(folder / "home"),
        "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip


def test_vectors_are_verified_there(emulator: tuple[list[str], Path]) -> None:
    python, folder = emulator
    names = ("same-weights", "guarded-targets")
    assert all((FOLDER / f"{name}.bin").exists() for name in names)
    done = subprocess.run(
        [*python, "-c", PROGRAM, *names], env=environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[: len(names)] == [f"{name} accepted" for name in names]


ENROL = """
import json, pathlib, platform, sys
import numpy, transparent_vectors
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.layout import commit
from zkapex.circuits.transparent.prove import prove_enrolment
folder = pathlib.Path(sys.argv[1])
y = transparent_vectors.layout({"layout": json.loads((folder / "layout.json").read_text())})
with numpy.load(folder / "state.npz") as stored:
    enrolled = Enrolled(stored["theta"], stored["factors"])
tree = commit(y, enrolled.theta, enrolled.curvature(y), bytes(64))
proof = prove_enrolment(y, tree, enrolled, b"context", bytes(64))
(folder / f"{platform.machine()}.bin").write_bytes(tree.root + proof)
"""


def test_a_layer_is_enrolled_and_proved_there_to_the_same_bytes(
    emulator: tuple[list[str], Path], tmp_path: Path
) -> None:
    python, folder = emulator
    spec, shape = named_statement("tiny", "guarded-group-obs", "kfac"), Shape("layer", 40, 70)
    work = layer_workload(spec, [shape], random_mask([shape], 0.02, np.random.default_rng(1)), 1)
    here, there = (work.write_jobs(tmp_path / name)[0] for name in ("here", "there"))
    work.engine.prove_jobs([here], 1, lambda folder: None)
    done = subprocess.run(
        [*python, "-m", "zkapex.proofs.layer.prover"], input=f"{there}\n", env=environment(folder),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "null\n", done.stdout + done.stderr[-2000:]
    proofs = [finished(job) for job in (here, there)]
    assert proofs[0] is not None
    assert proofs[1] is not None
    assert proofs[0][0] == proofs[1][0]
    work.engine.verifier(work.claim()).verify(0, proofs[1][0])

    y = layout(work.instance.manifest, 0)
    (tmp_path / "layout.json").write_text(json.dumps(asdict(y)))
    theta, factors = work.holdings.weights["layer"], work.holdings.curvature["layer"]
    np.savez(tmp_path / "state.npz", theta=theta, factors=factors)
    for command in ([sys.executable], python):
        done = subprocess.run(
            [*command, "-c", ENROL, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} if command == [sys.executable]
            else environment(folder),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    there_too = (tmp_path / "aarch64.bin").read_bytes()
    assert (tmp_path / f"{platform.machine()}.bin").read_bytes() == there_too
    verify_enrolment(y, there_too[:32], b"context", there_too[32:])
