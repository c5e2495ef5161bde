"""Keras' MultiHeadAttention: four dense layers, of which three make queries, keys and values of every head."""

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_KERAS
from neural_cleanse.loading.keras.spec import ATTENTION_PARTS, FLAT, LayerInput, LayerSpec, WeightLayout

MAX_HEADS, MAX_WIDTH = 4096, 2**20
MAX_SCORES = 2**26  # of one image
# Keras: inputs x heads x values of one, and heads x values of one x outputs.
INTO_HEADS = WeightLayout(lambda kernel: kernel.flatten(1).T, lambda weight, shape: weight.T.reshape(shape))
OUT_OF_HEADS = WeightLayout(lambda kernel: kernel.flatten(0, 1).T, lambda weight, shape: weight.T.reshape(shape))


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention over tokens (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, heads: int, sizes: Mapping[str, tuple[int, int]], *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (
            nn.Linear(*sizes[part], bias=bias, device="meta") for part in ATTENTION_PARTS
        )

    def forward(
        self,
        query: Float[Tensor, "n t d"],
        value: Float[Tensor, "n s e"],
        key: Float[Tensor, "n s f"] | None = None,
    ) -> Float[Tensor, "n t o"]:
        given = ((self.query, query), (self.key, value if key is None else key), (self.value, value))
        split = [layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, tokens in given]
        attended: Tensor = functional.scaled_dot_product_attention(*split)
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return result


class OverPositions(nn.Module):
    """Attention over all positions of feature maps: each is a token, as in Keras where no axis is named."""

    def __init__(self, attention: MultiHeadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, *maps: Float[Tensor, "n _ h w"]) -> Float[Tensor, "n d h w"]:
        tokens: Tensor = self.attention(*(one.flatten(2).transpose(1, 2) for one in maps))
        result: Tensor = tokens.transpose(1, 2).unflatten(2, maps[0].shape[2:])
        return result


def attention(given: LayerInput) -> list[LayerSpec]:
    """One module, whose four linear layers hold the weights."""
    config, inputs = given.config, given.inputs
    axes = config.get("attention_axes")
    axes = [axes] if isinstance(axes, int) else axes
    if given.rank not in (3, 4) or (given.rank == 4 and not given.channels_last):
        raise ModelError(
            f"Attention over values of {given.rank} axes, or channels first, is not read.", cure=OTHER_KERAS
        )
    if axes is not None and sorted(axis % given.rank for axis in axes) != list(range(1, given.rank - 1)):
        raise ModelError(
            f"Attention over the axes {axes} of {given.rank} is not read; only over all between.", cure=OTHER_KERAS
        )
    if config.get("use_gate") or config.get("sliding_window"):
        raise ModelError("Attention with a gate or over a window of neighbours is not read.", cure=OTHER_KERAS)
    heads, width = int(config["num_heads"]), int(config["key_dim"])
    of_values = int(config.get("value_dim") or width)
    if not 1 <= heads <= MAX_HEADS or not all(1 <= size <= MAX_WIDTH for size in (width, of_values)):
        raise ValueError(f"{heads} heads of {width} and {of_values} values")
    tokens = [math.prod(tensor.shape[2:] if given.rank == 4 else tensor.shape[1:-1]) for tensor in inputs]
    if heads * tokens[0] * tokens[1] > MAX_SCORES:
        raise ModelError(
            f"{heads} heads over {tokens[0]:,} and {tokens[1]:,} tokens: more than is read.", cure=OTHER_KERAS
        )
    channels = [tensor.shape[1 if given.rank == 4 else -1] for tensor in inputs]
    query, value, key = channels[0], channels[1], channels[-1]
    output = given.shapes["output_kernel"][-1]
    wanted = {
        "query": (query, heads, width), "key": (key, heads, width), "value": (value, heads, of_values),
        "output": (heads, of_values, output),
    }  # fmt: skip
    for part, shape in wanted.items():
        if given.shapes[f"{part}_kernel"] != shape:
            raise ValueError(f"a kernel of the {part} of {given.shapes[f'{part}_kernel']}, not {shape}")
    sizes = {part: (shape[0], heads * shape[2]) for part, shape in wanted.items()}
    sizes["output"] = (heads * of_values, output)
    bias = bool(config.get("use_bias", True))
    module: nn.Module = MultiHeadAttention(heads, sizes, bias=bias)
    inner = ""
    if given.rank == 4:
        module, inner = OverPositions(module), "attention."  # type: ignore[arg-type]
    weights = {}
    for part in ATTENTION_PARTS:
        weights[f"{inner}{part}.weight"] = (f"{part}_kernel", OUT_OF_HEADS if part == "output" else INTO_HEADS)
        weights |= {f"{inner}{part}.bias": (f"{part}_bias", FLAT)} if bias else {}
    return [LayerSpec("", module, weights)]
