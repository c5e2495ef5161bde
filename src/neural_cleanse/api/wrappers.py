"""What other libraries wrap a module in, taken off by duck typing; and what the module declares of its input.

ART's PyTorchClassifier (model, clip_values, preprocessing), foolbox's PyTorchModel (model, bounds, _preprocess_args),
DataParallel, DistributedDataParallel and torch.compile. None of these libraries is imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neural_cleanse.api.transforms import Crop, crop_of, normalize_of
from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import ModelError

PRETRAINED = ("pretrained_cfg", "default_cfg")  # timm's


@dataclass(frozen=True)
class Unwrapped:
    """The module itself, and what its wrapper or the module declares: form of input, class names, in words whence."""

    module: nn.Module
    normalize: Normalize | None = None
    crop: Crop | None = None
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def unwrap(model: object) -> Unwrapped | None:
    """The module in `model`; None where there is none. Raises ModelError on preprocessing that cannot be read."""
    if isinstance(model, nn.Module):
        module = _bare(model)
        return _declared(module)
    inner = getattr(model, "model", None)
    if not isinstance(inner, nn.Module):
        return None
    module = _bare(inner)
    if hasattr(model, "clip_values"):
        normalize = _of_art(model)
    elif hasattr(model, "bounds"):
        normalize = _of_foolbox(model)
    else:
        return None
    return Unwrapped(module, normalize, notes=(f"input as the {type(model).__name__} says: {normalize}",))


def _bare(module: nn.Module) -> nn.Module:
    compiled = getattr(module, "_orig_mod", None)  # of torch.compile
    if isinstance(compiled, nn.Module):
        return _bare(compiled)
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _bare(module.module)
    return module


def _declared(module: nn.Module) -> Unwrapped:
    for name in PRETRAINED:
        said = getattr(module, name, None)
        normalize = None if said is None else normalize_of(said)
        if normalize is not None:
            note = f"normalisation read from the module's {name}: {normalize}"
            return Unwrapped(module, normalize, crop_of(said), notes=(note,))
    return Unwrapped(module, label_names=_config_names(module))


def _config_names(module: nn.Module) -> tuple[str, ...] | None:
    """The names of classes in a Hugging Face model's configuration."""
    names = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(names, Mapping) or set(names) != set(range(len(names))):
        return None
    said = tuple(str(names[label]) for label in range(len(names)))
    return None if said == tuple(f"LABEL_{label}" for label in range(len(said))) else said  # its placeholders


def _of_art(model: Any) -> Normalize:
    """x in `clip_values`, then (x - mean) / std."""
    mean: Any = 0.0
    std: Any = 1.0
    steps = list(getattr(model, "preprocessing_operations", None) or [])
    if not steps:
        given = getattr(model, "preprocessing", None)
        steps = [] if given is None else [given]
    for step in steps:
        pair = step if isinstance(step, tuple | list) and len(step) == 2 else None
        mean = pair[0] if pair else getattr(step, "mean", None)
        std = pair[1] if pair else getattr(step, "std", None)
        if mean is None or std is None or len(steps) > 1:
            raise ModelError(
                f"The {type(model).__name__} has preprocessing that is not a mean and a standard deviation: "
                f"{', '.join(type(one).__name__ for one in steps)}.",
                cure="Pass its .model, with mean=(...) and std=(...).",
            )
    bounds = model.clip_values
    low, high = (0.0, 1.0) if bounds is None else (_one(bounds[0]), _one(bounds[1]))
    return _affine(low, high, mean, std)


def _of_foolbox(model: Any) -> Normalize:
    """x in `bounds`, channels flipped or not, then (x - mean) / std; mean and std are in the order after the flip."""
    low, high = (_one(bound) for bound in model.bounds)
    mean, std, flip = getattr(model, "_preprocess_args", (None, None, None))
    return _affine(low, high, 0.0 if mean is None else mean, 1.0 if std is None else std, bgr=flip is not None)


def _affine(low: float, high: float, mean: Any, std: Any, *, bgr: bool = False) -> Normalize:
    """(pixels * (high - low) + low - mean) / std as a Normalize, with mean and std in the order red, green, blue."""
    means, stds = (_numbers(values)[:: -1 if bgr else 1] for values in (mean, std))
    return Normalize(tuple(value - low for value in means), stds, high - low, bgr)


def _numbers(values: Any) -> tuple[float, ...]:
    """Numbers of a scalar, an array, a tensor, or a tensor wrapped by eagerpy (`raw`)."""
    raw = getattr(values, "raw", values)
    return tuple(torch.as_tensor(raw, dtype=torch.float64).flatten().tolist())


def _one(bound: Any) -> float:
    """A bound, which may be an array of equal values."""
    found = set(_numbers(bound))
    if len(found) != 1:
        raise ModelError("The bounds of the pixels differ from channel to channel.", cure="Pass the module itself.")
    return found.pop()
