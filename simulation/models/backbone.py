"""A pretrained vision transformer, cut in two: a frozen trunk that runs once per image, and a tail that is trained.

The blocks are written in elementary operations, so that ``torch.func.vmap`` can see through them, and hold the weights
of a DINOv2 (with layer scales) or a plain ViT; `zkapex.simulation.models.pretrained` reads either. Where the last
block is concerned, only the class token is computed beyond keys and values: nothing else reaches the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from zkapex.errors import InputError


@dataclass(frozen=True)
class BackboneConfig:
    """Geometry of a pretrained transformer.

    Attributes
    ----------
    dim, hidden, depth, heads, patch_size : int
    positions : int
        Patches that there are position embeddings for, a square number.
    eps : float
        Of the layer norms.
    mean, std : tuple of float
        Normalisation of RGB values in [0, 1] that it was trained with.
    """

    dim: int
    hidden: int
    depth: int
    heads: int
    patch_size: int
    positions: int
    eps: float = 1e-6
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class PretrainedBlock(nn.Module):
    """Pre-norm transformer block with layer scales; ``fc1`` and ``fc2`` are the layers unlearning acts on."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, config.eps), nn.LayerNorm(dim, config.eps)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.scale1, self.scale2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))
        self.fc1, self.fc2 = nn.Linear(dim, config.hidden), nn.Linear(config.hidden, dim)

    def forward(self, x: torch.Tensor, first: bool = False) -> torch.Tensor:
        """Map ``[n, tokens, dim]`` to the same shape; with `first`, to that of the first token, ``[n, 1, dim]``."""
        seen = self.norm1(x)
        x = x[:, :1] + self.scale1 * self._first(seen) if first else x + self.scale1 * self._attention(seen)
        y: torch.Tensor = x + self.scale2 * self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return y

    def _attention(self, seen: torch.Tensor) -> torch.Tensor:
        n, tokens, dim = seen.shape
        shape = (n, tokens, self.heads, dim // self.heads)
        q, k, v = (layer(seen).reshape(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-2, -1) * shape[-1] ** -0.5).softmax(-1)
        result: torch.Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, tokens, dim))
        return result

    def _first(self, seen: torch.Tensor) -> torch.Tensor:
        """What the first token attends to, ``[n, 1, dim]``: the same sums in an order that is cheap for one query.

        The query goes through the key's matrix and the weighted mean of the tokens through the value's, instead of
        every token through both. Weights sum to one, so the value's bias is added once.
        """
        n, _, dim = seen.shape
        by_head = (self.heads, dim // self.heads)
        asking = self.query(seen[:, :1]).reshape(n, *by_head) * by_head[1] ** -0.5
        shift = (asking * self.key.bias.reshape(by_head)).sum(-1, keepdim=True)
        asking = torch.einsum("nhd,hdc->nhc", asking, self.key.weight.reshape(*by_head, dim))
        mixed = (asking @ seen.transpose(1, 2) + shift).softmax(-1) @ seen
        values = torch.einsum("nhc,hdc->nhd", mixed, self.value.weight.reshape(*by_head, dim))
        result: torch.Tensor = self.out(values.reshape(n, 1, dim) + self.value.bias)
        return result


class Backbone(nn.Module):
    """Patches, a class token, positions, blocks and the last norm, as it was pretrained."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = nn.Conv2d(3, config.dim, config.patch_size, config.patch_size)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.position = nn.Parameter(torch.zeros(1, config.positions + 1, config.dim))
        self.blocks = nn.ModuleList([PretrainedBlock(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim, config.eps)

    def forward(self, images: torch.Tensor, blocks: int | None = None) -> torch.Tensor:
        """Tokens ``[n, 1 + patches, dim]`` after so many blocks, or after all of them and the norm.

        Parameters
        ----------
        images : float32 tensor [n, 3, size, size]
            RGB in [0, 1].
        blocks : int, optional
        """
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.mean, self.config.std))
        patches = self.patch((images - mean) / std)
        side = patches.shape[-1]
        x = torch.cat([self.cls.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        x = x + self._positions(side)
        for block in self.blocks[: self.config.depth if blocks is None else blocks]:
            x = block(x)
        result: torch.Tensor = self.norm(x) if blocks is None else x
        return result

    def _positions(self, side: int) -> torch.Tensor:
        """Position embeddings for ``side * side`` patches, bicubically interpolated as DINOv2 does."""
        own = round(self.config.positions**0.5)
        if own == side:
            return self.position
        grid = self.position[:, 1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
        return torch.cat([self.position[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


class FeatureTable:
    """What the trunk made of every image, once; copies of a model share it.

    Parameters
    ----------
    features : float16 tensor [images, tokens, dim]
    """

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureTable:
        return self

    def __getitem__(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.features[numbers].float()


class Tail(nn.Module):
    """The last blocks and norm of a backbone, and a new linear head. Inputs are numbers of images, int64 ``[n]``."""

    def __init__(self, config: BackboneConfig, blocks: int, classes: int, table: FeatureTable) -> None:
        super().__init__()
        self.table = table
        self.blocks = nn.ModuleList([PretrainedBlock(config) for _ in range(blocks)])
        self.norm = nn.LayerNorm(config.dim, config.eps)
        self.head = nn.Linear(config.dim, classes)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, classes]``."""
        x = self.table[numbers]
        for index, block in enumerate(self.blocks):
            x = block(x, first=index == len(self.blocks) - 1)
        logits: torch.Tensor = self.head(self.norm(x[:, 0]))
        return logits


def tail_of(backbone: Backbone, blocks: int, classes: int, table: FeatureTable, seed: int) -> Tail:
    """The trainable tail of a backbone: its last `blocks` blocks, and a head whose random weights are the seed's.

    Raises
    ------
    InputError
        The backbone has not so many blocks.
    """
    if not 1 <= blocks <= backbone.config.depth:
        raise InputError(f"a backbone of {backbone.config.depth} blocks has no tail of {blocks}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tail = Tail(backbone.config, blocks, classes, table)
    for own, pretrained in zip(tail.blocks, backbone.blocks[-blocks:], strict=True):
        own.load_state_dict(pretrained.state_dict())
    tail.norm.load_state_dict(backbone.norm.state_dict())
    return tail
