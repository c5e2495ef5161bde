"""One item or one batch of somebody's data set, taken apart into image and label; labels and their names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neural_cleanse.api.form import Form
from neural_cleanse.errors import DataError

IMAGE_KEYS = ("image", "img", "images", "pixel_values", "input", "inputs", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "targets", "y", "class")


@dataclass(frozen=True)
class Item:
    """One image as it came (picture, array or tensor), its label if it has one, and under which key that stood."""

    image: Any
    label: Any = None
    label_key: str | None = None


def item_of(item: Any) -> Item:
    """What a data set gives for one index: an image, (image, label, ...), or a mapping. Raises DataError."""
    if isinstance(item, Mapping):
        image = next((key for key in IMAGE_KEYS if key in item), None)
        if image is None:
            raise DataError(
                f"An item has the keys {', '.join(map(str, item))}: none of them is known to hold images.",
                cure=f"Name one {', '.join(IMAGE_KEYS[:4])}.",
            )
        label = next((key for key in LABEL_KEYS if item.get(key) is not None), None)
        return Item(item[image], None if label is None else item[label], label)
    if isinstance(item, tuple | list) and item and not isinstance(item[0], int | float):
        return Item(item[0], item[1] if len(item) > 1 else None)
    return Item(item)


def batch_of(batch: Any) -> Iterator[Item]:
    """The items of what a loader gives at a time; a stream may also give single items."""
    if isinstance(batch, list) and batch and isinstance(batch[0], tuple | Mapping):
        yield from map(item_of, batch)  # a loader that collates nothing
        return
    whole = item_of(batch)
    images, labels = whole.image, whole.label
    many = isinstance(images, list | tuple) or (_is_array(images) and (images.ndim == 4 or _counts(labels, images)))
    if not many:
        yield whole
        return
    for row in range(len(images)):
        yield Item(images[row], None if labels is None else labels[row], whole.label_key)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _counts(labels: Any, images: Any) -> bool:
    """Whether the labels are one an image: a batch of grey images n x h x w is one."""
    return labels is not None and getattr(labels, "ndim", 0) >= 1 and len(labels) == len(images)


def stacked(images: Any, form: Form) -> Tensor:
    """All images in one tensor, in the layout that they have. Raises DataError when sizes differ."""
    if _is_array(images):
        return _tensor(images)
    tensors = [_picture(image, form) if hasattr(image, "getbands") else _tensor(image) for image in images]
    if all(hasattr(image, "getbands") for image in images):
        channels = max(tensor.shape[0] for tensor in tensors)  # grey pictures among coloured ones
        tensors = [tensor.expand(channels, *tensor.shape[1:]) for tensor in tensors]
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise DataError(
            f"The images have {len(shapes)} different shapes ({', '.join(map(str, shapes[:4]))}).",
            cure="Bring them to the model's input size with resize=(height, width).",
        )
    return torch.stack(tensors)


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    if not isinstance(values, np.ndarray):
        raise DataError(
            f"An image is a {type(values).__name__}: a tensor, an array or a picture is needed.",
            cure="Give tensors, arrays or PIL pictures.",
        )
    if values.dtype.kind not in "uifb":
        raise DataError(f"Images of {values.dtype}: numbers are needed.")
    wide = values.astype(np.int32) if values.dtype.kind == "u" and values.dtype.itemsize in (2, 4) else values
    native = wide.astype(wide.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native).copy())


def _picture(picture: Any, form: Form) -> Tensor:
    """A PIL picture as uint8 c x h x w, resized and cropped as the form says."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        raise DataError(f"A picture of mode {picture.mode} has more than 8 bits a pixel: no range is guessed.")
    picture = picture.convert("L" if picture.mode in ("1", "L", "LA", "La") else "RGB")
    if form.resize is not None:
        picture = picture.resize((form.resize[1], form.resize[0]), Image.Resampling.BILINEAR)
    elif form.crop is not None:
        picture = _middle(picture, form.crop.shorter, form.crop.size)
    array = np.array(picture, dtype=np.uint8)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)


def _middle(picture: Any, shorter: int, size: tuple[int, int]) -> Any:
    from PIL import Image

    grown = shorter / min(picture.width, picture.height)
    width, height = (max(1, round(side * grown)) for side in (picture.width, picture.height))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size[1]) // 2, (height - size[0]) // 2
    return picture.crop((left, top, left + size[1], top + size[0]))


def targets_of(data: Any) -> Int[Tensor, " n"] | None:
    """The labels of all images where the data set lists them (`targets`, `labels`), a Subset's as well."""
    inner, rows = getattr(data, "dataset", None), getattr(data, "indices", None)
    if inner is not None and rows is not None:
        whole = targets_of(inner)
        return None if whole is None else whole[torch.as_tensor(list(rows))]
    for name in ("targets", "labels"):
        values = getattr(data, name, None)
        if isinstance(values, list | tuple | Tensor | np.ndarray) and len(values) == len(data):
            listed = torch.as_tensor(np.asarray(values)) if np.asarray(values).dtype.kind in "ui" else None
            return listed.long() if listed is not None and listed.dim() == 1 else None
    return None


def names_of(data: Any, label_key: str | None) -> tuple[str, ...] | None:
    """The names of the classes where the data set has them: `classes`, or the features of a Hugging Face data set."""
    inner = getattr(data, "dataset", None)
    if getattr(data, "classes", None) is None and inner is not None:
        return names_of(inner, label_key)
    names = getattr(data, "classes", None)
    features = getattr(data, "features", None)
    if names is None and label_key is not None and isinstance(features, Mapping):
        names = getattr(features.get(label_key), "names", None)
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def labels_of(
    labels: Sequence[Any], names: tuple[str, ...] | None
) -> tuple[Int[Tensor, " n"] | None, tuple[str, ...] | None]:
    """Class indices, and the names of the classes. Raises DataError where labels are not one class an image."""
    missing = sum(label is None for label in labels)
    if missing == len(labels):
        return None, None
    if missing:
        raise DataError(
            f"{missing} of {len(labels)} images have no label.", cure="Label all, or pass ignore_labels=True."
        )
    if all(isinstance(label, str) for label in labels):
        known = names or tuple(sorted(set(labels)))
        return torch.tensor([known.index(label) for label in labels]), known
    values = torch.stack([torch.as_tensor(label) for label in labels])
    values = values.flatten(1) if values.dim() > 1 else values
    if values.dim() == 2 and values.shape[1] == 1:
        values = values.squeeze(1)
    if values.dim() == 2:
        ones = ((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all()
        if not ones:
            raise DataError(
                f"Labels of {values.shape[1]} values an image are not one class each.",
                cure="Give class indices, or pass ignore_labels=True.",
            )
        values = values.argmax(1)
    if values.is_floating_point() and not (values == values.round()).all():
        raise DataError(
            "Labels are fractions: class indices are needed.", cure="Round them, or pass ignore_labels=True."
        )
    found = values.long()
    return found, names if names is not None and int(found.max()) < len(names) else None
