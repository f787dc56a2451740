"""The same Vision Transformer as ours, in plain PyTorch: pre-LN blocks, tanh GELU, learned positions, MAP head.

Written for speed: one linear for q, k and v, scaled_dot_product_attention, patches by reshape and one linear,
the probe's query projected once per step.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True)
class Shape:
    patch: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    image_size: int = 224
    channels: int = 3
    classes: int = 1000

    @property
    def tokens(self):
        return (self.image_size // self.patch) ** 2

    def forward_flops(self):
        """2 per multiply-accumulate of every matmul for one image, attention included. The query of the probe is
        projected once per step and not counted."""
        n, w, h = self.tokens, self.width, self.mlp_width
        blocks = self.depth * (4 * n * w * w + 2 * n * n * w + 2 * n * w * h)
        head = 2 * n * w * w + 2 * n * w + w * w + 2 * w * h + w * self.classes
        return 2 * (n * self.patch**2 * self.channels * w + blocks + head)


SHAPES = {
    "Ti/16": Shape(16, 192, 12, 3, 768),
    "S/16": Shape(16, 384, 12, 6, 1536),
    "B/16": Shape(16, 768, 12, 12, 3072),
    "L/16": Shape(16, 1024, 24, 16, 4096),
    "g/14": Shape(14, 1408, 40, 16, 6144),
    "small": Shape(4, 128, 4, 4, 512, image_size=28, channels=1),
}


class Mlp(nn.Module):
    def __init__(self, width, mlp_width):
        super().__init__()
        self.up = nn.Linear(width, mlp_width)
        self.down = nn.Linear(mlp_width, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads = shape.heads
        self.norm1 = nn.LayerNorm(shape.width, eps=1e-6)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm2 = nn.LayerNorm(shape.width, eps=1e-6)
        self.mlp = Mlp(shape.width, shape.mlp_width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


class MapHead(nn.Module):
    """Attention of one learned query over all tokens, then an MLP with a residual."""

    def __init__(self, shape):
        super().__init__()
        self.heads = shape.heads
        self.probe = nn.Parameter(torch.randn(1, 1, shape.width) * shape.width**-0.5)
        self.query = nn.Linear(shape.width, shape.width)
        self.key_value = nn.Linear(shape.width, 2 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.mlp = Mlp(shape.width, shape.mlp_width)

    def forward(self, x):
        batch, tokens, width = x.shape
        head = width // self.heads
        q = self.query(self.probe).view(1, 1, self.heads, head).transpose(1, 2).expand(batch, -1, -1, -1)
        kv = self.key_value(x).view(batch, tokens, 2, self.heads, head)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, width)
        y = self.out(y)
        return y + self.mlp(self.norm(y))


class Vit(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Linear(shape.patch**2 * shape.channels, shape.width)
        self.positions = nn.Parameter(torch.randn(1, shape.tokens, shape.width) * shape.width**-0.5)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.pool = MapHead(shape)
        self.head = nn.Linear(shape.width, shape.classes)

    def forward(self, images):
        """images: uint8 [batch, height, width, channels]; logits [batch, classes]."""
        s = self.shape
        side = s.image_size // s.patch
        x = images.float() * (2 / 255) - 1
        x = x.view(-1, side, s.patch, side, s.patch, s.channels).transpose(2, 3)
        x = self.embed(x.reshape(len(images), s.tokens, -1)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(self.norm(x)))


def sigmoid_loss(logits, targets):
    """Sum over classes, mean over images."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum") / len(logits)


def counted_forward_flops(model, batch):
    """What PyTorch's own counter sees of a forward pass, per image, without the probe's query."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    s = model.shape
    size = (batch, s.image_size, s.image_size, s.channels)
    images = torch.zeros(size, dtype=torch.uint8, device=model.positions.device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(images)
    return (counter.get_total_flops() - 2 * s.width**2) / batch
