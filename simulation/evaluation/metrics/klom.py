"""KLOM: how far the outputs of models that unlearned are from those of models that never saw the deleted data.

Of every example, the distribution of its margin over many models that unlearned is compared with that over as many
oracles, by the divergence of two histograms. From "Attribute-to-Delete: Machine Unlearning via Datamodel Matching"
(arXiv 2410.23232), appendix E.1: 20 bins over the range of both samples, margins cut at ±100, empty bins of the oracles
taken for 1e-5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError

BINS, LARGEST_MARGIN, LEAST_SHARE = 20, 100.0, 1e-5

Margins = npt.NDArray[np.float64]


def klom(unlearned: Margins, oracles: Margins) -> Margins:
    """Divergence of every example's margins over models, in nats, at most ``-log(LEAST_SHARE)``.

    Parameters
    ----------
    unlearned : array [m, n]
        Log-odds of the right answer: of every model that unlearned, on every example.
    oracles : array [k, n]
        Of models that were trained without what is deleted.

    Returns
    -------
    array [n]
        KL(unlearned || oracles). It is not 0 for two samples of one distribution: how much it is then depends on how
        many models there are, and is what anything else has to be compared with.

    Raises
    ------
    InputError
        The examples are not the same, or there are no models.
    """
    if unlearned.ndim != 2 or oracles.ndim != 2 or unlearned.shape[1] != oracles.shape[1]:
        raise InputError(f"margins of shape {unlearned.shape} cannot be compared with those of shape {oracles.shape}")
    if not len(unlearned) or not len(oracles):
        raise InputError("margins of no models cannot be compared")
    both = (np.clip(values, -LARGEST_MARGIN, LARGEST_MARGIN) for values in (unlearned, oracles))
    return np.array([_divergence(p, q) for p, q in zip(*(values.T for values in both), strict=True)])


def _divergence(p: Margins, q: Margins) -> float:
    least, largest = min(p.min(), q.min()), max(p.max(), q.max())
    if least == largest:
        return 0.0
    share_p, share_q = (np.histogram(x, BINS, (least, largest))[0] / len(x) for x in (p, q))
    filled = share_p > 0
    return float(np.sum(share_p[filled] * np.log(share_p[filled] / np.maximum(share_q[filled], LEAST_SHARE))))
