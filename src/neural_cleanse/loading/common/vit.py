"""Vision transformers (Dosovitskiy et al. 2021, table 1; tiny and small of Touvron et al. 2021), both libraries' names.

A transformer takes images of one size: a side of `patch` times the root of its positions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn

# Width: letter in the name, depth, heads.
SIZES = {192: ("ti", 12, 3), 384: ("s", 12, 6), 768: ("b", 12, 12), 1024: ("l", 24, 16)}
PATCHES = (8, 14, 16, 32)
NAMES = tuple(f"vit_{letter}_{patch}" for letter, _, _ in SIZES.values() for patch in PATCHES)
EPSILON = 1e-6


@dataclass(frozen=True)
class Naming:
    """What a library calls the parts: of the whole network, then of a block."""

    patches: str
    token: str
    positions: str
    blocks: str
    norm: str
    head: str
    norm1: str
    qkv: str
    projection: str
    norm2: str
    widen: str
    narrow: str


TORCHVISION = Naming(
    patches="conv_proj",
    token="class_token",
    positions="encoder.pos_embedding",
    blocks="encoder.layers.encoder_layer_{}",
    norm="encoder.ln",
    head="heads.head",
    norm1="ln_1",
    qkv="self_attention.in_proj_",
    projection="self_attention.out_proj",
    norm2="ln_2",
    widen="mlp.0",
    narrow="mlp.3",
)
TIMM = Naming(
    patches="patch_embed.proj",
    token="cls_token",
    positions="pos_embed",
    blocks="blocks.{}",
    norm="norm",
    head="head",
    norm1="norm1",
    qkv="attn.qkv.",
    projection="attn.proj",
    norm2="norm2",
    widen="mlp.fc1",
    narrow="mlp.fc2",
)


class ViT(nn.Module):
    """Patches and a class token through blocks of attention and two linear layers; the token's answer is the logits."""

    def __init__(
        self, width: int, patch: int, classes: int, side: int, *, channels: int = 3, naming: Naming = TORCHVISION
    ) -> None:
        super().__init__()
        _, depth, self.num_heads = SIZES[width]
        self.naming, self.side, self.depth = naming, side, depth
        self._put(naming.patches, nn.Conv2d(channels, width, patch, patch))
        self._put(naming.token, nn.Parameter(torch.zeros(1, 1, width)))
        self._put(naming.positions, nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width)))
        for number in range(depth):
            block = naming.blocks.format(number)
            self._put(f"{block}.{naming.norm1}", nn.LayerNorm(width, EPSILON))
            self._put(f"{block}.{naming.qkv}weight", nn.Parameter(torch.zeros(3 * width, width)))
            self._put(f"{block}.{naming.qkv}bias", nn.Parameter(torch.zeros(3 * width)))
            self._put(f"{block}.{naming.projection}", nn.Linear(width, width))
            self._put(f"{block}.{naming.norm2}", nn.LayerNorm(width, EPSILON))
            self._put(f"{block}.{naming.widen}", nn.Linear(width, 4 * width))
            self._put(f"{block}.{naming.narrow}", nn.Linear(4 * width, width))
        self._put(naming.norm, nn.LayerNorm(width, EPSILON))
        self._put(naming.head, nn.Linear(width, classes))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        if images.shape[2:] != (self.side, self.side):
            raise ValueError(f"this transformer takes images of {self.side}x{self.side} pixels")
        patches = self._run(self.naming.patches, images).flatten(2).transpose(1, 2)
        token = self.get_parameter(self.naming.token).expand(len(images), -1, -1)
        values = torch.cat([token, patches], 1) + self.get_parameter(self.naming.positions)
        for number in range(self.depth):
            block = self.naming.blocks.format(number)
            values = values + self._attention(block, self._run(f"{block}.{self.naming.norm1}", values))
            wide = self._run(f"{block}.{self.naming.widen}", self._run(f"{block}.{self.naming.norm2}", values))
            values = values + self._run(f"{block}.{self.naming.narrow}", nn.functional.gelu(wide))
        return self._run(self.naming.head, self._run(self.naming.norm, values)[:, 0])

    def _attention(self, block: str, values: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n tokens d"]:
        weight, bias = (self.get_parameter(f"{block}.{self.naming.qkv}{name}") for name in ("weight", "bias"))
        three = nn.functional.linear(values, weight, bias).unflatten(2, (3, self.num_heads, -1))
        query, key, value = three.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self._run(f"{block}.{self.naming.projection}", mixed.transpose(1, 2).flatten(2))

    def _put(self, path: str, part: nn.Module | nn.Parameter) -> None:
        """The part under a dotted name."""
        *parents, last = path.split(".")
        place: nn.Module = self
        for name in parents:
            if not hasattr(place, name):
                place.add_module(name, nn.Module())
            place = getattr(place, name)
        setattr(place, last, part)

    def _run(self, path: str, values: Tensor) -> Tensor:
        """What the layer of that name makes of the values."""
        outputs: Tensor = self.get_submodule(path)(values)
        return outputs


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network.

    Other tensors in the blocks are of a variant that computes something else: layer scale, registers, distillation.
    """
    for naming in (TORCHVISION, TIMM):
        patches, positions = shapes.get(f"{naming.patches}.weight"), shapes.get(naming.positions)
        head = shapes.get(f"{naming.head}.weight")
        if patches is None or positions is None or head is None or patches[0] not in SIZES:
            continue
        width, channels, patch, _ = patches
        grid = math.isqrt(positions[1] - 1)
        if patch not in PATCHES or grid < 1 or grid**2 != positions[1] - 1:
            continue
        side = grid * patch
        network = ViT(width, patch, head[0], side, channels=channels, naming=naming)
        if set(shapes) - set(network.state_dict()):
            continue
        return f"vit_{SIZES[width][0]}_{patch}", network, ()
    return None
