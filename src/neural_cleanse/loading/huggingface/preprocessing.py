"""What a Hugging Face directory says of its input and its labels, read by ourselves.

transformers' own image processors drag in torchvision where it is installed, and decide more than a scan needs: which
range, which mean, which size.
"""

from typing import Any

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import ModelError, SettingsError
from neural_cleanse.loading.checkpoint import MAX_INPUT_VALUES, MAX_LABEL_NAME
from neural_cleanse.loading.cures import OTHER_DIRECTORY
from neural_cleanse.pixel_values import PIXEL_MAX


def normalization(preprocessing: dict[str, Any], name: str) -> Normalize:
    """(pixels * 255 * rescale_factor - mean) / std, each step unless it is switched off."""
    try:
        factor = (
            float(preprocessing.get("rescale_factor", 1 / PIXEL_MAX)) if preprocessing.get("do_rescale", True) else 1.0
        )
        scale = round(PIXEL_MAX * factor, 6)
        if not preprocessing.get("do_normalize", "image_mean" in preprocessing):
            return Normalize(scale=scale)
        mean, std = (_channels(preprocessing[key]) for key in ("image_mean", "image_std"))
        if preprocessing.get("rescale_offset"):  # EfficientNet's: one less before the mean
            mean = tuple(value + 1 for value in mean)
        if preprocessing.get("include_top"):  # EfficientNet's: divided twice
            std = tuple(value**2 for value in std)
        return Normalize(mean, std, scale)
    except (KeyError, TypeError, ValueError, OverflowError, SettingsError) as error:
        raise ModelError(
            f"preprocessor_config.json of {name} cannot be read: {type(error).__name__} {error}.",
            cure="Give --mean, --std and --scale yourself, and remove that file.",
        ) from error


def _channels(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) not in (1, 3):
        raise ValueError(f"{len(values)} channels")
    return tuple(float(one) for one in values)


def input_shape(config: dict[str, Any], preprocessing: dict[str, Any], name: str) -> tuple[int, int, int] | None:
    """Channels, height and width: of the crop, else of the resized image, else of the network; None: not said."""
    cropped = preprocessing.get("do_center_crop", "crop_size" in preprocessing)
    sizes = (preprocessing.get("crop_size") if cropped else None, preprocessing.get("size"), config.get("image_size"))
    size = next((found for found in map(_size, sizes) if found is not None), None)
    if size is None:
        return None
    channels = config.get("num_channels", 3)
    if not isinstance(channels, int) or min(channels, *size) < 1 or channels * size[0] * size[1] > MAX_INPUT_VALUES:
        raise ModelError(f"{name} says it takes images of {channels}x{size[0]}x{size[1]}.", cure=OTHER_DIRECTORY)
    return channels, *size


def _size(value: Any) -> tuple[int, int] | None:
    if isinstance(value, dict):
        value = value.get("shortest_edge") or [value.get("height"), value.get("width")]
    if isinstance(value, int):
        value = [value, value]
    if isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    return None


def label_names(config: dict[str, Any]) -> tuple[str, ...] | None:
    """The names of classes 0, 1, ...; None where they are not all there or say nothing."""
    raw = config.get("id2label")
    try:
        named = {int(key): str(value)[:MAX_LABEL_NAME] for key, value in raw.items()} if isinstance(raw, dict) else {}
    except ValueError:
        return None
    if not named or sorted(named) != list(range(len(named))):
        return None
    names = tuple(named[label] for label in range(len(named)))
    return None if all(name == f"LABEL_{label}" for label, name in enumerate(names)) else names
