"""Which of the usual architectures a set of weights belongs to, by the names and shapes of its tensors alone."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Size, Tensor, nn

from neural_cleanse.loading.common import (
    alexnet,
    densenet,
    googlenet,
    heads,
    mobilenet,
    preact,
    resnet,
    shufflenet,
    squeezed,
    squeezenet,
    vgg,
    vit,
)
from neural_cleanse.loading.fitting import cleaned
from neural_cleanse.loading.reparametrised import stored_tensors

FAMILIES = tuple(
    family.from_shapes
    for family in (
        resnet, preact, vgg, mobilenet, squeezed, densenet, vit, alexnet, squeezenet, shufflenet, googlenet
    )
)  # fmt: skip
NAMES = (
    *resnet.VARIANTS, *preact.BLOCKS, *vgg.DEPTHS, *(f"{name}_bn" for name in vgg.DEPTHS), "mobilenet_v2",
    *squeezed.MOBILE, "efficientnet_b0", "densenet121", *vit.NAMES, "alexnet", *squeezenet.PLANS,
    *shufflenet.WIDTHS, "googlenet",
)  # fmt: skip
# First tensors of the families.
ANCHORS = (
    "conv1.weight", "features.0.weight", "features.0.0.weight", "features.conv0.weight",
    "conv1.0.weight", "conv1.conv.weight",
    f"{vit.TORCHVISION.patches}.weight", f"{vit.TIMM.patches}.weight",
)  # fmt: skip
# A network may need so many times the bytes of the file before it is refused unbuilt: room for a wrong name, which
# deserves the list of what differs, and none for a file that names a billion classes.
MAX_GROWTH, ALWAYS_ALLOWED = 4, 10_000_000
Built = tuple[str, nn.Module, tuple[str, ...]]


@dataclass(frozen=True)
class Recognised:
    """A usual architecture, empty, and what was assumed of it."""

    name: str
    module: nn.Module
    assumed: tuple[str, ...]


def recognise(tensors: Mapping[str, Tensor]) -> Recognised | None:
    """The architecture whose every tensor is there, in its shape; None when it is none of the usual ones.

    Nothing of the file's size is trusted: a network is first built without memory and compared.
    """
    shapes = {key: tensors[one.parts[-1]].shape for key, one in cleaned(stored_tensors(tensors)).items()}
    for inner in _without_prefixes(shapes):
        for family in FAMILIES:
            made = _made(partial(family, inner), inner, tensors)
            if made is not None:
                return made
    for inner in _without_prefixes(shapes, above=True):
        for moved, head in heads.replaced(inner):
            for family in FAMILIES:
                made = _made(partial(heads.with_head, family, moved, head), inner, tensors)
                if made is not None:
                    return made
    return None


def _made(
    build: Callable[[], Built | None], inner: Mapping[str, Size], tensors: Mapping[str, Tensor]
) -> Recognised | None:
    """What `build` makes, once it is known without memory that its every tensor is among the file's."""
    try:
        with torch.device("meta"):
            found = build()
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError):  # sizes that no layer has
        return None
    if found is None or not _all_there(found[1], inner) or needs_more_than(found[1], tensors):
        return None
    built = build()
    assert built is not None
    return Recognised(*built)


def _without_prefixes(shapes: Mapping[str, Size], *, above: bool = False) -> Iterator[dict[str, Size]]:
    """The names as they are, then without what stands before a first tensor's name; `above`: or its last part stays."""
    prefixes = dict.fromkeys(
        key[: -len(anchor)] for anchor in ANCHORS for key in shapes if re.search(rf"(^|\.){re.escape(anchor)}$", key)
    )
    if above:
        prefixes |= dict.fromkeys(prefix[: prefix[:-1].rfind(".") + 1] for prefix in list(prefixes))
    for prefix in sorted(prefixes, key=len):
        yield {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}


def _all_there(network: nn.Module, shapes: Mapping[str, Size]) -> bool:
    state = network.state_dict()
    return all(
        shapes.get(key) == tensor.shape for key, tensor in state.items() if not key.endswith("num_batches_tracked")
    )


def needs_more_than(network: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the network, built without memory, has far more weights than the file really holds."""
    plain = [tensor for tensor in tensors.values() if tensor.layout is torch.strided and not tensor.is_meta]
    held = sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in plain}.values())
    needed = sum(parameter.numel() for parameter in network.parameters())
    return needed > max(ALWAYS_ALLOWED, MAX_GROWTH * held)
