"""The model. Put your own here: any torch module whose output is one logit for each class."""

import torch
from mymodel.data import CLASSES, FEATURES
from torch import nn


class Model(nn.Module):
    """A perceptron. Unlearning acts on linear layers: here on `hidden`, as `provider.py` says.

    What a target layer has to be is checked before anything is trained: a plain ``nn.Linear`` whose weight nothing else
    uses, called once in a forward pass, in float32 or float64, all values finite.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, 32)
        self.hidden = nn.Linear(32, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, classes]`` of float32 ``[n, features]``."""
        y = nn.functional.gelu(self.stem(x))
        logits: torch.Tensor = self.head(nn.functional.gelu(self.hidden(y)))
        return logits


def build_model() -> nn.Module:
    """The architecture, with the same weights each time: provider and devices build it separately."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model()
