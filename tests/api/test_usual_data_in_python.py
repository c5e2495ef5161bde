"""A path of pictures and grey images get in Python what the command line gives them: class order, channels, crop."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import neural_cleanse as nc
from neural_cleanse.api.data import draw
from neural_cleanse.api.form import Form, FormKeywords, parsed
from neural_cleanse.api.items import arrays_of
from neural_cleanse.api.models import opened
from neural_cleanse.api.pixels import to_uint8
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import DataError, SettingsError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.channels import read_for

QUICK = nc.ScanSettings(patches_only=True, samples=60, restarts=1, labels=(1,))


class Brightness(nn.Module):
    """Answers the class of an image by its brightness: class i has i / 10."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.arange(float(classes)))
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] != self.channels:
            raise ValueError(f"{images.shape[1]} channels")
        return -((images.mean((1, 2, 3))[:, None] * 10 - self.shift) ** 2)


def folders(path: Path, names: list[str], mode: str = "RGB", size: int = 8) -> Path:
    """Twenty pictures for each name; those of the name at position i have brightness i / 10."""
    for level, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.full((size, size, 3), round(level * 25.5), dtype=np.uint8)
            pixels[0, 0] = number
            Image.fromarray(pixels).convert(mode).save(path / name / f"{number}.png")
    return path


def test_class_folders_come_in_the_order_that_the_module_was_trained_with(tmp_path: Path) -> None:
    names = ["c1", "c2", "c3", "c10"]  # natural order; torchvision's is c1, c10, c2, c3
    found = nc.scan(Brightness(4, 3), folders(tmp_path, names), QUICK)
    assert found.provenance.data["clean_accuracy"] == 1
    assert [row.name for row in found.labels] == ["c2"]
    assert any(note.startswith("assumed: classes in natural order") for note in found.provenance.notes)


def test_names_that_the_caller_gives_decide_the_order(tmp_path: Path) -> None:
    names = ["c1", "c2", "c3", "c10"]
    found = nc.scan(Brightness(4, 3), folders(tmp_path, names), QUICK, label_names=names)
    assert found.provenance.data["clean_accuracy"] == 1
    assert not any("classes in" in note for note in found.provenance.notes)


@pytest.mark.parametrize("as_floats", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_get_the_channels_that_the_module_takes(tmp_path: Path, channels: int, as_floats: bool) -> None:
    path = folders(tmp_path, ["a", "b", "c"], "L" if channels == 3 else "RGB")
    data: Any = path
    if as_floats:
        images = nc.load_data(path)
        data = (images.images / 255, images.labels)
    found = nc.scan(Brightness(3, channels), data, QUICK, mean=(0.0,) * channels, std=(1.0,) * channels)
    assert found.image_shape == (channels, 8, 8)
    assert found.provenance.data["clean_accuracy"] == 1
    assert any(note.startswith(f"assumed: grey images with {channels} channel") for note in found.provenance.notes)


def test_a_loaded_file_takes_its_grey_images_from_coloured_pictures(demo_files: Path, digits: ImageSet) -> None:
    coloured = digits.in_channels(3)
    loaded = nc.load(demo_files / "infected.safetensors")
    assert coloured is not None
    for model in (loaded, loaded.classifier, demo_files / "infected.safetensors"):
        form = parsed(FormKeywords(), "scan")
        suspect, images = opened(model, form, draw(coloured, form, 60, 0))
        assert images.shape == suspect.classifier.input_shape == (1, 28, 28)


def test_coloured_images_never_lose_their_colour() -> None:
    coloured = ImageSet(torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8), torch.arange(20) % 3)
    with pytest.raises(UnusableOutputs, match="3x8x8"):
        nc.scan(Brightness(3, 1), coloured, QUICK)


def test_what_no_channels_cure_is_said_of_the_images_as_they_came() -> None:
    grey = ImageSet(torch.zeros(20, 1, 8, 8, dtype=torch.uint8))

    def read(images: ImageSet) -> Classifier:
        raise UnusableOutputs(f"not {images.shape}")

    with pytest.raises(UnusableOutputs, match=r"not \(1, 8, 8\)"):
        read_for(grey, read)  # type: ignore[type-var]


def test_the_centre_crop_of_a_transform_reaches_files(tmp_path: Path) -> None:
    path = folders(tmp_path, ["a", "b"], size=40)

    class Transform:
        """As torchvision's weights.transforms()."""

        mean, std, crop_size, resize_size = [0.5], [0.5], [24], [32]

    form = parsed(FormKeywords(transform=Transform()), "scan")
    assert draw(path, form, None, 0).shape == (3, 24, 24)

    class Oblong(Transform):
        """A crop that is no square."""

        crop_size: ClassVar = [24, 20]

    with pytest.raises(SettingsError, match="24x20 is no square"):
        draw(path, parsed(FormKeywords(transform=Oblong()), "scan"), None, 0)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64])
def test_whole_numbers_0_and_1_are_black_and_white(kind: torch.dtype) -> None:
    images = torch.eye(4).to(kind).expand(3, 1, 4, 4)
    pixels = to_uint8(images, None)
    assert pixels.said == "1 is white" and torch.equal(pixels.images[0, 0], torch.eye(4).to(torch.uint8) * 255)
    assert int(to_uint8(torch.full((2, 1, 4, 4), 2, dtype=torch.uint8), None).images.max()) == 2


def test_labels_before_images_are_told_as_such() -> None:
    images, labels = torch.rand(6, 1, 4, 4), torch.arange(6)
    for pair in ((labels, images), [labels.numpy(), images.numpy()]):
        with pytest.raises(DataError, match="holds no images") as refused:
            arrays_of(pair)
        assert "(images, labels), in this order" in refused.value.cure


@pytest.mark.parametrize("data", [np.array(3), torch.tensor(3)])
def test_one_number_holds_no_images(data: object) -> None:
    with pytest.raises(nc.NeuralCleanseError, match=r"not one image|holds no images"):
        draw(data, Form(), None, 0)
