from __future__ import annotations

from zkapex.unlearning.planning.steps import Step, counted, seldom

START = Step("aware", 4, 0.02, "saliency", 0, 10)


def test_counts_become_steps() -> None:
    told: list[Step] = []
    count = counted(told.append, START)
    count(4)
    count(6)
    assert [step.done for step in told] == [0, 4, 10]
    assert told[1].words() == "mask of 2 % by aware: saliency 4 of 10"


def test_steps_that_come_too_soon_are_left_out() -> None:
    told: list[Step] = []
    times = iter([0.0, 0.0, 0.5, 1.0, 1.0, 1.9])
    pass_on = seldom(told.append, 1.0, lambda: next(times))
    for done in range(4):
        pass_on(Step("aware", 4, 0.02, "saliency", done, 10))
    assert [step.done for step in told] == [0, 2]
