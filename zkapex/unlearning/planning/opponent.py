"""Whom targets are planned against, and how hard."""

from __future__ import annotations

from dataclasses import dataclass

from zkapex.errors import InputError


@dataclass(frozen=True)
class Opponent:
    """What is planned against; see `zkapex.unlearning.planning.targets`.

    Attributes
    ----------
    rank : int
        Directions per column block.
    steps : int
    step_size, direction_step_size : float
        Of Adam on T, in units of the model's weights, and on V; both decay as the root of what is left.
    margin : float
        In logits: by how much another label is to win on the forget set.
    retain_weight : float
        Of the divergence from former answers on what is kept.
    prototypes : float
        Weight of the prototype loss; 0 for none.
    shots : tuple of int
        Of rehearsals; none if empty.
    every, start : int
        Steps between rehearsals, and before the first.
    rehearsal_steps, rehearsal_rate : int, float
        Adam in a rehearsal.
    rehearsal_weight : float
    scales : tuple of float
        Multiples of T at which the class has to stay forgotten.
    forget_batch, retain_batch : int
        Examples per step and copy.
    """

    rank: int = 2
    steps: int = 200
    step_size: float = 0.03
    direction_step_size: float = 0.01
    margin: float = 4.0
    retain_weight: float = 24.0
    prototypes: float = 2.0
    shots: tuple[int, ...] = (5, 10)
    every: int = 30
    start: int = 20
    rehearsal_steps: int = 60
    rehearsal_rate: float = 1e-3
    rehearsal_weight: float = 1.0
    scales: tuple[float, ...] = (-1.0, 0.0)
    forget_batch: int = 48
    retain_batch: int = 96

    def __post_init__(self) -> None:
        if min(self.rank, self.steps, self.every, self.forget_batch, self.retain_batch) < 1 or self.margin <= 0:
            raise InputError("planning of targets needs a direction, a step and examples, and a margin above 0")
