"""What is proved in a federation: its circuits and its manifest, decided once for all its requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from zkapex.circuits.encoding import exponent_for
from zkapex.circuits.halo2.srs import local_srs
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.profiles import named_statement, profile
from zkapex.errors import InputError, StorageError
from zkapex.proofs.chunk.second_moment import LARGEST_PER_MILLE
from zkapex.proofs.messages import CurvatureCheck, LayerSpec, ModelManifest
from zkapex.server.federation.provider import Provider
from zkapex.server.federation.settings import RunSettings
from zkapex.storage import save_text
from zkapex.unlearning.boundary import check_model
from zkapex.unlearning.curvature.factor import KAPPA
from zkapex.unlearning.weights import weight_of


@dataclass(frozen=True)
class Setup:
    """The circuits of a federation, and its manifest.

    Attributes
    ----------
    circuit : Circuit
    check : Circuit or None
        Of the manifest's curvature check, if it has one.
    manifest : ModelManifest
    """

    circuit: Circuit
    check: Circuit | None
    manifest: ModelManifest


def prepare(provider: Provider, settings: RunSettings, model: nn.Module, path: Path) -> Setup:
    """Build the circuits; the manifest is that of `path`, or is made of the model and kept there.

    Later models keep the first one's fixed point: clients enrol under one manifest for all requests.

    Raises
    ------
    InputError
        The circuits are others than those of the manifest: another release, or another reference string.
    StorageError
        What is kept is damaged, or cannot be written.
    """
    chosen = profile(settings.profile)
    rank = None if settings.guard_rank < 0 else settings.guard_rank
    statement = named_statement(chosen.name, settings.operator, settings.curvature, rank)
    built = circuit(statement, local_srs(chosen.log2_rows))
    check = circuit(chosen.statement("second-moment"), built.srs) if settings.prove_curvature else None
    if not path.exists():
        save_text(path, _manifest(provider, model, chosen.name, built, check).to_bytes().decode())
    try:
        manifest = ModelManifest.from_bytes(path.read_bytes())
    except OSError as e:
        raise StorageError(f"cannot read {path}", why=str(e)) from e
    if (built.vk_digest, built.settings_digest, built.srs.digest) != (
        manifest.circuit_digest,
        manifest.settings_digest,
        manifest.srs_digest,
    ):
        raise InputError(
            "this federation's clients have enrolled for another circuit than this release builds",
            why="keys or reference string in the cache are others than when the federation began",
            fix="bring back the cache of keys it began with, or the release",
        )
    return Setup(built, check, manifest)


def check_provider(provider: Provider, settings: RunSettings) -> None:
    """Return only if the provider's model can be unlearned: nothing is trained that could not be.

    Raises
    ------
    InputError
        As `zkapex.unlearning.boundary.check_model`.
    """
    model = provider.initial_model()
    statement = named_statement(settings.profile, settings.operator, settings.curvature)
    inputs = None if statement.curvature == "none" else provider.curvature_inputs()
    check_model(model, provider.target_layers(model), profile(settings.profile).weight_limit, inputs)


def _manifest(provider: Provider, model: nn.Module, name: str, built: Circuit, check: Circuit | None) -> ModelManifest:
    limit = built.spec.weight_limit
    return ModelManifest(
        model=provider.name,
        profile=name,
        statement=built.spec,
        curvature_bits=KAPPA,
        layers=tuple(_layer(one, weight_of(model, one), limit) for one in provider.target_layers(model)),
        circuit_digest=built.vk_digest,
        settings_digest=built.settings_digest,
        srs_digest=built.srs.digest,
        srs_origin="local",
        curvature_check=None
        if check is None
        else CurvatureCheck(
            statement=check.spec,
            circuit_digest=check.vk_digest,
            settings_digest=check.settings_digest,
            largest_per_mille=LARGEST_PER_MILLE,
        ),
    )


def _layer(name: str, values: npt.NDArray[np.float64], limit: int) -> LayerSpec:
    return LayerSpec(name=name, rows=values.shape[0], cols=values.shape[1], exponent=exponent_for(values, limit))
