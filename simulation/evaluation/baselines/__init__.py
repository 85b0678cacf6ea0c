"""Methods of unlearning by name: the oracle, what practitioners use, and what zkapex proves.

Hyperparameters are the published ones, for other models than these: nothing is tuned here, for better or worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from zkapex.errors import InputError
from zkapex.simulation.evaluation.baselines.base import Case, Method
from zkapex.simulation.evaluation.baselines.fine_tune import FineTune
from zkapex.simulation.evaluation.baselines.gradient_ascent import GradientAscent
from zkapex.simulation.evaluation.baselines.group_obs import GroupObs
from zkapex.simulation.evaluation.baselines.guarded_group_obs import GuardedGroupObs
from zkapex.simulation.evaluation.baselines.hamu import HamuQ
from zkapex.simulation.evaluation.baselines.laf import LabelAgnosticForgetting
from zkapex.simulation.evaluation.baselines.loku import LowRankUnlearning
from zkapex.simulation.evaluation.baselines.mask_only import MaskOnly
from zkapex.simulation.evaluation.baselines.modhifi import ModHiFi
from zkapex.simulation.evaluation.baselines.mrp import RepresentationProjection
from zkapex.simulation.evaluation.baselines.npo import NegativePreference
from zkapex.simulation.evaluation.baselines.original import Original
from zkapex.simulation.evaluation.baselines.retrain import Retrain
from zkapex.simulation.evaluation.baselines.salun import SalUn
from zkapex.simulation.evaluation.baselines.scrub import Scrub
from zkapex.simulation.evaluation.baselines.ssd import SelectiveSynapticDampening
from zkapex.simulation.evaluation.baselines.targeted import Targeted, TargetedTuned

__all__ = ["ANY_DELETION", "CLASSIFICATION", "METHODS", "TARGETED", "Case", "Method", "methods_called"]

_ALL: tuple[Method, ...] = (
    Original(),
    Retrain(),
    FineTune(),
    GradientAscent(),
    NegativePreference(),
    LowRankUnlearning(),
    Scrub(),
    SalUn(),
    SelectiveSynapticDampening(),
    LabelAgnosticForgetting(),
    HamuQ(),
    RepresentationProjection(),
    ModHiFi(),
    MaskOnly(),
    GroupObs(),
    GuardedGroupObs(),
    Targeted(),
    TargetedTuned(),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""Every method, in the order of tables."""

TARGETED = (Targeted.name, TargetedTuned.name)
"""Those that need targets to be planned."""
CLASSIFICATION: tuple[str, ...] = tuple(name for name in METHODS if name not in ("npo", "loku", *TARGETED))
"""Those that make sense for a classifier, whatever is planned."""
ANY_DELETION: tuple[str, ...] = tuple(name for name in CLASSIFICATION if name != "modhifi-u")
"""Of these, those that do where no class goes: the others look for what makes up a class."""


def methods_called(names: Sequence[str]) -> list[Method]:
    """The methods of these names in the order of `METHODS`; all of them for no name.

    Raises
    ------
    InputError
        There is no method of a name.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise InputError(f"there is no method {unknown[0]!r}", fix=f"choose from {', '.join(METHODS)}")
    return [method for name, method in METHODS.items() if not names or name in names]
