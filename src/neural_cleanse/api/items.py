"""One item or one batch of somebody's data set, taken apart into image and label; images in one tensor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neural_cleanse.api.form import Form
from neural_cleanse.errors import DataError
from neural_cleanse.loading.array_names import pair_of

IMAGE_KEYS = ("image", "img", "images", "pixel_values", "input", "inputs", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "targets", "y", "class")

KINDS = (
    "a DataLoader, a Dataset, (images, labels) as tensors or arrays, a list of pictures with labels, "
    "a Hugging Face dataset, or a path"
)


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
    if isinstance(item, tuple | list) and item:
        if not _may_be_image(item[0]) and any(_may_be_image(entry) for entry in item[1:]):
            raise DataError(
                f"The first entry of an item is no image but a {type(item[0]).__name__}.",
                cure="Give (image, label), in this order.",
            )
        if not isinstance(item[0], int | float):
            return Item(item[0], item[1] if len(item) > 1 else None)
    return Item(item)


def _may_be_image(entry: Any) -> bool:
    return hasattr(entry, "getbands") or (_is_array(entry) and entry.ndim >= 2)


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
        return _plain(values)
    if not isinstance(values, np.ndarray):
        raise DataError(
            f"An image is a {type(values).__name__}: a tensor, an array or a picture is needed.",
            cure="Give tensors, arrays or PIL pictures.",
        )
    if values.dtype.kind not in "uifb":
        raise DataError(f"Images of {values.dtype}: numbers are needed.", cure="Give tensors, arrays or PIL pictures.")
    wide = values.astype(np.int32) if values.dtype.kind == "u" and values.dtype.itemsize in (2, 4) else values
    native = wide.astype(wide.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native).copy())


def _plain(values: Tensor) -> Tensor:
    """Values of a tensor in main memory, dense and not quantised. Raises DataError where it has none."""
    if values.is_meta:
        raise DataError("The images are on the meta device: they have no values.", cure="Give images with values.")
    values = values.detach()
    if values.is_quantized:
        values = values.dequantize()
    return (values if values.layout is torch.strided else values.to_dense()).cpu()


def _picture(picture: Any, form: Form) -> Tensor:
    """A PIL picture as uint8 c x h x w, resized and cropped as the form says."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        raise DataError(
            f"A picture of mode {picture.mode} has more than 8 bits a pixel: no range is guessed.",
            cure="Convert the pictures to 8 bits before, in the range that the model was trained with.",
        )
    try:
        picture = picture.convert("L" if picture.mode in ("1", "L", "LA", "La") else "RGB")
    except Exception as error:  # what Pillow raises on a damaged file is no one family
        raise DataError(f"A picture cannot be read: {error}", cure="Leave it out.") from error
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


def arrays_of(data: object) -> tuple[Any, Any] | None:
    """Images and labels where the data are whole arrays: (images, labels), a mapping of both, or images alone."""
    if isinstance(data, Tensor | np.ndarray):
        return data, None
    if isinstance(data, Mapping):
        return _of_mapping(data)
    if not isinstance(data, tuple | list) or len(data) != 2:
        return None
    images, labels = data
    if _is_array(images) and _is_array(labels) and images.ndim < 2 and labels.ndim > 2:
        raise DataError(
            f"The first of the two arrays has {images.ndim} axes, the second {labels.ndim}: it holds no images.",
            cure="Give (images, labels), in this order.",
        )
    whole = isinstance(data, tuple) or _is_array(images)
    return (images, labels) if whole and _is_many(images, labels) else None


def _of_mapping(data: Mapping[Any, Any]) -> tuple[Any, Any]:
    """Images and labels of arrays by their usual names. Raises DataError where none is called so, or holds images."""
    known = pair_of([key for key in data if isinstance(key, str)])
    if known is not None:
        images, labels = data[known[0]], None if known[1] is None else data[known[1]]
    elif any(hasattr(part, "__getitem__") and hasattr(part, "features") for part in data.values()):
        raise DataError(
            f"This holds the parts {', '.join(map(str, data))} of a data set, not images.",
            cure=f"Give one of them, for example data[{list(data)[-1]!r}].",
        )
    else:
        whole = item_of(data)
        images, labels = whole.image, whole.label
    if not _is_many(images, labels):
        raise DataError(
            f"A {type(data).__name__} of {', '.join(map(str, data))} holds no images.", cure=f"Give {KINDS}."
        )
    return images, labels


def _is_many(images: object, labels: object) -> bool:
    """Whether this is many images: an array of them, flat ones with their labels, or a list of pictures or arrays."""
    if isinstance(images, Tensor | np.ndarray):
        if images.ndim == 2:
            return isinstance(labels, Tensor | np.ndarray | list) and len(labels) == len(images)
        return images.ndim in (3, 4) and not (images.ndim == 3 and images.shape[0] in (1, 3))
    if not isinstance(images, list | tuple) or not images:
        return False
    return hasattr(images[0], "getbands") or (isinstance(images[0], Tensor | np.ndarray) and images[0].ndim >= 2)
