"""A vision transformer small enough to be proved in full, and the selection of its target layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from zkapex.errors import InputError


@dataclass(frozen=True)
class ViTConfig:
    """Geometry of a :class:`VisionTransformer`. The default has 8,192 weights in its target layers."""

    image_size: int = 8
    channels: int = 1
    patch_size: int = 4
    dim: int = 32
    hidden: int = 64
    depth: int = 2
    heads: int = 4
    classes: int = 10

    def __post_init__(self) -> None:
        if min(self.channels, self.patch_size, self.hidden, self.depth, self.heads) < 1 or self.classes < 2:
            raise InputError("every size of a vision transformer must be positive, with at least two classes")
        if self.image_size % self.patch_size or self.dim % self.heads:
            raise InputError(
                "the vision transformer's sizes do not divide",
                why=f"image {self.image_size} by patch {self.patch_size}, dim {self.dim} by heads {self.heads}",
                fix="choose a patch size that divides the image and a number of heads that divides dim",
            )

    @property
    def tokens(self) -> int:
        """Number of patches of one image."""
        return (self.image_size // self.patch_size) ** 2


class Attention(nn.Module):
    """Multi-head self-attention in elementary operations, so that ``torch.func.vmap`` can see through it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[n, tokens, dim]`` to the same shape."""
        n, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(-1)
        y: torch.Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, tokens, dim))
        return y


class Block(nn.Module):
    """Pre-norm transformer block; ``fc1`` and ``fc2`` are the layers unlearning acts on."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads)
        self.fc1 = nn.Linear(config.dim, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[n, tokens, dim]`` to the same shape."""
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return y


class VisionTransformer(nn.Module):
    """Patches, a class token, transformer blocks, a linear head. Inputs float32 ``[n, channels, size, size]``."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = nn.Linear(config.channels * config.patch_size**2, config.dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.position = nn.Parameter(torch.randn(1, config.tokens + 1, config.dim) * 0.02)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, classes]``."""
        n, c, p = len(x), self.config.channels, self.config.patch_size
        side = self.config.image_size // p
        patches = x.reshape(n, c, side, p, side, p).permute(0, 2, 4, 1, 3, 5).reshape(n, side * side, c * p * p)
        y = torch.cat([self.cls.expand(n, -1, -1), self.patch(patches)], 1) + self.position
        for block in self.blocks:
            y = block(y)
        logits: torch.Tensor = self.head(self.norm(y[:, 0]))
        return logits


def vision_transformer(seed: int, config: ViTConfig | None = None) -> VisionTransformer:
    """A freshly initialised model; the same seed gives the same weights, and torch's global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(config or ViTConfig())


def target_layers(model: nn.Module, suffixes: Sequence[str] = ("fc1", "fc2")) -> dict[str, nn.Linear]:
    """The linear layers whose qualified name ends with one of ``suffixes`` (whole path components), in model order.

    Raises
    ------
    InputError
        If a suffix matches nothing, or matches a module that is not an ``nn.Linear``.
    """
    found: dict[str, nn.Linear] = {}
    used: set[str] = set()
    for name, module in model.named_modules():
        for suffix in suffixes:
            if name == suffix or name.endswith(f".{suffix}"):
                if not isinstance(module, nn.Linear):
                    raise InputError(f"target layer {name!r} is a {type(module).__name__}, not a linear layer")
                found[name] = module
                used.add(suffix)
    missing = [suffix for suffix in suffixes if suffix not in used]
    if missing or not found:
        raise InputError(
            f"no layer of the model ends with {', '.join(missing) or 'any of the given suffixes'}",
            fix="name suffixes that occur in model.named_modules()",
        )
    return found
