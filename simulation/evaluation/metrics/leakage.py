"""What a request gives away by itself: which class it deletes, guessed from the targets of the head, without a model.

Whoever holds a client's unlearned model needs no receipt for that: it never answers the class. But a receipt travels
further than a model, and targets are fitted to one class: of the head's rows that class's is moved most. Whoever wants
to give away less leaves the head out of the layers with targets, at the price that is in docs/security.md.
"""

from __future__ import annotations

import numpy as np

from zkapex.simulation.evaluation.metrics.undo import Public

HEAD = "head"


def guessed_labels(public: Public) -> tuple[int, ...]:
    """Labels in the order in which they are taken to be the deleted one; empty if nothing is prescribed of the head.

    Rows are compared with the median of all, each direction measured by its own spread over rows.
    """
    parts = [value for (name, _), value in sorted(public.prescribed.items()) if name == HEAD]
    rows = np.concatenate(parts, 1) if parts else np.zeros((0, 0))
    rows = rows[:, np.abs(rows).any(0)] if rows.size else rows
    if not rows.size:
        return ()
    away = rows - np.median(rows, 0)
    spread = np.median(np.abs(away), 0)
    far = np.linalg.norm(away / np.where(spread > 0, spread, 1.0), axis=1)
    return tuple(int(label) for label in np.argsort(-far, kind="stable"))
