"""Whatever holds images gives the same pixels: range, layout and labels are checked and said, never guessed twice."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from neural_cleanse.api.data import draw
from neural_cleanse.api.form import Form, FormKeywords, parsed
from neural_cleanse.api.labels import labels_of
from neural_cleanse.api.pixels import channels_first, to_uint8
from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import DataError, NeuralCleanseError, SettingsError
from neural_cleanse.images import ImageSet

PLAIN = Form()
COLOUR = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def bytes_() -> Tensor:
    """40 colour images 3x9x7 that use the whole range."""
    images = torch.randint(0, 256, (40, 3, 9, 7), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    images[0, 0, 0, :2] = torch.tensor([0, 255])
    return images


LABELS = torch.arange(40) % 4


class Pictures(Dataset[Any]):
    """As torchvision's ImageFolder: pictures of files, `targets` and `classes`."""

    classes = ("ant", "bee", "cat", "dog")

    def __init__(self, images: Tensor) -> None:
        self.images, self.targets, self.read = images, LABELS.tolist(), list[int]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Image.Image, int]:
        self.read.append(place)
        return Image.fromarray(self.images[place].permute(1, 2, 0).numpy()), self.targets[place]


class Columns:
    """As a Hugging Face data set: mappings, and features that name the classes."""

    class Named:
        names = ("ant", "bee", "cat", "dog")

    features = {"img": None, "fine_label": Named()}  # noqa: RUF012

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> dict[str, Any]:
        picture = Image.fromarray(self.images[place].permute(1, 2, 0).numpy())
        return {"img": picture, "fine_label": int(LABELS[place])}


class Raising(Dataset[Any]):
    """A data set whose files went away."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> Any:
        raise OSError("the disk is gone")


class Uneven(Raising):
    """Tensors of two sizes, which a loader cannot collate."""

    def __getitem__(self, place: int) -> Any:
        return torch.zeros(1, 8, 8 + place % 2), 0


class Stream(IterableDataset[Any]):
    """Tensors that come one after the other."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.images, LABELS, strict=True)


def kinds(images: Tensor) -> dict[str, Any]:
    """The same labelled images in every holder."""
    floats, last = images / 255, images.permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(array) for array in last]
    numbers = LABELS.tolist()
    return {
        "tensors": (images, LABELS),
        "floats": (floats, LABELS),
        "list of two tensors": [floats, LABELS],
        "doubles up to 255": (images.double(), LABELS),
        "arrays, channels last": (last, LABELS.numpy()),
        "int64 arrays, channels last": (last.astype(np.int64), numbers),
        "big-endian floats": ((last / 255).astype(">f4"), numbers),
        "one-hot labels": (images, torch.nn.functional.one_hot(LABELS)),
        "labels n x 1": (images, LABELS[:, None].float()),
        "pictures and labels": (pictures, numbers),
        "list of pairs": list(zip(pictures, numbers, strict=True)),
        "pictures dataset": Pictures(images),
        "columns": Columns(images),
        "tensor dataset": TensorDataset(floats, LABELS),
        "loader": DataLoader(TensorDataset(floats, LABELS), batch_size=7, shuffle=True),
        "loader of a stream": DataLoader(Stream(floats), batch_size=7),
        "stream": Stream(floats),
        "list of batches": [(floats[i : i + 9], LABELS[i : i + 9]) for i in range(0, 40, 9)],
        "list of named batches": [{"image": floats[i : i + 9], "label": LABELS[i : i + 9]} for i in range(0, 40, 9)],
        "generator of batches": ((floats[i : i + 9], LABELS[i : i + 9]) for i in range(0, 40, 9)),
        "mapping": {"images": images, "labels": LABELS},
        "mapping of arrays": {"x_test": last, "y_test": LABELS.numpy()},
        "mapping of the names of items": {"pixel_values": floats, "label": numbers},
        "sparse tensors": (floats.to_sparse(), LABELS),
        "uint64 labels": (images, LABELS.numpy().astype(np.uint64)),
        "subset": Subset(TensorDataset(floats, LABELS), range(40)),
    }


@pytest.mark.parametrize("kind", kinds(torch.zeros(40, 3, 2, 2, dtype=torch.uint8)))
def test_every_holder_gives_the_same_pixels_and_labels(bytes_: Tensor, kind: str) -> None:
    got = draw(kinds(bytes_)[kind], PLAIN, None, 0).image_set(None)[0]
    assert got.labels is not None
    assert torch.equal(got.images, bytes_) and torch.equal(got.labels, LABELS)
    assert "memory" in got.origin


@pytest.mark.parametrize("kind", [k for k in kinds(torch.zeros(40, 3, 2, 2, dtype=torch.uint8)) if "tensors" not in k])
def test_so_many_are_drawn_by_the_seed_alone(bytes_: Tensor, kind: str) -> None:
    def drawn(seed: int) -> ImageSet:
        torch.manual_seed(random.randrange(1000))
        return draw(kinds(bytes_)[kind], PLAIN, 12, seed).image_set(None)[0]

    first = drawn(1)
    assert len(first) == 12 and first.sha256() == drawn(1).sha256() != drawn(2).sha256()


def test_labels_that_are_listed_balance_the_draw_and_spare_reading(bytes_: Tensor) -> None:
    pictures = Pictures(bytes_)
    drawn = draw(DataLoader(pictures, collate_fn=lambda items: items), PLAIN, 8, 0)  # type: ignore[arg-type]
    assert drawn.labels is not None and drawn.labels.bincount().tolist() == [2, 2, 2, 2]
    assert drawn.names == Pictures.classes
    assert len(pictures.read) == 8


def test_names_come_from_the_features_of_columns(bytes_: Tensor) -> None:
    assert draw(Columns(bytes_), PLAIN, None, 0).names == Columns.Named.names


def test_names_as_labels_are_numbered_in_their_order(bytes_: Tensor) -> None:
    drawn = draw((bytes_[:3], ["b", "a", "b"]), PLAIN, None, 0)
    assert drawn.labels is not None and drawn.labels.tolist() == [1, 0, 1] and drawn.names == ("a", "b")


def test_a_sampler_over_a_subset_is_kept_to(bytes_: Tensor) -> None:
    loader = DataLoader(TensorDataset(bytes_, LABELS), sampler=SubsetRandomSampler([3, 7, 11]))
    assert torch.equal(draw(loader, PLAIN, 10, 0).values, bytes_[[3, 7, 11]])


def test_without_labels_more_are_drawn_for_the_models_answers_to_balance(bytes_: Tensor) -> None:
    for data in (bytes_, TensorDataset(bytes_), [image.numpy() for image in bytes_]):
        drawn = draw(data, PLAIN, 5, 0)
        assert drawn.labels is None and len(drawn.values) == 20
    ignoring = parsed(FormKeywords(ignore_labels=True), "scan")
    assert draw((bytes_, LABELS), ignoring, 5, 0).labels is None


def test_transforms_with_chance_repeat_and_leave_the_callers_generators(bytes_: Tensor) -> None:
    class Jittered(Pictures):
        def __getitem__(self, place: int) -> Any:
            return self.images[place] / 255 * torch.rand(()) * random.random(), self.targets[place]

    torch.manual_seed(4)
    random.seed(4)
    state = torch.get_rng_state(), random.getstate()
    first = draw(Jittered(bytes_), PLAIN, 9, 0).values
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(draw(Jittered(bytes_), PLAIN, 9, 0).values, first)


@pytest.mark.parametrize(
    "normalize", [COLOUR, Normalize((0.5,), (0.5,)), Normalize((120.0,), (60.0,), 255.0, bgr=True)]
)
def test_normalised_images_are_brought_back_exactly(bytes_: Tensor, normalize: Normalize) -> None:
    pixels = to_uint8(normalize(bytes_ / 255), normalize)
    assert torch.equal(pixels.images, bytes_) and pixels.said.startswith("normalisation undone")
    assert pixels.note is None


def test_a_normalisation_undone_with_other_numbers_is_noted(bytes_: Tensor) -> None:
    pixels = to_uint8(Normalize((0.45,), (0.25,))(bytes_ / 255), Normalize((0.4,), (0.21,)))
    assert pixels.note is not None and "are not those that they were normalised with" in pixels.note


@pytest.mark.parametrize(
    ("values", "normalize", "message"),
    [
        (torch.randn(4, 3, 5, 5), None, "look normalised, and nothing says how.*mean="),
        (torch.linspace(-5, 5, 75).view(1, 3, 5, 5), COLOUR, "not normalised with it"),
        (torch.linspace(0, 3, 75).view(1, 3, 5, 5), None, "neither in"),
        (torch.full((1, 3, 5, 5), torch.nan), None, "NaN"),
        (torch.full((1, 3, 5, 5), 300), None, "0 to 255 are needed"),
        (torch.full((1, 3, 5, 5), 256.5), None, "neither in"),
        (torch.randn(4, 1, 5, 5), COLOUR, "for 3 channels, the images have 1"),
    ],
)
def test_a_range_that_nothing_explains_is_refused(values: Tensor, normalize: Normalize | None, message: str) -> None:
    with pytest.raises(NeuralCleanseError, match=message):
        to_uint8(values, normalize)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 3, 8, 8), (5, 3, 8, 8)), ((5, 8, 8, 3), (5, 3, 8, 8)), ((5, 8, 9), (5, 1, 8, 9)),
        ((5, 9, 9, 1), (5, 1, 9, 9)),
        ((5, 3, 3, 3), (5, 3, 3, 3)), ((5, 2, 8, 8), (5, 2, 8, 8)), ((5, 8, 9, 6), (5, 6, 8, 9)),
        ((5, 3, 32, 4), (5, 3, 32, 4)),
    ],
)  # fmt: skip
def test_channels_are_found_where_they_are(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert channels_first(torch.zeros(shape))[0].shape == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "A int holds no images"),
        ([], "not one image"),
        ((np.zeros((0, 8, 8, 3), np.uint8), []), "not one image"),
        ((np.zeros((4, 8, 8, 3), np.uint8), [0, 1]), "4 images and 2 labels"),
        ((np.zeros((2, 8, 8, 3), np.uint8), [[0.5, 0.5], [0.1, 0.9]]), "not one class each"),
        ((np.zeros((2, 8, 8, 3), np.uint8), [0.5, 1]), "fractions"),
        ((np.zeros((2, 8, 8, 3), np.uint8), [0, None]), "1 of 2 images have no label"),
        ((np.zeros((2, 8, 8, 3), np.uint8), 3), "are a int, not a list.*ignore_labels="),
        ((np.zeros((2, 8, 8, 3), np.uint8), {0, 1}), "are a set, not a list"),
        ((np.zeros((2, 8, 8, 3), np.uint8), [[0], [0, 1]]), "not one class an image"),
        ((np.zeros((2, 8, 8, 3), np.uint8), [{"a": 1}, {}]), "not one class an image"),
        ((np.zeros((2, 8, 8, 3), np.uint8), torch.ones(2) * 1j), "complex64.*class indices"),
        ((np.zeros((2, 8, 8, 3), np.uint8), torch.tensor([0.0, float("inf")])), "fractions or no numbers"),
        ((torch.zeros(2, 1, 8, 8, device="meta"), [0, 1]), "images are on the meta device"),
        ([(0, torch.zeros(1, 8, 8)), (1, torch.zeros(1, 8, 8))], r"no image but a int.*\(image, label\)"),
        (
            {"train": Columns(torch.zeros(0)), "test": Columns(torch.zeros(0))},
            r"parts train, test of a data set.*data\['test'\]",
        ),
        ({"images": 3}, "A dict of images holds no images"),
        (Raising(), "Raising fails when its images are read: OSError: the disk is gone"),
        (DataLoader(Uneven(), batch_size=2), "Uneven fails.*resize="),
        ([{"text": "x"}], "none of them is known to hold images"),
        ([Image.new("RGB", (4, 5)), Image.new("RGB", (5, 5))], "different shapes.*resize="),
        ([Image.new("I;16", (4, 5))], "more than 8 bits"),
        ([("a.png", 0), ("b.png", 1)], "An image is a str"),
        (torch.zeros(4, 7), "four dimensions"),
        (torch.zeros(4, 1, 8, 8) * 1j, "complex64: pixels are needed. Give"),
        (torch.zeros(4, 9, 9, 9), "nothing says which dimension"),
        (np.zeros((2, 3, 4, 4), "U1"), "numbers are needed"),
    ],
)
def test_what_is_no_image_data_is_refused_in_one_sentence(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw(data, PLAIN, None, 0).image_set(None)


def test_rows_of_a_squares_pixels_are_grey_images(bytes_: Tensor) -> None:
    grey = bytes_[:, :1, :7, :7]
    for data in ((grey.flatten(1), LABELS), TensorDataset(grey.flatten(1) / 255, LABELS)):
        images, _ = draw(data, PLAIN, None, 0).image_set(None)
        assert torch.equal(images.images, grey) and "rows of 49 values taken as 7x7 pixels" in images.origin


def test_names_as_bytes_are_numbered_and_unknown_names_leave_the_data_sets_own(bytes_: Tensor) -> None:
    words = np.array([b"bee", b"ant", b"dog", b"ant"])
    drawn = draw((bytes_[:4], words), PLAIN, None, 0)
    assert drawn.labels is not None and drawn.labels.tolist() == [1, 0, 2, 0] and drawn.names == ("ant", "bee", "dog")
    labels, names = labels_of(["elk", "ant"], ("ant", "bee"))
    assert labels is not None and labels.tolist() == [1, 0] and names == ("ant", "elk")


def test_pictures_are_resized_or_cropped_as_the_form_says(tmp_path: Path) -> None:
    pictures = [(Image.new("RGB", (60, 40), (9, 9, 9)), 0), (Image.new("L", (30, 50), 9), 1)]
    assert draw(pictures, parsed(FormKeywords(resize=(8, 6)), "scan"), None, 0).shape == (3, 8, 6)

    class Preset:
        """As torchvision's weights.transforms()."""

        mean, std, crop_size, resize_size = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], [24], [32]

    form = parsed(FormKeywords(transform=Preset()), "scan")
    assert form.normalize == COLOUR
    assert draw(pictures, form, None, 0).shape == (3, 24, 24)


def test_the_normalisation_is_read_from_other_libraries_objects() -> None:
    class Step:
        mean, std = (0.5,), (0.25,)

    class Chain:
        transforms = [object(), Step()]  # noqa: RUF012

    timm = {"mean": (0.5,), "std": (0.25,), "input_size": (3, 20, 30), "crop_pct": 0.5}
    for source in (Step(), Chain(), timm, {"image_mean": [0.5], "image_std": [0.25]}):
        assert parsed(FormKeywords(transform=source), "scan").normalize == Normalize((0.5,), (0.25,))
    crop = parsed(FormKeywords(transform=timm), "scan").crop
    assert crop is not None and (crop.shorter, crop.size) == (40, (20, 30))
    with pytest.raises(SettingsError, match="Both transform= and mean="):
        parsed(FormKeywords(transform=Step(), mean=0.5), "scan")
    with pytest.raises(SettingsError, match="without a mean"):
        parsed(FormKeywords(transform=object()), "scan")


class Boundless(Dataset[Tensor]):
    """Says that it holds more than there is."""

    def __len__(self) -> int:
        return 10**12

    def __getitem__(self, row: int) -> Tensor:
        return torch.zeros(1, 8, 8)


def test_data_without_end_are_told() -> None:
    def nothing() -> Iterator[list[Tensor]]:
        while True:
            yield []

    with pytest.raises(DataError, match="not one image"):
        draw(nothing(), Form(), 100, 0)
    with pytest.raises(DataError, match="says it holds 1,000,000,000,000 images"):
        draw(Boundless(), Form(), 100, 0)
