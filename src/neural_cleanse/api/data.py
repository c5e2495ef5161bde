"""From whatever holds somebody's clean images to at most so many of them, drawn by a seed.

A path; an ImageSet; arrays or tensors, with labels or without; a list of pictures; a Dataset (also Hugging Face's); a
DataLoader or any other iterable of batches. A DataLoader's own order, shuffling and workers are not used where it has a
data set that can be indexed: images are drawn from that by seed, through the loader's `collate_fn`.
"""

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, SubsetRandomSampler

from neural_cleanse.api.errors import python_errors
from neural_cleanse.api.form import Form
from neural_cleanse.api.items import KINDS, Item, arrays_of, batch_of, item_of, stacked
from neural_cleanse.api.labels import labels_of, listed, names_of, targets_of
from neural_cleanse.api.pixels import channels_first, to_uint8
from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import DataError, NeuralCleanseError, SettingsError
from neural_cleanse.images import ClassOrder, ImageSet, balanced, in_channels
from neural_cleanse.loading.images import load as files
from neural_cleanse.loading.images.decode import Shape, resized

MAX_SEEN = 20  # times the images wanted: so many of a stream are looked at
MOST_EMPTY = 1000  # batches without an image, one after another, that a stream may begin or go on with
MOST_ITEMS = 10**8

load_data = python_errors()(files.load_data)


@dataclass(frozen=True)
class Drawn:
    """Images n x c x h x w in the range that they came in, drawn from `origin`; `said` is what was done to them."""

    values: Tensor
    labels: Int[Tensor, " n"] | None
    names: tuple[str, ...] | None
    origin: str
    said: tuple[str, ...] = ()
    files: tuple[str, ...] | None = None
    orders: tuple[ClassOrder, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.values.shape[1:]
        return channels, height, width

    def in_channels(self, count: int) -> "Drawn | None":
        """Grey images with one channel or with three equal ones, as the other kind; None where colour would be lost."""
        values = in_channels(self.values, count)
        return None if values is None else replace(self, values=values)

    def image_set(self, normalize: Normalize | None, *, normalised: bool = False) -> tuple[ImageSet, tuple[str, ...]]:
        """The images as uint8, and notes on what is in doubt. Raises DataError when nothing explains their range.

        `normalised` says that floats are known to be normalised.
        """
        pixels = to_uint8(self.values, normalize, normalised=normalised)
        done = [one for one in (*self.said, pixels.said) if one]
        origin = f"{self.origin} ({', '.join(done)})" if done else self.origin
        notes = () if pixels.note is None else (pixels.note,)
        images = ImageSet(
            images=pixels.images.contiguous(),
            labels=self.labels,
            names=self.names,
            origin=origin,
            files=self.files,
            orders=self.orders,
            normalised=pixels.normalised,
        )
        return images, notes


def draw(data: object, form: Form, count: int | None, seed: int) -> Drawn:
    """At most `count` images (four times as many without labels: a scan balances those by the model's answers).

    Raises DataError on data of another kind, on images of different sizes, and where labels do not fit.
    """
    if isinstance(data, str | Path):
        data = load_data(
            data, at_most=count, seed=seed, resize=form.resize, centre_crop=_square(form),
            ignore_labels=form.ignore_labels, skip_unreadable=form.skip_unreadable,
        )  # fmt: skip
    if isinstance(data, ImageSet):
        drawn = Drawn(
            values=data.images,
            labels=data.labels,
            names=data.names,
            origin=data.origin,
            said=(),
            files=data.files,
            orders=data.orders,
        )
    else:
        with _seeded(seed):
            drawn = _drawn(data, form, count, seed)
        drawn = _resized(drawn, form)
    return replace(drawn, labels=None, names=None, orders=()) if form.ignore_labels else drawn


def _square(form: Form) -> tuple[int, int] | None:
    """The centre crop as `load_data` takes it. Raises SettingsError on one that is no square."""
    if form.crop is None or form.resize is not None:
        return None
    height, width = form.crop.size
    if height != width:
        raise SettingsError(
            f"A centre crop of {height}x{width} is no square: files are not cropped so.",
            cure=f"Pass --resize {height}x{width}, or a Dataset with a transform of your own.",
        )
    return form.crop.shorter, height


def _drawn(data: object, form: Form, count: int | None, seed: int) -> Drawn:
    pair = arrays_of(data)
    if pair is not None:
        return _of_arrays(*pair, form, count, seed)
    where, source = f"{type(data).__name__} in memory", data
    if isinstance(data, DataLoader) and _indexable(data):
        source = data.dataset
        with _reading(source):
            items = list(_collated(data, _rows(source, form, count, seed, _subset(data))))
    elif _is_dataset(data) and not _of_batches(data):
        with _reading(data):
            items = [item_of(data[row]) for row in _rows(data, form, count, seed)]  # type: ignore[index]
    elif hasattr(data, "__iter__"):
        source = getattr(data, "dataset", data)
        with _reading(data):
            items = _streamed(data, count, seed)
    else:
        raise DataError(f"A {type(data).__name__} holds no images that can be read.", cure=f"Give {KINDS}.")
    if not items:
        raise DataError(f"The {type(data).__name__} holds not one image.", cure=f"Give {KINDS}.")
    values, moved = channels_first(stacked([item.image for item in items], form))
    labels, names = labels_of([item.label for item in items], names_of(source, items[0].label_key))
    total = f"{len(source)} images" if hasattr(source, "__len__") else ""
    return Drawn(values, labels, names, where, tuple(one for one in (total, moved) if one))


@contextlib.contextmanager
def _reading(data: object) -> Iterator[None]:
    """What the caller's own data set raises becomes a DataError."""
    try:
        yield
    except NeuralCleanseError:
        raise
    except Exception as error:
        raise DataError(
            f"The {type(data).__name__} fails when its images are read: {type(error).__name__}: {error}",
            cure="The error comes from its own code. Images of different sizes need resize=(height, width) or a "
            "transform that resizes.",
        ) from error


def _of_arrays(images: Any, labels: Any, form: Form, count: int | None, seed: int) -> Drawn:
    number = 0 if getattr(images, "ndim", 1) == 0 else len(images)
    if number == 0:
        raise DataError(f"The {type(images).__name__} holds not one image.", cure=f"Give {KINDS}.")
    labelled = labels is not None and not form.ignore_labels
    known, names = labels_of(listed(labels, number), None) if labelled else (None, None)
    rows = _choose(number, known, count, seed)
    chosen = stacked(images, form)[rows] if isinstance(images, Tensor) else [images[row] for row in rows.tolist()]
    if isinstance(images, np.ndarray):
        chosen = images[rows.numpy()]
    values, moved = channels_first(stacked(chosen, form))
    said = tuple(one for one in (f"{number} images", moved) if one)
    return Drawn(values, None if known is None else known[rows], names, f"{type(images).__name__} in memory", said)


def _is_dataset(data: object) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | str | bytes)


def _of_batches(data: object) -> bool:
    """Whether this is a list of what a loader gives, a batch an item."""
    if not isinstance(data, list | tuple) or not data:
        return False
    images = item_of(data[0]).image
    return isinstance(images, Tensor | np.ndarray) and images.ndim == 4


def _indexable(loader: "DataLoader[Any]") -> bool:
    """Whether the loader's images can be drawn from its data set: it has no order of its own that means something."""
    usual = isinstance(loader.sampler, SequentialSampler | RandomSampler | SubsetRandomSampler)
    return usual and loader.batch_size is not None and not isinstance(loader.dataset, IterableDataset)


def _subset(loader: "DataLoader[Any]") -> list[int] | None:
    return list(loader.sampler.indices) if isinstance(loader.sampler, SubsetRandomSampler) else None


def _rows(data: Any, form: Form, count: int | None, seed: int, within: list[int] | None = None) -> list[int]:
    """Which images of a data set are read: balanced by its own list of targets where it has one."""
    if within is None and len(data) > MOST_ITEMS:
        raise DataError(f"The {type(data).__name__} says it holds {len(data):,} images.", cure="Give a part of them.")
    places = list(range(len(data))) if within is None else within
    if not places:
        return []
    targets = targets_of(data)
    labels = None if targets is None or form.ignore_labels else targets[torch.tensor(places)]
    reserve = 1 if labels is not None or _labelled(data, places[0], form) else files.UNLABELLED_RESERVE
    rows = _choose(len(places), labels, None if count is None else count * reserve, seed, reserve=1)
    return [places[row] for row in rows.tolist()]


def _labelled(data: Any, place: int, form: Form) -> bool:
    return not form.ignore_labels and item_of(data[place]).label is not None


def _choose(
    number: int, labels: Tensor | None, count: int | None, seed: int, reserve: int = files.UNLABELLED_RESERVE
) -> Int[Tensor, " m"]:
    if count is None or number <= count:
        return torch.arange(number)
    if labels is not None:
        return balanced(labels, count, seed)
    return torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(number)[: count * reserve]))


def _collated(loader: "DataLoader[Any]", rows: Sequence[int]) -> Iterator[Item]:
    """The items as the loader would give them, a batch at a time."""
    size = loader.batch_size or 1
    for start in range(0, len(rows), size):
        yield from batch_of(loader.collate_fn([loader.dataset[row] for row in rows[start : start + size]]))


def _streamed(data: Any, count: int | None, seed: int) -> list[Item]:
    """A sample of a stream that can only be read in its order (reservoir sampling, Vitter 1985, algorithm R)."""
    generator, kept, wanted = random.Random(seed), list[Item](), count
    seen = empty = 0
    for batch in data:
        before = seen
        for item in batch_of(batch):
            if wanted is count and count is not None and item.label is None:
                wanted = count * files.UNLABELLED_RESERVE
            seen += 1
            if wanted is None or len(kept) < wanted:
                kept.append(item)
            elif (place := generator.randrange(seen)) < wanted:
                kept[place] = item
        empty = empty + 1 if seen == before else 0
        if (wanted is not None and seen >= MAX_SEEN * wanted) or empty > MOST_EMPTY:
            break
    return kept


def _resized(drawn: Drawn, form: Form) -> Drawn:
    """Arrays brought to the size asked for; pictures already are."""
    if form.resize is None or drawn.shape[1:] == form.resize:
        return drawn
    if drawn.values.dtype != torch.uint8 or drawn.shape[0] not in (1, 3):
        raise DataError(
            f"Images of {drawn.shape[0]} channels and {drawn.values.dtype} are not resized.",
            cure=f"Resize them to {form.resize[0]}x{form.resize[1]} before, in your own transform.",
        )
    said = (*drawn.said, f"resized to {form.resize[0]}x{form.resize[1]}")
    return replace(drawn, values=resized(drawn.values.contiguous(), Shape(form.resize)), said=said)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Chance in the caller's own transforms decided by the seed, and his generators left as they were."""
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
