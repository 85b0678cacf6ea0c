"""Public masks: which weights a request zeroes, chosen over all target layers at once.

A proof costs by the touched chunk, however many weights it masks there. `top_fraction` does not look at chunks, and a
few per cent of the weights, scattered, touch nearly all of them. `concentrated` takes less salient weights in exchange
for fewer chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ChunkShape:
    """Rows R and columns B of the chunks a layer is cut into; those at its edge are smaller."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise InputError(f"chunks of {self.rows} x {self.columns} hold no weight")

    def of(self, shape: tuple[int, ...]) -> IntArray:
        """Number of the chunk of each weight of a layer, int64 ``shape``, from 0 on, column blocks within bands."""
        rows, cols = shape
        blocks = -(-cols // self.columns)
        return (np.arange(rows) // self.rows)[:, None] * blocks + np.arange(cols) // self.columns

    def touched(self, masks: Mapping[str, BoolArray]) -> int:
        """How many chunks of all layers have at least one masked weight."""
        return sum(len(np.unique(self.of(mask.shape)[mask])) for mask in masks.values())


def top_fraction(scores: Mapping[str, FloatArray], fraction: float) -> dict[str, BoolArray]:
    """Mask the ``round(fraction * n)`` highest of the n scores of all layers together, at least one.

    Ties are broken by position (layers in the mapping's order, row-major), so that the count is exact and everybody
    who knows the scores gets the same mask.

    Parameters
    ----------
    scores : mapping of str to float64 array [out, in]
    fraction : float
        In (0, 1].

    Returns
    -------
    dict of str to bool array [out, in]

    Raises
    ------
    InputError
        If the fraction is out of range, there are no scores, or one is not a number.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"a mask fraction must be above 0 and at most 1, not {fraction}")
    if not scores:
        raise InputError("there is no layer to mask")
    flat = np.concatenate([s.ravel() for s in scores.values()])
    if np.isnan(flat).any():
        raise InputError("a saliency score is not a number", why="the model's loss or gradient overflowed")
    chosen = np.zeros(len(flat), np.bool_)
    chosen[np.argsort(-flat, kind="stable")[: max(1, round(fraction * len(flat)))]] = True
    masks, start = {}, 0
    for name, score in scores.items():
        masks[name] = chosen[start : start + score.size].reshape(score.shape)
        start += score.size
    return masks


def concentrated(
    scores: Mapping[str, FloatArray],
    fraction: float,
    shape: ChunkShape,
    concentration: float,
    masked: Mapping[str, BoolArray] | None = None,
) -> dict[str, BoolArray]:
    """Mask the ``round(fraction * n)`` highest scores, at least one, that lie in the best few chunks.

    The number of chunks lies, by `concentration`, between that which `top_fraction` would touch (0) and the smallest
    that can hold the mask (1); those that hold a weight of `masked` cost nothing more, are always used, and may be more
    already. The others are ranked by the sum of their highest scores, as many as an even share of the mask would take.

    Parameters
    ----------
    scores : mapping of str to float64 array [out, in]
    fraction : float
        In (0, 1]: further weights, as a share of all n. No more than are left are taken.
    shape : ChunkShape
    concentration : float
        In [0, 1]. At 0 the result is that of `top_fraction` on what is not masked yet.
    masked : mapping of str to bool array [out, in], optional
        Weights that are masked already.

    Returns
    -------
    dict of str to bool array [out, in]
        `masked` and the new weights.

    Raises
    ------
    InputError
        As `top_fraction`; also if `concentration` is out of range, or nothing is left to mask.
    """
    if not 0 <= concentration <= 1:
        raise InputError(f"concentration must be from 0 to 1, not {concentration}")
    before = {name: np.zeros(s.shape, np.bool_) for name, s in scores.items()} if masked is None else dict(masked)
    total, left = sum(m.size for m in before.values()), sum(int((~m).sum()) for m in before.values())
    if left == 0:
        raise InputError("every weight is masked already")
    wanted = min(fraction, left / total)
    free = {name: np.where(before[name], -np.inf, s) for name, s in scores.items()}
    scattered = top_fraction(free, wanted)
    if concentration > 0:
        count = sum(int(m.sum()) for m in scattered.values())
        allowed = _best_chunks(free, before, scattered, count, shape, concentration)
        scattered = top_fraction({n: np.where(allowed[n], s, -np.inf) for n, s in free.items()}, wanted)
    return {name: before[name] | scattered[name] for name in scores}


def _best_chunks(
    free: Mapping[str, FloatArray],
    before: Mapping[str, BoolArray],
    scattered: Mapping[str, BoolArray],
    count: int,
    shape: ChunkShape,
    concentration: float,
) -> dict[str, BoolArray]:
    """Where the next `count` weights may be masked; see `concentrated`."""
    numbers, first = {}, 0
    for name, score in free.items():
        numbers[name] = shape.of(score.shape) + first
        first = int(numbers[name].max()) + 1
    chunk = np.concatenate([n.ravel() for n in numbers.values()])
    score = np.concatenate([s.ravel() for s in free.values()])
    is_masked = np.concatenate([before[name].ravel() for name in free])
    is_chosen = np.concatenate([scattered[name].ravel() for name in free])
    room = np.bincount(chunk[~is_masked], minlength=first)
    opened = np.bincount(chunk[is_masked], minlength=first) > 0
    closed = np.flatnonzero(~opened)
    missing = count - int(room[opened].sum())
    fewest = 0
    if missing > 0:
        fewest = int(np.searchsorted(np.cumsum(np.sort(room[closed])[::-1]), missing)) + 1
    most = int(((np.bincount(chunk[is_chosen], minlength=first) > 0) & ~opened).sum())
    sizes = np.sort(np.bincount(chunk))[::-1]
    least = int(np.searchsorted(np.cumsum(sizes), count + int(is_masked.sum()))) + 1
    scatter = most + int(opened.sum())
    extra = min(max(round(scatter - concentration * (scatter - least)) - int(opened.sum()), fewest), most)
    share = -(-count // (extra + int(opened.sum())))
    order = np.lexsort((-score, chunk))
    starts = np.searchsorted(chunk[order], np.arange(first))
    place = np.arange(len(chunk)) - starts[chunk[order]]
    best = (place < share) & ~is_masked[order]
    worth = np.bincount(chunk[order][best], weights=score[order][best], minlength=first)
    ranked = closed[np.argsort(-worth[closed], kind="stable")]
    chosen, spare = list(ranked[:extra]), list(ranked[extra:])
    while missing > int(room[chosen].sum()):
        # Chunks at the edge of a layer are smaller; the smallest gives way until the mask fits.
        chosen.remove(min(chosen, key=lambda c: room[c]))
        chosen.append(spare.pop(int(np.argmax(room[spare]))))
    opened[chosen] = True
    return {name: opened[numbers[name]] for name in free}
