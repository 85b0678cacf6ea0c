"""Keys and structured reference strings on disk, outside the repository, built once and addressed by content.

``<cache>/srs/<sha256>.srs``            the strings; ``local-<k>.json`` names the one generated here for height 2^k
``<cache>/keys/<statement>-<srs>/``     network.onnx, settings.json, circuit.ezkl, vk.key, pk.key, built.json

The cache root is ``$ZKAPEX_CACHE`` or the platform's user cache folder. Every build happens in a temporary folder that
is renamed into place, under a lock, so a killed build leaves nothing half made.

``$ZKAPEX_PEER_CACHE`` may name the cache of another machine of the same owner (a network mount, or what a tool has
copied from there): what it holds is fetched instead of built, if every file has the digest noted beside it. Whoever can
write to it can make this machine prove with keys of their own, and a proof made with such a key may reveal the witness.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ezkl
import onnx

from zkapex.circuits.cache import cache_root, checked, filling, require_writable, scratch, sha256_file
from zkapex.circuits.field import to_felt
from zkapex.circuits.halo2.build import build_graph, statement_digest
from zkapex.circuits.halo2.graph import SCALE_BITS
from zkapex.circuits.halo2.srs import Srs, find_local_srs
from zkapex.circuits.statement import RESERVED_ROWS, StatementSpec
from zkapex.errors import ProverError, ResourceError, StorageError

_DIGESTS = {
    "vk.key": "vk_sha256",
    "pk.key": "pk_sha256",
    "circuit.ezkl": "compiled_sha256",
    "settings.json": "settings_sha256",
}

_LEAVE_PEER = "unset ZKAPEX_PEER_CACHE, or have the peer build it again"


def _private_tables() -> None:
    """Give ezkl a folder of this process for its lookup tables.

    By default it keeps them in ``~/.ezkl``, where it believes whatever it finds: a build that was killed at the wrong
    moment makes all later ones fail, and altered values would silently become part of the keys.
    """
    folder = tempfile.mkdtemp(prefix="zkapex-tables-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["EZKL_REPO_PATH"] = folder  # read when the first table is laid out


_private_tables()


@dataclass(frozen=True)
class Circuit:
    """A compiled statement with its keys.

    Attributes
    ----------
    spec : StatementSpec
    srs : Srs
    folder : Path
    vk_digest, settings_digest : str
        SHA-256 (hex) of the verification key and of the canonical settings.
    rows : int
        Rows the statement occupies, of ``2 ** spec.log2_rows``.
    proof_bytes : int
        Exact length of every proof of this circuit; halo2 itself would ignore trailing bytes. 0 if it is not known,
        of a circuit that is only verified with: see `zkapex.proofs.chunk.prove.verify_exactly`.
    column_rows : int
        Values after which ezkl begins another committed column; the rest of the rows are halo2's for blinding.
    """

    spec: StatementSpec
    srs: Srs
    folder: Path
    vk_digest: str
    settings_digest: str
    rows: int
    proof_bytes: int
    column_rows: int

    @classmethod
    def open(cls, folder: Path, srs: Path, origin: str = "local") -> Circuit:
        """A circuit built before, from its folder and the reference string it was built with.

        Raises
        ------
        StorageError
            If a file is missing or damaged.
        """
        try:
            built = json.loads((folder / "built.json").read_text())
            spec = StatementSpec.model_validate(built["statement"])
            known = tuple(
                built[name] for name in ("vk_sha256", "settings_sha256", "rows", "proof_bytes", "column_rows")
            )
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise StorageError(
                f"{folder} holds no usable circuit", why=str(e), fix="delete it; it will be rebuilt"
            ) from e
        checked(folder / "vk.key", known[0])
        checked(folder / "settings.json", known[1])
        return cls(spec, Srs(srs, sha256_file(srs), origin), folder, *known)

    @property
    def settings(self) -> Path:
        """The canonical settings file."""
        return self.folder / "settings.json"

    @property
    def compiled(self) -> Path:
        """The compiled circuit; only the prover needs it."""
        return self.folder / "circuit.ezkl"

    @property
    def vk(self) -> Path:
        """The verification key."""
        return self.folder / "vk.key"

    @property
    def pk(self) -> Path:
        """The proving key."""
        return self.folder / "pk.key"


def circuit(spec: StatementSpec, srs: Srs, root: Path | None = None) -> Circuit:
    """The compiled statement and its keys, built on first use (about 5 s at 2^14 rows, 10 s at 2^15).

    Raises
    ------
    ProverError
        If the statement does not fit the rows of the specification.
    ResourceError
        If the disk is full.
    """
    folder = _place(spec, srs, root or cache_root())
    # A folder of keys appears whole, so that who finds it may read it.
    if not (folder / "built.json").exists():
        with filling(folder.parent, folder.name):
            if not (folder / "built.json").exists():
                with scratch(folder.parent) as work:
                    if not _fetch(folder.name, work):
                        _build(spec, srs, work)
                    shutil.rmtree(folder, ignore_errors=True)
                    work.rename(folder)
                    work.mkdir()  # for the context manager to remove
    return replace(Circuit.open(folder, srs.path), srs=srs)


def require_buildable(spec: StatementSpec, root: Path | None = None) -> None:
    """Raise StorageError if keys are neither there nor could be put there; better before a training than after it."""
    root = root or cache_root()
    srs = find_local_srs(spec.log2_rows, root)
    if srs is None:
        require_writable(root / "srs")
    if srs is None or not (_place(spec, srs, root) / "built.json").exists():
        require_writable(root / "keys")


def _place(spec: StatementSpec, srs: Srs, root: Path) -> Path:
    return root / "keys" / f"{statement_digest(spec)[:32]}-{srs.digest[:16]}"


def verification_circuit(spec: StatementSpec, srs: Srs, root: Path | None = None) -> Circuit:
    """As `circuit`, without a proving key: all that is needed to verify, in a fraction of the time and of the space.

    Raises
    ------
    ProverError, ResourceError
        As `circuit`.
    """
    whole = _place(spec, srs, root or cache_root())
    if (whole / "built.json").exists():
        return replace(Circuit.open(whole, srs.path), srs=srs)
    folder = whole.with_name(f"{whole.name}-verify")
    if not (folder / "built.json").exists():
        with filling(folder.parent, folder.name):
            if not (folder / "built.json").exists():
                with scratch(folder.parent) as work:
                    _build(spec, srs, work, proving=False)
                    shutil.rmtree(folder, ignore_errors=True)
                    work.rename(folder)
                    work.mkdir()  # for the context manager to remove
    return replace(Circuit.open(folder, srs.path), srs=srs)


def canonical_settings(spec: StatementSpec, graph: Path, work: Path) -> dict[str, Any]:
    """Ezkl's settings for the statement, with everything set explicitly and nothing that varies from run to run.

    Every visibility is stated because ezkl's command line and library have different defaults.
    """
    args = ezkl.PyRunArgs()
    args.input_visibility = "polycommit"
    args.output_visibility = "public"
    args.param_visibility = "fixed"
    args.input_scale = args.param_scale = SCALE_BITS
    args.scale_rebase_multiplier = 20  # never rescale: every value is an integer
    args.num_inner_cols = spec.inner_columns
    args.logrows = spec.log2_rows
    args.lookup_range = (-spec.weight_limit, spec.weight_limit)
    args.ignore_range_check_inputs_outputs = True  # the statement's own lookup bounds what must be bounded
    args.disable_freivalds = (
        True  # ezkl's own leaves its products unconstrained; see zkapex.circuits.operators.guarded_group_obs
    )
    path = work / "settings.raw.json"
    ezkl.gen_settings(str(graph), str(path), py_run_args=args)
    settings: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    settings["timestamp"] = 0
    # Ezkl lists lookup tables in the order of a hash set, another one every time, and lays out the keys in this order.
    settings["required_lookups"].sort(key=json.dumps)
    # Ezkl counts a cell for every input, but a committed input stays in its own column and takes none.
    settings["total_assignments"] -= sum(spec.input_lengths().values())
    settings["num_rows"] = -(-settings["total_assignments"] // spec.inner_columns)
    if settings["run_args"]["logrows"] != spec.log2_rows:
        raise ProverError(f"the statement does not fit 2^{spec.log2_rows} rows", fix="use fewer rows per chunk")
    height = (1 << spec.log2_rows) - RESERVED_ROWS
    needed = max(
        settings["num_rows"],
        2 * spec.weight_limit + 1,
        max(spec.input_lengths().values()),
    )
    if needed > height:
        raise ProverError(
            f"the statement needs {needed} rows, the circuit has {height}", fix="use fewer rows per chunk"
        )
    return settings


def _build(spec: StatementSpec, srs: Srs, work: Path, *, proving: bool = True) -> None:
    path = {n: str(work / n) for n in ("network.onnx", "settings.json", "circuit.ezkl", "vk.key", "pk.key")}
    if not proving:
        path["pk.key"] = os.devnull  # ezkl makes both keys or none
    try:
        onnx.save(build_graph(spec), path["network.onnx"])
        settings = canonical_settings(spec, work / "network.onnx", work)
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        (work / "settings.json").write_text(text)
        ezkl.compile_circuit(path["network.onnx"], path["circuit.ezkl"], path["settings.json"])
        ezkl.setup(path["circuit.ezkl"], path["vk.key"], path["pk.key"], str(srs.path))
        proof_bytes = _trial_proof(spec, srs, work) if proving else 0
    except OSError as e:
        raise ResourceError(f"building keys in {work.parent} failed", why=str(e), fix="free disk space") from e
    except RuntimeError as e:
        raise ProverError("ezkl could not build the circuit", why=str(e), fix="check the statement's size") from e
    built = {
        "statement": spec.model_dump(),
        "vk_sha256": sha256_file(work / "vk.key"),
        **({"pk_sha256": sha256_file(work / "pk.key")} if proving else {}),
        "compiled_sha256": sha256_file(work / "circuit.ezkl"),
        "settings_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "rows": settings["num_rows"],
        "proof_bytes": proof_bytes,
        "column_rows": _column_rows(spec, srs, work),
        "cells_per_weight": settings["total_assignments"] / spec.weights,
    }
    (work / "built.json").write_text(json.dumps(built, indent=1))
    if not proving:
        for name in ("network.onnx", "circuit.ezkl"):
            (work / name).unlink()


def _fetch(name: str, work: Path) -> bool:
    """Copy a circuit from the peer's cache, if there is one that holds it.

    Raises
    ------
    StorageError
        If it is damaged there.
    """
    peer = os.environ.get("ZKAPEX_PEER_CACHE")
    if not peer or not (Path(peer) / "keys" / name / "built.json").exists():
        return False
    theirs = Path(peer) / "keys" / name
    try:
        built = json.loads((theirs / "built.json").read_text())
        for file in ("network.onnx", "settings.json", "circuit.ezkl", "vk.key", "pk.key", "built.json"):
            shutil.copyfile(theirs / file, work / file)
        digests = {f: built[d] for f, d in _DIGESTS.items()}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StorageError(f"the peer's circuit in {theirs} is unusable", why=str(e), fix=_LEAVE_PEER) from e
    for file, digest in digests.items():
        if sha256_file(work / file) != digest:
            raise StorageError(f"{theirs / file} does not have the digest noted beside it", fix=_LEAVE_PEER)
    return True


def _trial_proof(spec: StatementSpec, srs: Srs, work: Path) -> int:
    """Length of a proof, found by proving the all-zero witness: keys that cannot prove must not be cached."""
    zeros = [[to_felt(0)] * length for length in spec.input_lengths().values()]
    files = {n: work / n for n in ("input.json", "witness.json", "proof.json")}
    files["input.json"].write_text(json.dumps({"input_data": zeros}))
    compiled = str(work / "circuit.ezkl")
    ezkl.gen_witness(
        str(files["input.json"]), compiled, str(files["witness.json"]), str(work / "vk.key"), str(srs.path)
    )
    ezkl.prove(str(files["witness.json"]), compiled, str(work / "pk.key"), str(files["proof.json"]), str(srs.path))
    length = len(json.loads(files["proof.json"].read_text())["proof"])
    for file in files.values():
        file.unlink()
    return length


def _column_rows(spec: StatementSpec, srs: Srs, work: Path) -> int:
    """How many values ezkl puts into a committed column before it begins another, found by giving it ever fewer."""
    for free in range(1, 64):
        count = (1 << spec.log2_rows) - free
        zeros = [to_felt(0)] * count
        points = ezkl.kzg_commit(zeros, str(work / "vk.key"), str(work / "settings.json"), str(srs.path))
        if len(points) == 1:
            return count + 1  # a message that fills its last column gets an empty one after it
    raise ProverError("ezkl splits committed columns in a way that is not understood", fix="report this as a defect")
