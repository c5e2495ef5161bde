"""Labels of somebody's data set as class indices, and the names of its classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neural_cleanse.errors import DataError
from neural_cleanse.images import whole_numbers

CURE = "Give one class index an image, or pass ignore_labels=True."


def listed(labels: Any, number: int) -> list[Any]:
    """The labels of `number` images, one by one. Raises DataError where there are none, or not as many."""
    if not hasattr(labels, "__len__") or not hasattr(labels, "__getitem__") or isinstance(labels, str | Mapping):
        raise DataError(f"The labels are a {type(labels).__name__}, not a list of them.", cure=CURE)
    if getattr(labels, "ndim", 1) == 0 or len(labels) != number:
        count = 1 if getattr(labels, "ndim", 1) == 0 else len(labels)
        raise DataError(f"There are {number} images and {count} labels.", cure=CURE)
    return list(labels)


def targets_of(data: Any) -> Int[Tensor, " n"] | None:
    """The labels of all images where the data set lists them (`targets`, `labels`), a Subset's as well."""
    inner, rows = getattr(data, "dataset", None), getattr(data, "indices", None)
    if inner is not None and rows is not None:
        whole = targets_of(inner)
        return None if whole is None else whole[torch.as_tensor(list(rows))]
    for name in ("targets", "labels"):
        values = getattr(data, name, None)
        if isinstance(values, list | tuple | Tensor | np.ndarray) and len(values) == len(data):
            found = _whole(values)
            return found if found is not None and found.dim() == 1 else None
    return None


def _whole(values: Any) -> Tensor | None:
    try:
        found = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths, tensors without values
        return None
    return torch.from_numpy(whole_numbers(found)) if found.dtype.kind in "ui" else None


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
    labels = [label.decode("utf-8", "replace") if isinstance(label, bytes) else label for label in labels]
    if all(isinstance(label, str) for label in labels):
        said = sorted(set(labels))
        known = names if names is not None and set(said) <= set(names) else tuple(said)
        return torch.tensor([known.index(label) for label in labels]), known
    values = _numbers(labels)
    values = values.flatten(1) if values.dim() > 1 else values
    if values.dim() == 2 and values.shape[1] == 1:
        values = values.squeeze(1)
    if values.dim() == 2:
        ones = ((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all()
        if not ones:
            raise DataError(f"Labels of {values.shape[1]} values an image are not one class each.", cure=CURE)
        values = values.argmax(1)
    if values.is_floating_point() and not (torch.isfinite(values) & (values == values.round())).all():
        raise DataError("Labels are fractions or no numbers: class indices are needed.", cure=CURE)
    if values.is_floating_point():
        values = torch.from_numpy(whole_numbers(values.double().cpu().numpy()))
    found = values.long()
    return found, names if names is not None and int(found.max()) < len(names) else None


def _numbers(labels: Sequence[Any]) -> Tensor:
    """Labels of numbers in one tensor. Raises DataError on anything else."""
    try:
        values = torch.stack([_number(label) for label in labels])
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = sorted({type(label).__name__ for label in labels})
        raise DataError(
            f"The labels ({', '.join(kinds[:4])}) are not one class an image: {str(error).splitlines()[0][:120]}.",
            cure=CURE,
        ) from error
    if values.is_complex() or values.is_meta:
        raise DataError(f"Labels of {values.dtype} on {values.device}: class indices are needed.", cure=CURE)
    return values


def _number(label: Any) -> Tensor:
    if isinstance(label, Tensor) and label.dtype is not torch.uint64:
        return label.detach()
    values = np.asarray(label)
    if values.dtype.kind not in "uifb":
        raise TypeError(f"{label!r:.60} is no number")
    return torch.from_numpy(whole_numbers(values) if values.dtype.kind in "ui" else values)
