"""Numbers that come in are numbers: one check, used wherever tensors of somebody else's making are taken."""

from __future__ import annotations

import torch

from zkapex.errors import InputError


def require_finite(values: torch.Tensor, what: str, *, fix: str = "", examples: bool = False) -> None:
    """Raise InputError if a floating-point tensor holds NaN or infinities; integers are always numbers.

    Parameters
    ----------
    values : torch.Tensor
        Any shape, any device.
    what : str
        What they are, as the subject of the message, in the plural.
    fix : str
        What to do about it.
    examples : bool
        The first axis counts examples: say which is the first that is wrong.
    """
    if not (values.is_floating_point() or values.is_complex()) or values.numel() == 0:
        return
    # A sum is finite only if everything is, except where it overflows: then look closer.
    values = values.detach()
    if bool(torch.isfinite(values.sum())):
        return
    wrong = ~torch.isfinite(values)
    count = int(wrong.sum())
    if count == 0:
        return
    nans = int(torch.isnan(values).sum())
    why = f"{count} of {values.numel()} values: {nans} NaN, {count - nans} infinite"
    if examples:
        first = int(wrong.flatten(1).any(1).nonzero()[0]) if wrong.ndim > 1 else int(wrong.nonzero()[0])
        why += f"; the first in example {first}"
    raise InputError(f"{what} are not finite", why=why, fix=fix)
