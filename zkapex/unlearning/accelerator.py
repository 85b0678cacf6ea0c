"""What dense algebra runs on, a device in torch's sense: the processor, unless whoever sets a client up says more."""

from __future__ import annotations

from functools import cache

import torch

from zkapex.errors import InputError

CPU = "cpu"


@cache
def torch_device(device: str) -> torch.device:
    """The device of that name, as in ``cpu``, ``cuda`` or ``cuda:1``, found to compute in float64.

    Raises
    ------
    InputError
        torch knows no such device, there is none here, or it has no float64.
    """
    try:
        found = torch.device(device)
        torch.eye(2, dtype=torch.float64, device=found).sum().item()
    # Torch raises an AssertionError where it was built without CUDA, and TypeErrors where there is no float64.
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as e:
        raise InputError(
            f"the setting device={device!r} names nothing that this machine can solve on",
            why=(str(e).splitlines() or ["torch refuses it"])[0][:300],
            fix="set device to cpu, or to an accelerator with float64 that torch was installed for, such as cuda",
        ) from None
    return found
