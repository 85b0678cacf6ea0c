"""The data. Put your own here; these are made of random numbers, so that the project runs anywhere, at once.

Inputs are a tensor ``[n, ...]`` as the model takes them, labels an int64 tensor ``[n]``, classes numbered from 0.
"""

import torch

CLASSES, FEATURES = 6, 16

Examples = tuple[torch.Tensor, torch.Tensor]


def sample(count: int, seed: int) -> Examples:
    """Examples of clouds around two centres for each class; the same seed gives the same examples."""
    centres = torch.randn(2 * CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(2 * CLASSES, (count,), generator=generator)
    inputs = centres[which] + 0.5 * torch.randn(count, FEATURES, generator=generator)
    return inputs, which % CLASSES


def seen_by(device: int, examples: Examples) -> Examples:
    """The same examples as one device sees them: every device has a domain of its own."""
    inputs, labels = examples
    shift = 0.3 * torch.randn(FEATURES, generator=torch.Generator().manual_seed(1000 + device))
    return inputs + shift, labels


def only(examples: Examples, kept: torch.Tensor) -> Examples:
    """Those of the examples for which the bool tensor ``[n]`` says so."""
    return examples[0][kept], examples[1][kept]
