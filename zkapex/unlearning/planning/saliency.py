"""Saliency: how much zeroing each weight of the global model would take away from the forget set, and from the rest.

Scores are higher the better a weight is to mask. Notation: w weights, g_f and g_r mean gradients of `margin_loss`
on the forget and retain set, h_f and h_r means of the squared per-example gradients (a diagonal Fisher).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from zkapex.errors import InputError
from zkapex.unlearning.boundary import linear_layer
from zkapex.unlearning.curvature.factor import EncodedCurvature
from zkapex.unlearning.finite import require_finite
from zkapex.unlearning.planning.steps import OnCount, no_count

FloatArray = npt.NDArray[np.float64]
Scorer = Callable[["LayerStatistics"], FloatArray]

#: Bytes of per-example gradients held at once.
_GRADIENT_BYTES = 64 << 20
#: Chosen on seed 0 of code-lm: 1 destroys the model before it forgets, 2 and 4 lose more of what is kept.
_CAUTION = 8.0


@dataclass(frozen=True)
class LayerStatistics:
    """What a scorer may look at, for one layer. All float64, [out, in] unless said otherwise.

    Attributes
    ----------
    weight : array
        w.
    forget_gradient, forget_fisher, retain_gradient, retain_fisher : array
        g_f, h_f, g_r, h_r.
    inverse_curvature : array [blocks, B, B], or [blocks, out, B, B] with one per row, or None
        Inverse of the encoded curvature, per column block. Its scale does not matter. None for operators without.
    forget_share : float
        Of the forget set in all examples, retain set and forget set together.
    """

    weight: FloatArray
    forget_gradient: FloatArray
    forget_fisher: FloatArray
    retain_gradient: FloatArray
    retain_fisher: FloatArray
    inverse_curvature: FloatArray | None
    forget_share: float


def statistics(
    model: nn.Module,
    names: Sequence[str],
    forget_set: tuple[torch.Tensor, torch.Tensor],
    retain_set: tuple[torch.Tensor, torch.Tensor],
    curvature: Mapping[str, Sequence[EncodedCurvature]],
    on_examples: OnCount = no_count,
) -> dict[str, LayerStatistics]:
    """Everything the scorers need, from a model, the two sets (inputs, int64 labels) and the model's curvature, if any.

    `on_examples` is told how many more examples of the two sets are done.

    Raises
    ------
    InputError
        If a set is empty or a name is not a linear layer.
    """
    forget, retain = (gradient_moments(model, names, *examples, on_examples) for examples in (forget_set, retain_set))
    share = len(forget_set[1]) / (len(forget_set[1]) + len(retain_set[1]))
    result = {}
    for name in names:
        weight = linear_layer(model, name).weight.detach().double().numpy(force=True).copy()
        inverse = None
        if curvature:
            inverse = np.linalg.inv(np.stack([block.matrix for block in curvature[name]]).astype(np.float64))
        result[name] = LayerStatistics(weight, *forget[name], *retain[name], inverse, share)
    return result


def margin_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of ``logsumexp(other logits) - logit of the label``, for logits [n, classes] and int64 labels [n].

    Of logits [n, T, classes] and labels [n, T] it is the mean over all tokens: an example's is the mean over its own.

    Cross-entropy saturates: on a forget set that the model has learned well its gradient vanishes but for a few hard
    examples, and saliency would rest on those alone. The margin weighs every example alike.
    """
    return margins(logits, labels).mean()


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``logsumexp(other logits) - logit of the label`` of each label, for logits [..., classes] and labels [...]."""
    own = torch.arange(logits.shape[-1], device=logits.device) == labels[..., None]
    return logits.masked_fill(own, -torch.inf).logsumexp(-1) - (logits * own).sum(-1)


def gradient_moments(
    model: nn.Module,
    names: Sequence[str],
    inputs: torch.Tensor,
    labels: torch.Tensor,
    on_examples: OnCount = no_count,
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Mean and mean square of the per-example gradients of `margin_loss` with respect to the named layers' weights.

    The square stands for a curvature. Where an example's loss is the mean over its T tokens, its gradient is a mean of
    T nearly independent ones, whose square is a T-th of theirs, while curvature is not: it is multiplied by T.

    Per-example gradients are formed by ``torch.func`` in chunks of at most 64 MiB.

    Returns
    -------
    dict of str to (float64 array [out, in], float64 array [out, in])

    Raises
    ------
    InputError
        If there are no examples or no layers, an example is not finite, or a name is not a linear layer.
    """
    if len(inputs) == 0 or len(inputs) != len(labels) or not names:
        raise InputError(f"no gradient of {len(names)} layers on {len(inputs)} inputs and {len(labels)} labels")
    require_finite(inputs, "the inputs that saliency is taken from", examples=True, fix="leave these examples out")
    targets = {f"{name}.weight": linear_layer(model, name).weight.detach() for name in names}
    model.eval()
    frozen = {k: v.detach() for k, v in [*model.named_parameters(), *model.named_buffers()] if k not in targets}

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = functional_call(model, {**frozen, **weights}, (x[None],))
        return margin_loss(logits, y[None])

    per_example = vmap(grad(loss), in_dims=(None, 0, 0))
    chunk = max(1, _GRADIENT_BYTES // (4 * sum(w.numel() for w in targets.values())))
    first = {k: torch.zeros_like(w, dtype=torch.float64) for k, w in targets.items()}
    second = {k: torch.zeros_like(w, dtype=torch.float64) for k, w in targets.items()}
    for x, y in zip(torch.split(inputs, chunk), torch.split(labels, chunk), strict=True):
        for key, gradient in per_example(targets, x, y).items():
            first[key] += gradient.sum(0)
            second[key] += gradient.square().sum(0)
        on_examples(len(y))
    n, tokens = len(inputs), labels[0].numel()
    return {
        name: (
            (first[f"{name}.weight"] / n).numpy(force=True),
            (second[f"{name}.weight"] * tokens / n).numpy(force=True),
        )
        for name in names
    }


def score(scorer: str, layers: Mapping[str, LayerStatistics]) -> dict[str, FloatArray]:
    """Scores [out, in] of every layer by the scorer of that name.

    Raises
    ------
    InputError
        If there is no such scorer.
    """
    try:
        function = SCORERS[scorer]
    except KeyError:
        raise InputError(f"unknown scorer {scorer!r}", fix=f"choose one of {', '.join(sorted(SCORERS))}") from None
    return {name: function(layer) for name, layer in layers.items()}


def aware(layer: LayerStatistics) -> FloatArray:
    """Forgetting that survives compensation: ``a(g_f) - |a(g_r)| - h_r w^2 / 2``.

    ``a(g) = -w (g A) / diag A``, with A the inverse curvature, is the first-order change of a loss with gradient g
    when w is zeroed *and* the rest of its block compensates by Optimal Brain Surgeon.

    Raises
    ------
    InputError
        There is no curvature.
    """
    gained = _after_compensation(layer, layer.forget_gradient)
    lost = np.abs(_after_compensation(layer, layer.retain_gradient))
    result: FloatArray = gained - lost - layer.retain_fisher * layer.weight**2 / 2
    return result


def selective(layer: LayerStatistics) -> FloatArray:
    """`aware`, but harm to the retain set weighs `_CAUTION` times as much, and its second-order part the square of it.

    For sets that have much in common, as programming languages have for a language model: most weights that matter to
    one matter to the other, and a difference of two large numbers favours those. What is masked is then more weights,
    each of which matters less.

    Raises
    ------
    InputError
        There is no curvature.
    """
    gained = _after_compensation(layer, layer.forget_gradient)
    lost = _CAUTION * np.abs(_after_compensation(layer, layer.retain_gradient))
    result: FloatArray = gained - lost - _CAUTION**2 * layer.retain_fisher * layer.weight**2 / 2
    return result


def taylor(layer: LayerStatistics) -> FloatArray:
    """Second-order change of the forget loss minus that of the retain loss when w is zeroed and nothing compensates."""
    w = layer.weight
    forget = -layer.forget_gradient * w + layer.forget_fisher * w**2 / 2
    result: FloatArray = forget - (-layer.retain_gradient * w + layer.retain_fisher * w**2 / 2)
    return result


def fisher_ratio(layer: LayerStatistics) -> FloatArray:
    """``h_f / h_r`` as in ZK-APEX's reference code, the denominator floored at a millionth of its mean."""
    floor = max(1e-6 * float(layer.retain_fisher.mean()), 1e-30)
    result: FloatArray = layer.forget_fisher / np.maximum(layer.retain_fisher, floor)
    return result


def ssd_ratio(layer: LayerStatistics) -> FloatArray:
    """``h_f / h``, h being of all data: how selective synaptic dampening chooses (arXiv 2308.07707, equation 4).

    With p the share of the forget set, ``h = p h_f + (1 - p) h_r``: on one model this ranks as `fisher_ratio` does, but
    for the weights at that one's floor. It cannot exceed ``1 / p``, though, so that in the sum over several copies of a
    model no copy outweighs the others. As elsewhere here gradients are of the margin, where the paper has the
    cross-entropy. 0 where nothing at all depends on the weight.
    """
    everything = layer.forget_share * layer.forget_fisher + (1 - layer.forget_share) * layer.retain_fisher
    return np.divide(layer.forget_fisher, everything, out=np.zeros_like(everything), where=everything > 0)


def apex_taylor(layer: LayerStatistics) -> FloatArray:
    """``-g_f w + h_f w^2 / 2``: ZK-APEX (arXiv 2512.09953), section 4, the rise of the forget loss when w is zeroed.

    The first of two forms the paper prints, with the empirical Fisher for its curvature; `taylor` is this less the same
    of the retain set. Odd about it: what the retain set loses does not count, so the weights that everything needs come
    first. The paper takes w from the personalised weights, which whoever chooses the mask does not have; here they are
    the model's own.
    """
    result: FloatArray = -layer.forget_gradient * layer.weight + layer.forget_fisher * layer.weight**2 / 2
    return result


def apex_quotient(layer: LayerStatistics) -> FloatArray:
    """``w^2 g_f^2 / (2 h_f)``: ZK-APEX (arXiv 2512.09953), section 4, the other form it prints for the same mask.

    Odd about it: it has no sign, so that weights which argue against the forget set count like those that argue for it;
    it falls as curvature grows, although zeroing such a weight does more; and neither retain set nor dimensions agree
    with the first form (``g^2 / 2h`` is what the loss can fall by if w alone moves, and this is multiplied by w^2). As
    ``g_f^2 <= h_f`` it lies between 0 and ``w^2 / 2``: a weight's size, times how far examples agree on its gradient. 0
    where the forget set does not depend on the weight.
    """
    top = (layer.weight * layer.forget_gradient) ** 2
    return np.divide(top, 2 * layer.forget_fisher, out=np.zeros_like(top), where=layer.forget_fisher > 0)


def magnitude(layer: LayerStatistics) -> FloatArray:
    """``-|w|``, classical pruning: the control that never looks at the forget set."""
    return -np.abs(layer.weight)


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        "aware": aware,
        "selective": selective,
        "taylor": taylor,
        "fisher-ratio": fisher_ratio,
        "ssd-ratio": ssd_ratio,
        "apex-taylor": apex_taylor,
        "apex-quotient": apex_quotient,
        "magnitude": magnitude,
    }
)
"""Scorers by the name a request carries."""


def _after_compensation(layer: LayerStatistics, gradient: FloatArray) -> FloatArray:
    if layer.inverse_curvature is None:
        raise InputError("the scorer 'aware' needs curvature, and the operator has none", fix="choose another scorer")
    result = np.empty_like(layer.weight)
    width = layer.inverse_curvature.shape[-1]
    for index, inverse in enumerate(layer.inverse_curvature):
        start, stop = index * width, min((index + 1) * width, result.shape[1])
        a = inverse[..., : stop - start, : stop - start]
        rows = gradient[:, start:stop]
        spread = rows @ a if a.ndim == 2 else (rows[:, None, :] @ a)[:, 0, :]
        result[:, start:stop] = -layer.weight[:, start:stop] * spread / np.diagonal(a, axis1=-2, axis2=-1)
    return result
