"""A suspect network as the rest of the code sees it: pixels in [0, 1] go in, logits come out.

Normalisation lives inside, so that a trigger is found, measured and shown in pixels, whatever range
the network was trained on. The module is a frozen copy in eval mode: no weight ever gets a gradient
(up to a third of a backward pass saved), and the caller's own module stays as it was.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neural_cleanse.copies import copied, frozen
from neural_cleanse.deadline import Deadline, Signal
from neural_cleanse.errors import NeuralCleanseError, SettingsError, UnusableOutputs
from neural_cleanse.layers import Layers, Tap, find_layers, one_vector
from neural_cleanse.memory_errors import out_of_memory
from neural_cleanse.outputs import OutputKind, logits_of
from neural_cleanse.rounding import StraightThrough
from neural_cleanse.rounding import rounds as rounds_pixels
from neural_cleanse.text import by, first_line

FORM = "Give what training used: one value, or one a channel."
LAYERS_SEEN_ON = 3  # images: a number of tokens is seldom that


@dataclass(frozen=True)
class Normalize:
    """What the network expects: (pixels * scale - mean) / std, one value or one a channel.

    `scale` is 255 for networks that take raw 0-255 values; mean and std are in units after scaling, and in the order
    red, green, blue; with `bgr` the network gets blue first.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    bgr: bool = False

    def __post_init__(self) -> None:
        if not self.mean or not self.std:
            raise SettingsError(
                "mean and std need at least one value.", cure="Give one value, or one for each channel."
            )
        if not all(0 < value < float("inf") for value in (*self.std, self.scale)):
            raise SettingsError(f"std and scale must be above 0, got std {self.std} and scale {self.scale}.", cure=FORM)
        if not all(abs(value) < float("inf") for value in self.mean):
            raise SettingsError(f"mean must be finite, got {self.mean}.", cure=FORM)
        if len(self.mean) not in (1, len(self.std)) and len(self.std) != 1:
            raise SettingsError(f"mean has {len(self.mean)} channels and std has {len(self.std)}.", cure=FORM)

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        if self == Normalize():
            return images
        channels = images.shape[1]
        if not {len(self.mean), len(self.std)} <= {1, channels}:
            raise SettingsError(
                f"The normalisation is for {max(len(self.mean), len(self.std))} channels, the images have {channels}.",
                cure="Give mean and std one value, or one a channel.",
            )
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        std = images.new_tensor(self.std).view(1, -1, 1, 1)
        normalized = (images * self.scale - mean) / std
        return normalized.flip(1) if self.bgr else normalized

    def undone(self, normalized: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The pixels in [0, 1] that normalised images were made of, for the channels that it is for."""
        images = normalized.flip(1) if self.bgr else normalized
        mean, std = (images.new_tensor(numbers).view(1, -1, 1, 1) for numbers in (self.mean, self.std))
        pixels: Tensor = (images * std + mean) / self.scale
        return pixels

    def __str__(self) -> str:
        if self == Normalize():
            return "pixels in [0, 1] as they are"
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        scaled = "" if self.scale == 1 else f" x {self.scale:g}"
        said = f"(pixels in [0, 1]{scaled} - mean {mean}) / std {std}"
        return f"{said}, blue first" if self.bgr else said


@dataclass(frozen=True)
class Classifier:
    """A frozen network with its normalisation inside: images in [0, 1] to logits.

    `input_shape` is (channels, height, width); `outputs` says what the module itself returns; `features_layer` names
    the linear layer whose input are the features, where it is not the last one. After `deadline` a call raises
    OutOfTime. `rounds` says that gradients pass its roundings (rounding.py), `changes_input` that the module writes
    into what it is given: it then gets a copy.
    """

    module: nn.Module
    input_shape: tuple[int, int, int]
    num_classes: int
    normalize: Normalize = Normalize()
    outputs: OutputKind = OutputKind.LOGITS
    features_layer: str | None = None
    deadline: Deadline | None = None
    memory_format: torch.memory_format = field(init=False, default=torch.contiguous_format)
    rounds: bool = field(init=False, default=False)
    changes_input: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        module = frozen(self.module)
        object.__setattr__(self, "module", module)
        object.__setattr__(self, "memory_format", _fastest_layout(module, self.input_shape, self.normalize))
        object.__setattr__(self, "changes_input", self._changes_input())
        object.__setattr__(self, "rounds", self._loses_gradient())

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        self.check_time()
        try:
            with StraightThrough() if self.rounds else nullcontext():
                return self._answer(images)
        except (NeuralCleanseError, Signal):
            raise
        except Exception as error:  # whatever a user's own forward raises
            if out_of_memory(error):
                raise
            raise UnusableOutputs(
                f"The network fails on {len(images)} images of shape {by(images.shape[1:])} (channels x height x "
                f"width): {first_line(error)}",
                cure="Its forward must take any number of images of that shape.",
            ) from error

    def _answer(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        given = self.normalize(images.contiguous(memory_format=self.memory_format))
        return self.as_logits(self.module(given.clone() if self.changes_input else given))

    def _noise(self) -> Float[Tensor, "two c h w"]:
        return torch.rand(2, *self.input_shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    @torch.no_grad()
    def _changes_input(self) -> bool:
        """Whether the module writes into its input, which then is no longer what a gradient was to be taken of."""
        given = self._noise()
        try:
            self.module(given)
            return given._version > 0
        except Exception:  # whatever a user's own forward raises is told by `probe`
            return False

    def _loses_gradient(self) -> bool:
        """Whether a rounding keeps the gradient from the pixels; on two images of noise."""
        try:
            return rounds_pixels(self._answer, self._noise())
        except Exception:  # whatever a user's own forward raises is told by `probe`
            return False

    def check_time(self) -> None:
        """Raise OutOfTime after the deadline: asked before every call, and by what calls the module itself."""
        if self.deadline is not None:
            self.deadline.check()

    def as_logits(self, rows: Float[Tensor, " n *outputs"]) -> Float[Tensor, "n classes"]:
        """What the module returned, as logits."""
        return logits_of(rows, self.outputs)

    @cached_property
    def layers(self) -> Layers:
        """Which layers see the features. Raises UnusableOutputs where none does."""
        images = torch.zeros(LAYERS_SEEN_ON, *self.input_shape, device=self.device)
        images = self.normalize(images.contiguous(memory_format=self.memory_format))
        return find_layers(self.module, images, self.features_layer)

    @property
    def num_features(self) -> int:
        """How many values go into the last linear layer."""
        layer = self.module.get_submodule(self.layers.last_linear)
        assert isinstance(layer, nn.Linear), "find_layers names a linear layer"
        return layer.in_features

    def with_features(
        self, images: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n d"]]:
        """Logits, and what goes into the last linear layer (of tokens their mean), in one forward pass."""
        with Tap(self.module.get_submodule(self.layers.last_linear)) as tap:
            logits = self(images)
            return logits, one_vector(tap.take())

    @property
    def device(self) -> torch.device:
        """Where the weights are (the CPU for a network without weights)."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    def changed(self, **fields: Any) -> "Classifier":
        """The same with other values of fields. Nothing is copied or tried again.

        A `module` must be a frozen copy of this network, which nobody else changes; other modules go through
        `dataclasses.replace`, which copies and freezes them.
        """
        same = copy.copy(self)
        same.__dict__.pop("layers", None)  # found for the module and the layer of before
        for name, value in fields.items():
            object.__setattr__(same, name, value)
        return same

    def to(self, device: torch.device) -> "Classifier":
        """The same classifier on `device`."""
        return self.changed(module=copied(self.module).to(device))


def _fastest_layout(module: nn.Module, shape: tuple[int, int, int], normalize: Normalize) -> torch.memory_format:
    """Channels-last where the module can take it: a fifth to a half faster for small networks on a CPU."""
    parameters = list(module.parameters())
    if not any(parameter.dim() == 4 for parameter in parameters):
        return torch.contiguous_format
    try:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            images = torch.zeros(2, *shape, device=parameters[0].device)
            module(normalize(images.contiguous(memory_format=torch.channels_last)))
    except RuntimeError:  # a forward that uses .view() on the activations needs them contiguous
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return torch.contiguous_format
    return torch.channels_last


def device_named(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one. Raises SettingsError when it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # meta has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"There is no device {name!r} here: {str(error).splitlines()[0].rstrip('.')}.",
            cure="Use --device auto or cpu, or install a PyTorch that supports your GPU.",
        ) from error
    return device
