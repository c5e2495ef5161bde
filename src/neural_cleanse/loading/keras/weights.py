"""Keras HDF5 files of weights alone (`save_weights`), put into a torch network that somebody names.

The file says neither which network it belongs to nor how its layers are wired. Its convolutions, dense layers and batch
norms go into the network's own of the same kind, in order, and every shape must agree. Keras flattens feature maps row
by row with the channels last, torch with the channels first: where a linear layer sees a flattened map, its columns
change places.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neural_cleanse.errors import CheckpointMismatch, ModelError
from neural_cleanse.loading.architecture import Blueprint, build
from neural_cleanse.loading.cures import ITS_ARCHITECTURE, OTHER_KERAS
from neural_cleanse.loading.keras.flattening import flattened_maps
from neural_cleanse.loading.keras.hdf5 import Hdf5, rewritten
from neural_cleanse.loading.keras.spec import AS_IT_IS, CONVOLUTION, DENSE, DEPTHWISE, WeightLayout
from neural_cleanse.loading.network import Network, Trust
from neural_cleanse.text import quoted

CONTAINER = "Keras HDF5 weights"
MODEL_CONFIG, MODEL_WEIGHTS = "model_config", "model_weights"
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # groups of a .weights.h5, today's and that of 2.12
KERAS_EPSILON = 1e-3  # of batch normalisation in Keras, which the file does not say; torch's own is 1e-5
# Kinds of layer by how many axes their weights have: kernel and bias, or the four of batch normalisation.
KINDS = {(4,): "convolution", (4, 1): "convolution", (2,): "linear", (2, 1): "linear", (1, 1, 1, 1): "batch norm"}
Source = tuple[str, WeightLayout, tuple[int, ...]]  # the array, how it is turned round, and its shape


@dataclass(frozen=True)
class _Stored:
    """One layer's arrays in the file."""

    kind: str
    name: str
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


def holds_weights_only(content: bytes, name: str) -> bool:
    """Whether this HDF5 file describes no model beside its weights."""
    return Hdf5(content, name).text(MODEL_CONFIG) is None


def tensors_of(content: bytes, name: str) -> dict[str, Tensor]:
    """Every array of a file of weights alone, by its path. Raises ModelError when it is damaged."""
    file = Hdf5(content, name)
    return {path: file.tensor(path) for _, paths in _groups(file) for path in paths}


def assemble(
    content: bytes,
    name: str,
    architecture: str | None,
    *,
    allow_code: bool,
    input_shape: tuple[int, int, int] | None = None,
) -> Network:
    """The network that `architecture` (a name, or FILE.py:FUNCTION) builds, with the file's weights in it.

    `input_shape` serves functions, which do not say theirs. Raises ModelError, CheckpointMismatch when the layers or
    their shapes differ.
    """
    if architecture is None:
        raise ModelError(
            f"{name} holds Keras weights only and does not say which network they belong to.",
            cure="Name it with --architecture NAME, or FILE.py:FUNCTION and --allow-code.",
        )
    file = Hdf5(content, name)
    stored = _stored(file)
    tensors = {path: file.tensor(path) for layer in stored for path in layer.paths}
    blueprint = build(architecture, tensors, stored[-1].shapes[0][-1], allow_code=allow_code)
    shape = blueprint.input_shape or input_shape
    sources = _matched(stored, blueprint, shape, name)
    state = {key: rearranged.to_torch(tensors[path]).contiguous() for key, (path, rearranged, _) in sources.items()}
    blueprint.module.load_state_dict(state, strict=False)  # all but batch norm's step counter, which no one needs
    epsilons = _set_epsilon(blueprint.module)
    return Network(
        module=blueprint.module,
        container=CONTAINER,
        trust=Trust.TENSORS_OWN_CODE if blueprint.ran_code else Trust.TENSORS,
        architecture=architecture,
        input_shape=shape,
        assumed=("weights matched to layers by order and shape, channels last as Keras has them", *epsilons),
    )


def rewrite(
    content: bytes,
    state: Mapping[str, Tensor],
    architecture: str,
    *,
    allow_code: bool = False,
    input_shape: tuple[int, int, int] | None = None,
) -> bytes:
    """The same file with the weights of `state`, which are of the network that `assemble` built from it."""
    file = Hdf5(content, "the file")
    stored = _stored(file)
    tensors = {path: file.tensor(path) for layer in stored for path in layer.paths}
    blueprint = build(architecture, tensors, stored[-1].shapes[0][-1], allow_code=allow_code)
    sources = _matched(stored, blueprint, blueprint.input_shape or input_shape, "the file")
    return rewritten(
        content,
        "the file",
        {path: turned.to_keras(state[key], shape) for key, (path, turned, shape) in sources.items()},
    )


def _stored(file: Hdf5) -> list[_Stored]:
    """The layers with weights, in the file's order. Raises CheckpointMismatch for a kind that cannot be matched."""
    found = []
    for name, paths in _groups(file):
        shapes = tuple(file.shape(path) for path in paths)
        kind = KINDS.get(tuple(len(shape) for shape in shapes))
        if kind is None:
            raise CheckpointMismatch(
                f"{file.name}: the layer {quoted(name)} holds arrays of {', '.join(map(str, shapes))}: only those of "
                "convolutions, dense layers and whole batch norms are matched to an architecture.",
                cure="Save the whole model: model.save(path).",
            )
        found.append(_Stored(kind, name, tuple(paths), shapes))
    if not found:
        raise ModelError(f"{file.name} holds no layers with weights.", cure=OTHER_KERAS)
    return found


def _groups(file: Hdf5) -> list[tuple[str, list[str]]]:
    """(layer, its arrays) in the order of `layer_names`, or of kind and number where Keras 3 counts them."""
    container = next((group for group in CONTAINERS if file.has(group)), None)
    if container is not None:
        groups = [(name, f"{container}/{name}/vars") for name in sorted(file.children(container), key=_natural)]
        held = [(name, group, sorted(file.children(group), key=_natural)) for name, group in groups if file.has(group)]
    else:
        root = MODEL_WEIGHTS if file.has(MODEL_WEIGHTS) else ""
        groups = [(name, f"{root}/{name}") for name in file.names("layer_names", root)]
        held = [(name, group, file.names("weight_names", group)) for name, group in groups]
    return [(name, [f"{group}/{weight}" for weight in weights]) for name, group, weights in held if weights]


def _natural(name: str) -> tuple[str, int]:
    """conv2d before conv2d_1, and that before conv2d_10."""
    stem, number = re.fullmatch(r"(.*?)_?(\d{0,9})", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return stem, int(number or 0)


def _matched(
    stored: list[_Stored], blueprint: Blueprint, shape: tuple[int, int, int] | None, name: str
) -> dict[str, Source]:
    """For each tensor of the network's state the array that belongs there."""
    sources: dict[str, Source] = {}
    waiting = {kind: [layer for layer in stored if layer.kind == kind] for kind in set(KINDS.values())}
    maps: dict[str, tuple[int, int, int]] | None = None
    for place, module in blueprint.module.named_modules():
        kind = _kind(module)
        if kind is None:
            if next(module.parameters(recurse=False), None) is not None:
                raise CheckpointMismatch(
                    f"The layer {place} ({type(module).__name__}) has no like in Keras files.", cure=ITS_ARCHITECTURE
                )
            continue
        if not waiting[kind]:
            raise CheckpointMismatch(
                f"{name} has fewer {kind} layers than the architecture: none is left for {place}.",
                cure=ITS_ARCHITECTURE,
            )
        layer = waiting[kind].pop(0)
        if kind == "linear" and maps is None:
            maps = flattened_maps(blueprint.module, shape, name)
        sources |= _sources(module, place, layer, (maps or {}).get(place), name)
    left = [layer for layers in waiting.values() for layer in layers]
    if left:
        raise CheckpointMismatch(
            f"{name} has more layers than the architecture: {quoted(left[0].name)} is left over.", cure=ITS_ARCHITECTURE
        )
    return sources


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, nn.Conv2d):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "linear"
    return "batch norm" if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) else None


def _sources(
    module: nn.Module, place: str, layer: _Stored, flattened: tuple[int, int, int] | None, name: str
) -> dict[str, Source]:
    """The tensors of one module. Raises CheckpointMismatch when the file's arrays have other shapes."""
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels > 1
        ways = {"weight": DEPTHWISE if depthwise else CONVOLUTION, "bias": AS_IT_IS}
    elif isinstance(module, nn.Linear):
        ways = {"weight": DENSE if flattened is None else _flattened(flattened), "bias": AS_IT_IS}
    else:
        ways = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), AS_IT_IS)
    held = {key: tensor for key in ways if (tensor := getattr(module, key)) is not None}
    prefix = f"{place}." if place else ""
    sources: dict[str, Source] = {}
    for key, path, shape in zip(held, layer.paths, layer.shapes, strict=False):
        sources[prefix + key] = path, ways[key], shape
        turned = ways[key].to_torch(torch.empty(shape, device="meta")) if len(shape) == held[key].dim() else None
        if turned is None or turned.shape != held[key].shape:
            raise CheckpointMismatch(
                f"{quoted(layer.name)} of {name} is {shape}, which does not fit {place}, {tuple(held[key].shape)}.",
                cure="Name the network they were trained in with --architecture.",
            )
    if len(held) != len(layer.paths):
        raise CheckpointMismatch(
            f"{quoted(layer.name)} of {name} has {len(layer.paths)} arrays, {place} {len(held)}.", cure=ITS_ARCHITECTURE
        )
    return sources


def _flattened(sizes: tuple[int, int, int]) -> WeightLayout:
    """A dense kernel that follows a flattened map of (channels, height, width)."""
    channels, height, width = sizes
    return WeightLayout(
        lambda kernel: kernel.reshape(height, width, channels, -1).permute(3, 2, 0, 1).flatten(1),
        lambda weight, shape: weight.reshape(-1, channels, height, width).permute(2, 3, 1, 0).reshape(shape),
    )


def _set_epsilon(module: nn.Module) -> tuple[str, ...]:
    """Keras' default in every batch norm; what was assumed by it, in words."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.eps = KERAS_EPSILON
    return (f"batch norm's epsilon {KERAS_EPSILON:g}, as Keras has it",) if norms else ()
