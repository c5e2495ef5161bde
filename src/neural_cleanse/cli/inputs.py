"""From what the command line says of model and images to both of them, in each other's form."""

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from neural_cleanse.classifier import Normalize
from neural_cleanse.cli import options
from neural_cleanse.cli.options import Inputs, PresetTransform
from neural_cleanse.detection.class_order import in_model_order
from neural_cleanse.detection.input_form import LEAST_GAIN, TRIED_ON
from neural_cleanse.detection.provenance import RunInfo, now
from neural_cleanse.errors import DataError, SettingsError
from neural_cleanse.images import ImageSet, balanced
from neural_cleanse.loading.channels import read_for
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import LoadedModel, load_model
from neural_cleanse.metrics import clean_accuracy, predict
from neural_cleanse.regular_files import read_regular
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.storage import expect_labels
from neural_cleanse.results.thresholds import LOW_ACCURACY
from neural_cleanse.text import by


@dataclass(frozen=True)
class Preset:
    """How the networks of a kind expect their images: shorter side and square kept, in pixels; mean and std, typed."""

    centre_crop: tuple[int, int]
    mean: str
    std: str


# As torchvision's weights of most ImageNet classifiers, IMAGENET1K_V1.
PRESETS = {PresetTransform.imagenet: Preset((256, 224), "0.485,0.456,0.406", "0.229,0.224,0.225")}
MAX_CLASSES_BYTES = 10_000_000


@dataclass(frozen=True)
class InputOptions:
    """How the model is read, and in which form it takes images."""

    architecture: str | None = None
    allow_code: bool = False
    normalize: Normalize | None = None
    resize: tuple[int, int] | None = None
    crop_roi: bool = False
    ignore_labels: bool = False
    skip_unreadable: bool = False
    features: str | None = None
    no_sandbox: bool = False
    weights: str | None = None
    classes: tuple[str, ...] | None = None
    centre_crop: tuple[int, int] | None = None


def parsed(inputs: Inputs) -> InputOptions:
    """What was typed, as values. Raises SettingsError."""
    if inputs.no_sandbox and not inputs.allow_code:
        raise SettingsError("--no-sandbox allows nothing by itself.", cure="Add --allow-code, or leave it out.")
    preset = None if inputs.preset_transform is None else PRESETS[inputs.preset_transform]
    if preset is not None:
        if inputs.resize is not None or inputs.crop is not None:
            raise SettingsError(
                "--preset-transform brings the images to size itself.", cure="Leave out --resize and --crop."
            )
        inputs = replace(inputs, mean=inputs.mean or preset.mean, std=inputs.std or preset.std)
    return InputOptions(
        architecture=inputs.architecture,
        allow_code=inputs.allow_code,
        centre_crop=None if preset is None else preset.centre_crop,
        normalize=options.normalization(inputs.mean, inputs.std, inputs.scale, inputs.bgr),
        resize=options.size(inputs.resize),
        crop_roi=inputs.crop is not None,
        ignore_labels=inputs.ignore_labels,
        skip_unreadable=inputs.skip_unreadable,
        features=inputs.features,
        no_sandbox=inputs.no_sandbox,
        weights=inputs.weights,
        classes=None if inputs.classes is None else read_classes(inputs.classes),
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """The names in a file: one per line, or a JSON list. Raises SettingsError."""
    try:
        text = read_regular(path, MAX_CLASSES_BYTES).decode("utf-8-sig")
        names = json.loads(text) if text.lstrip().startswith("[") else text.rstrip().splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            f"The classes in {path} cannot be read: {error}.",
            cure="Give a text file with one name per line, or a JSON list.",
        ) from error
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise SettingsError(f"{path} is not a list of names.", cure="Write one name per line, or a JSON list of names.")
    stripped = tuple(name.strip() for name in names)
    twice = (
        next((name for name in stripped if stripped.count(name) > 1), None) if len(set(stripped)) < len(names) else None
    )
    if twice is not None:
        raise SettingsError(f"{path} names the class {twice!r} twice.", cure="Give every class a name of its own.")
    return stripped


def named_data(data: Path | None) -> Path:
    """Where the images are. Raises SettingsError when nothing says it."""
    if data is None:
        raise SettingsError("Nothing says which clean images to use.", cure="Name them with --data.")
    return data


def open_both(
    model: Path, data: Path, form: InputOptions, at_most: int | None, seed: int
) -> tuple[LoadedModel, ImageSet]:
    """The model, and the images in the order of its label names."""
    return open_for(open_images(data, form, at_most, seed), model, form)


def open_images(data: Path, form: InputOptions, at_most: int | None, seed: int) -> ImageSet:
    """The images in the form that the command line says."""
    return load_data(
        data,
        at_most=at_most,
        seed=seed,
        resize=form.resize,
        crop="roi" if form.crop_roi else None,
        centre_crop=form.centre_crop,
        ignore_labels=form.ignore_labels,
        skip_unreadable=form.skip_unreadable,
    )


def open_for(images: ImageSet, model: Path, form: InputOptions) -> tuple[LoadedModel, ImageSet]:
    """A model that takes these images, and they in the order of its label names and with its channels."""

    def load(given: ImageSet) -> LoadedModel:
        return load_model(
            model,
            architecture=form.architecture,
            allow_code=form.allow_code,
            no_sandbox=form.no_sandbox,
            normalize=form.normalize,
            input_shape=given.shape,
            weights=form.weights,
        )

    loaded, images, in_channels = read_for(images, load)
    if form.features is not None:
        loaded = replace(loaded, classifier=replace(loaded.classifier, features_layer=form.features))
        assert loaded.classifier.layers  # a layer that is not there fails before any work
    if form.classes is not None:
        if len(form.classes) != loaded.classifier.num_classes:
            raise SettingsError(
                f"--classes names {len(form.classes)} classes, {model} has {loaded.classifier.num_classes}.",
                cure="Give one name for each output of the model, in their order.",
            )
        loaded = replace(loaded, origin=replace(loaded.origin, label_names=form.classes))
    images, in_order = in_model_order(loaded.classifier, images, loaded.origin.label_names)
    said = tuple(one for one in (in_channels, in_order) if one is not None)
    return replace(loaded, origin=replace(loaded.origin, assumed=(*loaded.origin.assumed, *said))), images


def crop_advice(loaded: LoadedModel, images: ImageSet, data: Path, form: InputOptions, seed: int) -> tuple[str, ...]:
    """What --crop roi would give, in words, where accuracy is poor without it and the data have such a region."""
    if form.crop_roi or images.labels is None or images.shape != loaded.classifier.input_shape:
        return ()
    try:  # before the model is asked for anything: few data have such a region
        load_data(data, at_most=1, seed=seed, crop="roi")
    except DataError:
        return ()
    whole = _accuracy(loaded, images.take(balanced(images.labels, TRIED_ON, seed)))
    if whole >= LOW_ACCURACY:
        return ()
    height, width = images.shape[1:]
    cropped = load_data(data, at_most=TRIED_ON, seed=seed, resize=(height, width), crop="roi")
    inside = _accuracy(loaded, cropped)
    if inside < whole + LEAST_GAIN:
        return ()
    return (f"with --crop roi clean accuracy would be {inside:.1%} instead of {whole:.1%}",)


def _accuracy(loaded: LoadedModel, images: ImageSet) -> float:
    names = loaded.origin.label_names
    ordered = images if names is None else images.in_order_of(names)
    assert ordered.labels is not None, "asked of labelled images alone"
    return clean_accuracy(predict(loaded.classifier, ordered.images), ordered.labels)


def check_same_model(result: ScanResult, loaded: LoadedModel, where: Path) -> None:
    """Raise SettingsError unless the scan is of this file, read in the same form."""
    theirs = result.provenance.model
    if theirs.get("sha256") != loaded.origin.sha256:
        raise SettingsError(
            f"The scan in {where} is of {theirs.get('path', 'another model')} (sha256 "
            f"{str(theirs.get('sha256'))[:12]}), not of {loaded.origin.path} ({loaded.origin.sha256[:12]}).",
            cure="Scan this model first.",
        )
    if theirs.get("nested_under") not in (None, loaded.origin.nested_under):
        raise SettingsError(
            f"The scan in {where} is of the weights {theirs.get('nested_under')}, now they are "
            f"{loaded.origin.nested_under}.",
            cure="Pass the same --weights.",
        )
    if theirs.get("normalisation") != str(loaded.classifier.normalize):
        raise SettingsError(
            f"The scan in {where} read the model with {theirs.get('normalisation')}, now it is "
            f"{loaded.classifier.normalize}.",
            cure="Pass the same --mean, --std and --scale.",
        )
    if result.image_shape != loaded.classifier.input_shape:
        raise SettingsError(
            f"The scan in {where} is of images {by(result.image_shape)}, now they are "
            f"{by(loaded.classifier.input_shape)}.",
            cure="Pass the same --resize.",
        )
    expect_labels(result, loaded.classifier.num_classes, where)


def run_info_of(loaded: LoadedModel, notes: tuple[str, ...] = ()) -> RunInfo:
    """What the report says of where the model came from, with more notes, and the command that is running."""
    return RunInfo(
        model=loaded.origin.as_record(),
        label_names=loaded.origin.label_names,
        command=running_command(),
        notes=(*(f"assumed: {what}" for what in loaded.origin.assumed), *notes),
        date=now(),
    )


def running_command() -> str:
    """The command line, as one would type it again."""
    return shlex.join(["neural-cleanse", *sys.argv[1:]])
