"""From whatever holds somebody's model to a Classifier: a module of any kind of answer, a loaded file, or a path.

A module is copied: the caller's own keeps its mode, its gradients and its device. The copy is tried as a loaded network
is: number of classes, kind of outputs, determinism, a gradient that reaches the pixels.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from neural_cleanse.api.answers import answering
from neural_cleanse.api.data import Drawn
from neural_cleanse.api.errors import python_errors
from neural_cleanse.api.form import Form, FormKeywords, parsed
from neural_cleanse.api.wrappers import Unwrapped, unwrap
from neural_cleanse.classifier import Classifier, Normalize, device_named
from neural_cleanse.copies import copied
from neural_cleanse.detection.class_order import in_model_order
from neural_cleanse.detection.provenance import RunInfo, now, weights_sha256
from neural_cleanse.errors import ModelError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.channels import read_for
from neural_cleanse.loading.checkpoint import MAX_CLASSES
from neural_cleanse.loading.load import PROBE_IMAGES, LoadedModel, load_model
from neural_cleanse.metrics import pixels
from neural_cleanse.probe import probe

PACKED = "_packed_params"  # how torch names quantised weights


@dataclass(frozen=True)
class Suspect:
    """A model under scan. `module` is the caller's own, or `file` what was loaded, and `reload` reads such a file."""

    classifier: Classifier
    record: Mapping[str, Any]
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    module: nn.Module | None = None
    file: LoadedModel | None = None
    reload: Callable[[Path], LoadedModel] | None = None

    @property
    def run_info(self) -> RunInfo:
        """What the report says of where the model came from."""
        return RunInfo(model=self.record, label_names=self.label_names, notes=self.notes, date=now())

    @property
    def sha256(self) -> str:
        """Of the file, or of the weights."""
        return str(self.record["sha256"])


@dataclass(frozen=True)
class LoadedFile(LoadedModel):
    """A classifier, where it came from, and how it was read, to read a repaired file the same way."""

    reload: Callable[[Path], LoadedModel] | None = field(default=None, compare=False)


@python_errors()
def load(
    path: str | Path, *, input_shape: tuple[int, int, int] | None = None, **form: Unpack[FormKeywords]
) -> LoadedFile:
    """A model file of any kind, or a Hugging Face directory, without running code of it (unless allow_code=True).

    `input_shape` (channels, height, width) serves files that do not say theirs. Raises ModelError and its kinds.
    """
    return _load(Path(path), parsed(form, "load"), input_shape)


def _load(path: Path, form: Form, input_shape: tuple[int, int, int] | None) -> LoadedFile:
    def read(place: Path) -> LoadedModel:
        return load_model(
            place, architecture=form.architecture, allow_code=form.allow_code, normalize=form.normalize,
            input_shape=input_shape,
        )  # fmt: skip

    loaded = read(path)
    return LoadedFile(loaded.classifier, loaded.origin, read)


def opened(model: object, form: Form, drawn: Drawn) -> tuple[Suspect, ImageSet]:
    """The model and the images in each other's form.

    Raises ModelError and its kinds on what cannot be scanned, DataError when images do not fit.
    """
    suspect, drawn, in_channels = read_for(drawn, partial(_suspect, model, form))
    images, doubts = drawn.image_set(suspect.classifier.normalize)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)
    suspect = _finished(suspect, form)
    images, in_order = in_model_order(suspect.classifier, images, suspect.label_names)
    said = (f"assumed: {one}" for one in (in_channels, in_order) if one is not None)
    return replace(suspect, notes=(*suspect.notes, *doubts, *said)), images


def read_as(model: object, form: Form, shape: tuple[int, int, int]) -> Suspect:
    """The model alone, for images of this shape. Raises ModelError and its kinds on what is none."""
    blank = Drawn(torch.zeros(PROBE_IMAGES, *shape, dtype=torch.uint8), None, None, "")
    return _finished(_suspect(model, form, blank), form)


def _suspect(model: object, form: Form, drawn: Drawn) -> Suspect:
    """The model, read for images of this shape."""
    if isinstance(model, str | Path):
        model = _load(Path(model), form, drawn.shape)
    if isinstance(model, LoadedModel):
        return _of_file(model, form)
    if isinstance(model, Classifier):
        chosen = model if form.normalize is None else replace(model, normalize=form.normalize)
        record = {"sha256": weights_sha256(model.module), "architecture": type(model.module).__name__}
        return Suspect(chosen, record, form.label_names, (), model.module)
    return _of_module(unwrapped(model), form, drawn)


def unwrapped(model: object) -> Unwrapped:
    """The module in whatever the caller gave. Raises ModelError on anything that holds none."""
    found = unwrap(model)
    if found is None:
        raise ModelError(f"A {type(model).__name__} is not a model that can be scanned.", cure=_instead(model))
    return found


def _instead(model: object) -> str:
    """What to give in the place of something that is no model."""
    if isinstance(model, Mapping) and any(isinstance(value, Tensor) for value in model.values()):
        return "These are weights alone: load them into their network first, network.load_state_dict(...)."
    if isinstance(model, type) and issubclass(model, nn.Module):
        return f"Give a network, not its class: {model.__name__}(...), with its weights loaded."
    if isinstance(model, torch.export.ExportedProgram):
        return "Give its .module()."
    return "Give a torch.nn.Module, what nc.load returns, or the path of a model file."


def _of_file(loaded: LoadedModel, form: Form) -> Suspect:
    classifier = loaded.classifier
    if form.normalize is not None:
        classifier = classifier.changed(normalize=form.normalize)
    notes = tuple(f"assumed: {what}" for what in loaded.origin.assumed)
    reload = loaded.reload if isinstance(loaded, LoadedFile) else None
    names = form.label_names or loaded.origin.label_names
    return Suspect(classifier, loaded.origin.as_record(), names, notes, file=loaded, reload=reload)


def _of_module(found: Unwrapped, form: Form, drawn: Drawn) -> Suspect:
    normalize = form.normalize or found.normalize
    images, _ = drawn.image_set(normalize)
    notes = list(found.notes) if normalize is found.normalize else []
    if normalize is None:
        notes.append("assumed: no normalisation: pixels in [0, 1]")
    normalize = normalize or Normalize()
    module, cast = _copied(found.module)
    if form.device is not None:
        module = module.to(device_named(str(form.device)))
    tried = _probe_images(module, images)
    with torch.no_grad():
        module, said = answering(module, normalize(tried), _classes_said(form, found, drawn))
    num_classes, outputs = probe(module, tried, normalize)
    if num_classes > MAX_CLASSES:
        raise UnusableOutputs(
            f"The model has {num_classes:,} classes: at most {MAX_CLASSES:,} can be scanned.",
            cure="Scan the part of the network that tells fewer classes apart.",
        )
    classifier = Classifier(module, images.shape, num_classes, normalize, outputs)
    names = form.label_names or found.label_names
    record = {"sha256": weights_sha256(found.module), "architecture": type(found.module).__name__}
    return Suspect(classifier, record, names, (*notes, *cast, *said), found.module)


def _classes_said(form: Form, found: Unwrapped, drawn: Drawn) -> int | None:
    """How many classes there are by their names, else by the labels; None where nothing says."""
    names = form.label_names or found.label_names or drawn.names
    if names is not None:
        return len(names)
    return None if drawn.labels is None else int(drawn.labels.max()) + 1


def _copied(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy in eval mode and float32. Raises ModelError where there is none, or a weight is no number."""
    try:
        own = copied(module)
        own.eval()  # their own may return nothing
    except Exception as error:  # whatever a user's own class raises
        raise ModelError(
            f"The {type(module).__name__} cannot be copied: {error}",
            cure="Give a module without hooks, locks or tensors of an unfinished computation.",
        ) from error
    for name, value in own.state_dict().items():
        _expect_values(name, value)
    kinds = {parameter.dtype for parameter in own.parameters() if parameter.is_floating_point()}
    other = kinds - {torch.float32}
    if not other:
        return own, ()
    named = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in other))
    return own.float(), (f"weights of {named} were scanned as float32",)


def _expect_values(name: str, value: object) -> None:
    """Raise ModelError on weights of a state_dict that are no numbers a gradient can go through."""
    if not isinstance(value, Tensor) and PACKED not in name:  # what a module notes beside its weights
        return
    if not isinstance(value, Tensor) or value.is_quantized:
        raise ModelError(
            f"The module is quantised, in {name}: no gradient goes through it.",
            cure="Give the network that it was quantised from.",
        )
    if nn.parameter.is_lazy(value):
        raise ModelError(f"The module was never run: {name} has no values yet.", cure="Train or load it first.")
    if value.is_meta:
        raise ModelError(
            f"The module is on the meta device: {name} has no values.", cure="Load its weights first (load_state_dict)."
        )
    if value.is_floating_point() and bool(value.isnan().any()):
        raise ModelError(
            f"The weights hold NaN, in {name}: the network cannot be scanned.",
            cure="Give weights of a training that went well.",
        )


def _probe_images(module: nn.Module, images: ImageSet) -> Tensor:
    """Noise and some of the images, in [0, 1], where the module is."""
    noise = torch.rand(PROBE_IMAGES, *images.shape, generator=torch.Generator().manual_seed(0))
    weights = [*module.parameters(), *module.buffers()]
    tried = torch.cat([pixels(images.images[:PROBE_IMAGES]), noise])
    return tried.to(weights[0].device) if weights else tried


def _finished(suspect: Suspect, form: Form) -> Suspect:
    """On the device asked for, its features where the caller says."""
    classifier = suspect.classifier
    if form.features_layer is not None:
        classifier = classifier.changed(features_layer=form.features_layer)
        assert classifier.layers  # a layer that is not there fails before any work
    if form.device is not None:
        classifier = classifier.to(device_named(str(form.device)))
    names = suspect.label_names
    if names is not None and len(names) != classifier.num_classes:
        if form.label_names is not None:
            raise ModelError(
                f"label_names= has {len(names)} names, the model {classifier.num_classes} classes.",
                cure="Name every class, in the model's order.",
            )
        suspect = replace(suspect, label_names=None)
    return replace(suspect, classifier=classifier)


def normalize_record(record: Mapping[str, Any]) -> Normalize | None:
    """The normalisation that a scan recorded; None where it did not."""
    said = record.get("normalize")
    if not isinstance(said, Mapping) or set(said) != set(asdict(Normalize())):
        return None
    return Normalize(tuple(said["mean"]), tuple(said["std"]), float(said["scale"]), bool(said["bgr"]))
