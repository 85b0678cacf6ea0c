"""What is proved in a federation: its circuits and its manifest, decided once for all its requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from zkapex.circuits.encoding import exponent_for
from zkapex.circuits.profiles import named_statement, profile
from zkapex.errors import InputError, StorageError
from zkapex.proofs.backends import backend, check_backend
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.messages import LayerSpec, ModelManifest
from zkapex.server.federation.provider import Provider
from zkapex.server.federation.settings import RunSettings
from zkapex.storage import save_text
from zkapex.unlearning.boundary import check_model
from zkapex.unlearning.curvature.factor import KAPPA
from zkapex.unlearning.weights import weight_of


def prepare(provider: Provider, settings: RunSettings, model: nn.Module, path: Path) -> Engine:
    """Build the circuits; the manifest is that of `path`, or is made of the model and kept there.

    Later models keep the first one's fixed point: clients enrol under one manifest for all requests.

    Returns
    -------
    Engine
        With its manifest.

    Raises
    ------
    InputError
        The circuits are others than those of the manifest: another release, or another reference string; or what the
        backend needs is not installed.
    StorageError
        What is kept is damaged, or cannot be written.
    """
    chosen = profile(settings.profile)
    rank = None if settings.guard_rank < 0 else settings.guard_rank
    statement = named_statement(chosen.name, settings.operator, settings.curvature, rank)
    check = chosen.statement("second-moment") if settings.prove_curvature else None
    kept = path.exists()
    layers = _layers(provider, model, statement.weight_limit) if not kept else load_manifest(path).layers
    proving = backend(settings.backend)
    built = proving.manifest_fields(statement, layers, KAPPA, settings.srs, check)
    if not kept:
        made = ModelManifest(
            model=provider.name, profile=chosen.name, statement=statement, curvature_bits=KAPPA, layers=layers, **built
        )
        save_text(path, made.to_bytes().decode())
    manifest = load_manifest(path)
    if any(getattr(manifest, name) != value for name, value in built.items()):
        raise InputError(
            "this federation's clients have enrolled for another circuit than this release builds",
            why="keys or reference string in the cache are others than when the federation began",
            fix="bring back the cache of keys it began with, or the release",
        )
    return proving.open(manifest, {})


def load_manifest(path: Path) -> ModelManifest:
    """The manifest that is kept.

    Raises
    ------
    StorageError
        It cannot be read, or is damaged.
    """
    try:
        return ModelManifest.from_bytes(path.read_bytes())
    except OSError as e:
        raise StorageError(f"cannot read {path}", why=str(e)) from e


def check_provider(provider: Provider, settings: RunSettings) -> None:
    """Return only if the provider's model can be unlearned, and proved: nothing is trained that could not be.

    Raises
    ------
    InputError
        As `zkapex.unlearning.boundary.check_model`.
    StorageError
        There are no keys yet, and the cache cannot be written.
    """
    model = provider.initial_model()
    rank = None if settings.guard_rank < 0 else settings.guard_rank
    statement = named_statement(settings.profile, settings.operator, settings.curvature, rank)
    check_backend(settings.backend, settings.operator, settings.curvature, settings.audit)
    backend(settings.backend).require_buildable(statement)
    inputs = None if statement.curvature == "none" else provider.curvature_inputs()
    check_model(model, provider.target_layers(model), profile(settings.profile).weight_limit, inputs)


def _layers(provider: Provider, model: nn.Module, limit: int) -> tuple[LayerSpec, ...]:
    return tuple(_layer(one, weight_of(model, one), limit) for one in provider.target_layers(model))


def _layer(name: str, values: npt.NDArray[np.float64], limit: int) -> LayerSpec:
    return LayerSpec(name=name, rows=values.shape[0], cols=values.shape[1], exponent=exponent_for(values, limit))
