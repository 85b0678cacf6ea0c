"""How the provider chooses an operator's public terms: the base of its planner, and planners by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from zkapex.circuits.operators import declared, named_object
from zkapex.unlearning.planning.standing import Standing
from zkapex.unlearning.planning.steps import OnStep, no_step
from zkapex.unlearning.planning.trials import BoolArray, Contrast, Examples, FixedPoint, Plan, Trial

if TYPE_CHECKING:
    from zkapex.unlearning.planning.search import SearchSpace


@dataclass(frozen=True)
class Question:
    """What a planner is asked.

    Attributes
    ----------
    trials : sequence of Trial
        The provider's copies as the operator sees them, the global model first.
    names : sequence of str
        Target layers.
    forget_set : (inputs, labels)
    encoding : FixedPoint
    space : SearchSpace
        What to try, and what counts as success.
    earlier : mapping of str to bool array [out, in], optional
        What earlier requests masked, zero in every copy; a plan's mask includes it.
    contrast : Contrast, optional
        Where the forget set is to be answered like examples that were never seen.
    on_step : callable
        Told where the search is.
    standing : Standing
        What earlier requests have left, of which planners with targets keep all targets.
    """

    trials: Sequence[Trial]
    names: Sequence[str]
    forget_set: Examples
    encoding: FixedPoint
    space: SearchSpace
    earlier: Mapping[str, BoolArray] | None = None
    contrast: Contrast | None = None
    on_step: OnStep = no_step
    standing: Standing = field(default_factory=Standing)


class Planner(ABC):
    """Tries public terms on copies of the model.

    Attributes
    ----------
    largest_margin : float
        In logits. The most that forgetting should be asked for beyond what is seen on the copies.
    """

    largest_margin: ClassVar[float] = math.inf

    def check(self, question: Question) -> None:  # noqa: B027 - most have nothing to refuse
        """Raise InputError if the question asks for what the operator has not, before anything is computed."""

    @abstractmethod
    def plans(self, question: Question) -> Iterator[Plan]:
        """Plans, each judged (`zkapex.unlearning.planning.trials.judge`) and with its own outcome only.

        Raises
        ------
        RangeExceededError
            No more terms of this kind stay within the circuit's range; the plans before count.
        """


@cache
def planner(name: str) -> Planner:
    """The planner of an operator.

    Raises
    ------
    InputError
        Nothing that is installed here declares it, or its declaration is wrong.
    """
    found: Planner = named_object(declared(name).planner)
    return found
