"""A usual architecture whose last layer was replaced: it is a Sequential, has another name, or lies beside a backbone.

Only one linear layer is taken for a head. Between the features and it nothing is assumed but dropout; what an
activation between two linear layers would be, no file says.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Size, Tensor, nn

from neural_cleanse.loading.common.resnet import ResNet
from neural_cleanse.loading.fitting import COUNTERS, MEAN, STD

# First parts of the names that last layers have, and where the architectures keep theirs.
FIRST_PARTS = ("fc", "linear", "classifier", "head", "heads", "cls_head", "last_linear", "output", "out")
USUAL = ("fc", "classifier.1", "classifier")


@dataclass(frozen=True)
class Head:
    """Where the file keeps the last layer, and where the architecture does; `trunk`: what the file calls all others."""

    path: str
    usual: str
    trunk: str = ""
    bias: bool = True


class Parted(nn.Module):
    """Features under one name, the last layer under another."""

    def __init__(self, trunk: str, features: nn.Module, path: str, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.first = trunk, path.partition(".")[0]
        self.add_module(trunk, features)
        self.add_module(self.first, nested(path.partition(".")[2], head))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = getattr(self, self.first)(getattr(self, self.trunk)(images))
        return logits


def nested(path: str, layer: nn.Module) -> nn.Module:
    """The layer at that path of Sequentials with nothing else in them."""
    for part in reversed(path.split(".") if path else []):
        outer = nn.Sequential()
        outer.add_module(part, layer)
        layer = outer
    return layer


def replaced(shapes: Mapping[str, Size]) -> Iterator[tuple[dict[str, Size], Head]]:
    """The shapes with their one linear layer where an architecture would have it, for each that could."""
    path = _only_linear(shapes)
    if path is None:
        return
    rest = {key: shape for key, shape in shapes.items() if not key.startswith(f"{path}.")}
    weight, bias = shapes[f"{path}.weight"], f"{path}.bias" in shapes
    ends = {"weight": weight, "bias": Size(weight[:1])}
    for usual in USUAL:
        if usual != path or not bias:
            yield rest | {f"{usual}.{end}": shape for end, shape in ends.items()}, Head(path, usual, bias=bias)
    trunks = {key.partition(".")[0] for key in rest if not _is_beside(key.rpartition(".")[2])}
    if len(trunks) == 1 and path.partition(".")[0] not in trunks:
        (trunk,) = trunks
        inner = {key.partition(".")[2]: shape for key, shape in rest.items()}
        yield inner | {f"fc.{end}": shape for end, shape in ends.items()}, Head(path, "fc", trunk, bias)


def _is_beside(last: str) -> bool:
    """Whether a tensor of that last name is no layer's weight: a counter, or the normalisation."""
    return any(pattern.fullmatch(last) for pattern in (COUNTERS, MEAN, STD))


def _only_linear(shapes: Mapping[str, Size]) -> str | None:
    """The path of the one linear layer, where it has a name of last layers."""
    linear = [
        key.removesuffix(".weight") for key, shape in shapes.items() if key.endswith(".weight") and len(shape) == 2
    ]
    return linear[0] if len(linear) == 1 and linear[0].partition(".")[0] in FIRST_PARTS else None


def moved(network: nn.Module, head: Head) -> nn.Module | None:
    """The network with its last layer where the file has it; None where it cannot stand there."""
    linear = network.get_submodule(head.usual)
    if not head.bias and isinstance(linear, nn.Linear):
        linear = nn.Linear(linear.in_features, linear.out_features, bias=False)
    first, _, rest = head.path.partition(".")
    if head.trunk:
        if not isinstance(network, ResNet):
            return None
        network.fc = nn.Identity()
        return Parted(head.trunk, network, head.path, linear)
    if first == head.usual.partition(".")[0]:
        setattr(network, first, nested(rest, linear))
    elif isinstance(network, ResNet):
        delattr(network, network.head_name)
        network.head_name = first
        network.add_module(first, nested(rest, linear))
    else:
        return None
    return network


def with_head(
    build: Callable[[Mapping[str, Size]], tuple[str, nn.Module, tuple[str, ...]] | None],
    shapes: Mapping[str, Size],
    head: Head,
) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """What `build` makes of shapes with the head in the usual place, its last layer moved to where the file has it."""
    found = build(shapes)
    network = None if found is None else moved(found[1], head)
    if found is None or network is None:
        return None
    without = "" if head.bias else " without a bias"
    return found[0], network, (*found[2], f"its last layer is {head.path!r}{without}, with at most dropout before it")
