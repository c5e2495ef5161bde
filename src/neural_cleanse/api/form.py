"""The keywords that scan, repair and fit_guard share: how the model is read, and how images reach it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import torch

from neural_cleanse.api.transforms import Crop, crop_of, normalize_of
from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import SettingsError

MAX_PIXELS = 4096**2  # of a size that images are brought to


class FormKeywords(TypedDict, total=False):
    """Keywords of scan, repair, fit_guard and load.

    mean, std: what the model's training subtracted and divided by, one value or one a channel, for pixels in [0, 1].
    scale: 255 for a model that takes 0-255 values. bgr: the model takes blue first.
    transform: in their place an object that holds them: torchvision's `weights.transforms()` or `Normalize`, timm's
        `pretrained_cfg`, a Hugging Face image processor. Its resizing and centre crop are applied to pictures.
    resize: (height, width) that images are brought to.
    device: where to compute ("cuda", "auto", ...); without it where the model is.
    label_names: the model's own names of its classes, in its order.
    ignore_labels: treat the images as unlabelled.
    features_layer: the linear layer whose input are the features, where it is not the last one.
    architecture, allow_code, skip_unreadable: for a model or images given as a path, as on the command line.
    """

    mean: float | Sequence[float]
    std: float | Sequence[float]
    scale: float
    bgr: bool
    transform: object
    resize: tuple[int, int]
    device: str | torch.device
    label_names: Sequence[str]
    ignore_labels: bool
    features_layer: str
    architecture: str
    allow_code: bool
    skip_unreadable: bool


@dataclass(frozen=True)
class Form:
    """The same, checked. `normalize` None: nothing was said of it."""

    normalize: Normalize | None = None
    crop: Crop | None = None
    resize: tuple[int, int] | None = None
    device: str | torch.device | None = None
    label_names: tuple[str, ...] | None = None
    ignore_labels: bool = False
    features_layer: str | None = None
    architecture: str | None = None
    allow_code: bool = False
    skip_unreadable: bool = False


def parsed(keywords: FormKeywords, function: str) -> Form:
    """The keywords as values. Raises TypeError on unknown ones, SettingsError on what contradicts itself."""
    unknown = sorted(set(keywords) - set(FormKeywords.__annotations__))
    if unknown:
        known = ", ".join(FormKeywords.__annotations__)
        raise TypeError(
            f"{function}() got an unexpected keyword argument {unknown[0]!r}. It takes {known}; "
            "how to search and how to repair is said by nc.ScanSettings(...) and nc.RepairSettings(...)."
        )
    given = cast(Mapping[str, Any], keywords)
    rest = {name: given[name] for name in given if name in Form.__annotations__ and given[name] is not None}
    if "label_names" in rest:
        rest["label_names"] = _names(rest["label_names"])
    if "resize" in rest:
        rest["resize"] = _size(rest["resize"])
    if isinstance(rest.get("device"), int):
        rest["device"] = f"cuda:{rest['device']}"  # as torch numbers them
    transform = given.get("transform")
    return Form(
        normalize=_normalize(given),
        crop=None if transform is None else crop_of(transform),
        **rest,
    )


def _normalize(given: Mapping[str, Any]) -> Normalize | None:
    values: dict[str, Any] = {
        name: given[name] for name in ("mean", "std", "scale", "bgr") if given.get(name) is not None
    }
    if not isinstance(values.get("scale", 1.0), int | float):
        raise SettingsError(f"scale= is {values['scale']!r:.80}, not a number.", cure="For 0-255 values scale=255.")
    if not isinstance(values.get("bgr", False), bool):
        raise SettingsError(f"bgr= is {values['bgr']!r:.80}.", cure="Give True or False.")
    for name in values.keys() & {"mean", "std"}:
        values[name] = _channels(values[name], name)
    transform = given.get("transform")
    if transform is None:
        return Normalize(**values) if values else None
    if values:
        raise SettingsError(
            f"Both transform= and {', '.join(f'{name}=' for name in values)} say how the images are normalised.",
            cure="Give one of them.",
        )
    found = normalize_of(transform)
    if found is None:
        raise SettingsError(
            f"transform= is a {type(transform).__name__} without a mean and a standard deviation.",
            cure="Give mean=(...) and std=(...) themselves.",
        )
    return found


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise SettingsError(
            f"label_names= is {value!r:.80}, not a list of names.", cure='Write it like ["cat", "dog"].'
        )
    return tuple(map(str, value))


def _size(value: Any) -> tuple[int, int]:
    """(height, width). Raises SettingsError on anything else."""
    sides = tuple(value) if isinstance(value, Sequence | torch.Size) and not isinstance(value, str) else ()
    whole = [int(side) for side in sides if isinstance(side, int | float) and side == int(side) and side > 0]
    if len(sides) != 2 or len(whole) != 2 or whole[0] * whole[1] > MAX_PIXELS:
        raise SettingsError(f"resize={value!r:.80} is not a size.", cure="Write (height, width), like (32, 32).")
    return whole[0], whole[1]


def _channels(value: Any, name: str) -> tuple[float, ...]:
    """One value or several (numbers, an array, a tensor) as a tuple. Raises SettingsError on anything else."""
    try:
        return tuple(float(one) for one in torch.as_tensor(value, dtype=torch.float64).flatten().tolist())
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{name}= needs a number, or one a channel; got {value!r:.80}.", cure=f"For example {name}=(0.5, 0.5, 0.5)."
        ) from error
