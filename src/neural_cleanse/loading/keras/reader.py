"""Keras models, HDF5 (.h5, .hdf5) or archive (.keras), without Keras: description and arrays become torch modules.

Nothing of the file is imported or run. Layers are Keras' own, rebuilt here with feature maps channels first; flattening
goes by Keras' order, so that no weight has to be moved for it. A softmax at the very end is left out.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping

from torch import Tensor

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import AGAIN, OTHER_KERAS
from neural_cleanse.loading.keras.build import Built, build, input_shape
from neural_cleanse.loading.keras.config import Model, channels_last, parse
from neural_cleanse.loading.keras.hdf5 import Hdf5, rewritten
from neural_cleanse.loading.keras.hdf5_objects import SIGNATURE
from neural_cleanse.loading.keras.layers import KINDS
from neural_cleanse.loading.keras.scale import takes_bytes
from neural_cleanse.loading.keras.weight_paths import by_kind_and_number, by_layer_name
from neural_cleanse.loading.network import Network, Trust
from neural_cleanse.loading.zip_guard import entries
from neural_cleanse.text import quoted

CONTAINER_HDF5, CONTAINER_ARCHIVE = "Keras HDF5", "Keras archive"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MODEL_CONFIG, MODEL_WEIGHTS = "model_config", "model_weights"  # attribute and group of an .h5


def read(content: bytes, name: str) -> Network:
    """The network of a whole-model .h5 or a .keras archive.

    Raises CodeExecutionRefused for Lambda layers and custom classes, else ModelError and its kinds.
    """
    model, built = _read(content, name)
    scaled = takes_bytes(model, built.module)
    return Network(
        module=built.module,
        container=CONTAINER_HDF5 if content.startswith(SIGNATURE) else CONTAINER_ARCHIVE,
        trust=Trust.GRAPH,
        architecture=f"{model.kind} {quoted(model.name)}",
        input_shape=input_shape(model, channels_last=channels_last(model, name)),
        num_classes=built.num_classes,
        normalize=None if scaled is None else Normalize(scale=255.0),
        assumed=() if scaled is None else (f"pixels in 0-255, since the network itself {scaled}",),
    )


def rewrite(content: bytes, state: Mapping[str, Tensor]) -> bytes:
    """The same file with the weights of `state`: names, kinds of number, description and all that lies beside."""
    _, built = _read(content, "the file")
    arrays = {
        place: rearranged.to_keras(state[key], shape) for key, (place, rearranged, shape) in built.sources.items()
    }
    if content.startswith(SIGNATURE):
        return rewritten(content, "the file", arrays)
    with _archive(content, "the file") as archive:
        weights = rewritten(_entry(archive, WEIGHTS, "the file"), "the file", arrays)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as copy:
            for entry in archive.infolist():
                kept = weights if entry.filename == WEIGHTS else _entry(archive, entry.filename, "the file")
                copy.writestr(entry, kept)
    return stream.getvalue()


def _read(content: bytes, name: str) -> tuple[Model, Built]:
    if content.startswith(SIGNATURE):
        file = Hdf5(content, name)
        text = file.text(MODEL_CONFIG)
        if text is None:
            raise ModelError(
                f"{name} holds Keras weights only and does not say which network they belong to.",
                cure="Name it with --architecture NAME, or save the whole model: model.save(path).",
            )
        version = file.text("keras_version") or file.text("keras_version", MODEL_WEIGHTS) or "1"
        if (file.text("backend") or file.text("backend", MODEL_WEIGHTS)) == "theano":
            raise ModelError(
                f"{name} was written with Theano, which keeps its kernels mirrored: not read.", cure=OTHER_KERAS
            )
        model = parse(text, name, KINDS)
        return model, _built(model, file, by_layer_name(model, file, MODEL_WEIGHTS), version)
    with _archive(content, name) as archive:
        text, weights = _entry(archive, CONFIG, name).decode("utf-8", "replace"), _entry(archive, WEIGHTS, name)
        version = _version(_entry(archive, METADATA, name))
    model = parse(text, name, KINDS)
    file = Hdf5(weights, name)
    return model, _built(model, file, by_kind_and_number(model, file), version)


def _built(model: Model, file: Hdf5, places: Mapping[tuple[tuple[str, ...], str], str], version: str) -> Built:
    last = channels_last(model, file.name)
    return build(model, file, places, channels_last=last, keras3=version.split(".")[0] not in ("0", "1", "2"))


def _archive(content: bytes, name: str) -> zipfile.ZipFile:
    """The archive, seen to be no trap."""
    entries(content, name)
    return zipfile.ZipFile(io.BytesIO(content))


def _entry(archive: zipfile.ZipFile, entry: str, name: str) -> bytes:
    """One entry's bytes. Raises ModelError when it is missing or damaged."""
    try:
        return archive.read(entry)
    except KeyError as error:
        raise ModelError(f"{name} has no {entry}.", cure="Save it again: model.save('model.keras').") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{name} is damaged: {entry} cannot be read ({error}).", cure=AGAIN) from error


def _version(metadata: bytes) -> str:
    """The version of Keras that wrote an archive; 3, the first to write many of them, where it does not say."""
    try:
        return str(json.loads(metadata)["keras_version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "3"
