"""Hugging Face directories: the network is transformers' own, its weights are the safetensors we read.

transformers never sees the directory. It gets a checked config.json as values and the tensors, and builds one of its
image classifiers; code that came with the directory (`auto_map`) is refused before. The network is first built without
memory and checked against the weights that the files really hold.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError, NeuralCleanseError, OutputError
from neural_cleanse.loading.checkpoint import MAX_CLASSES, replace_tensors
from neural_cleanse.loading.cures import AGAIN_DIRECTORY, OTHER_DIRECTORY
from neural_cleanse.loading.huggingface.files import CONFIG, PREPROCESSOR, Snapshot
from neural_cleanse.loading.huggingface.preprocessing import input_shape, label_names, normalization
from neural_cleanse.loading.network import Network, Trust
from neural_cleanse.text import first_line

CONTAINER = "Hugging Face directory"
PREFIX = "network."  # of our wrapper
# What would make transformers run code, fetch from the network, or change its own layers.
REFUSED_KEYS = frozenset({
    "backbone", "backbone_config", "distributed_config", "fusion_config", "kernel_config", "quantization_config",
    "transformers_weights", "use_kernels", "use_pretrained_backbone", "use_timm_backbone",
})  # fmt: skip
# How the author computed, not what: ours is single precision and transformers' own attention.
IGNORED_KEYS = frozenset({"attn_implementation", "dtype", "experts_implementation", "torch_dtype"})
# A layer has a tensor at least: names of settings that count layers.
LAYER_COUNTS = ("layer", "depth", "block", "stage")
TIMM = "timm needs torchvision, which this program does not have. Export the network to ONNX or .pt2, and scan that."


class LogitsOf(nn.Module):
    """A transformers classifier that returns its logits alone; `blue_first` turns RGB images round for it."""

    def __init__(self, network: nn.Module, blue_first: bool) -> None:
        super().__init__()
        self.network, self.blue_first = network, blue_first

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = self.network(pixel_values=images.flip(1) if self.blue_first else images).logits
        return logits


def read(snapshot: Snapshot, name: str) -> Network:
    """The classifier of a directory. Raises ModelError and its kinds; a missing transformers is one."""
    config, preprocessing = snapshot.json(CONFIG), snapshot.json(PREPROCESSOR)
    tensors = snapshot.tensors()
    network = _load(config, tensors, name)
    shape = input_shape(config, preprocessing, name)
    return Network(
        module=LogitsOf(network, blue_first=preprocessing.get("do_flip_channel_order") is True),
        container=CONTAINER,
        trust=Trust.TENSORS,
        architecture=type(network).__name__,
        input_shape=shape,
        num_classes=network.config.num_labels,
        normalize=normalization(preprocessing, name) if preprocessing else None,
        label_names=label_names(config),
    )


def rewrite(snapshot: Snapshot, state: Mapping[str, Tensor], name: str) -> dict[str, bytes]:
    """The directory's weight files with the weights of `state`: names, shards and kinds of number stay."""
    network = _load(snapshot.json(CONFIG), snapshot.tensors(), name)
    network.load_state_dict({key.removeprefix(PREFIX): tensor for key, tensor in state.items()})
    with tempfile.TemporaryDirectory() as place, _quiet():
        network.save_pretrained(place)  # it knows the names that files have
        saved: dict[str, Tensor] = {}
        for path in Path(place).glob("*.safetensors"):
            saved |= safetensors.torch.load(path.read_bytes())
    if lost := saved.keys() - snapshot.tensors().keys():
        raise OutputError(
            f"{name} names its weights in an old way: there is no place for {min(lost)}.",
            cure="Load and save it with a newer transformers first.",
        )
    return {file: replace_tensors(snapshot.files[file], saved) for file in snapshot.weight_files()}


def _load(config: dict[str, Any], tensors: dict[str, Tensor], name: str) -> Any:
    """transformers' classifier (a module) for the config, with every one of its weights from the tensors."""
    try:
        checked = _checked(config, tensors, name)
        import transformers
    except ImportError as error:
        raise ModelError(
            f"{name} is a {CONTAINER}, which needs transformers.",
            cure="pip install 'neural-cleanse[huggingface]'",
        ) from error
    except RecursionError as error:
        raise ModelError(f"{CONFIG} of {name} is nested too deep.", cure=AGAIN_DIRECTORY) from error
    model_type = checked.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{CONFIG} of {name} names no model type that transformers knows: {model_type!r}.", cure=OTHER_DIRECTORY
        )
    try:
        with _quiet():
            settings = transformers.CONFIG_MAPPING[model_type].from_dict(checked)
            with torch.device("meta"):
                empty = transformers.AutoModelForImageClassification.from_config(settings)
            _refuse_growth(empty, tensors, name)
            network, info = type(empty).from_pretrained(
                None, config=settings, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True,
                local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except NeuralCleanseError:
        raise
    except Exception as error:  # what a wrong config makes transformers raise is no one family
        raise ModelError(
            f"transformers cannot build the {model_type} of {name} ({type(error).__name__}: {first_line(error, 300)}).",
            cure=OTHER_DIRECTORY,
        ) from error
    wrong = {key: sorted(map(str, names))[:6] for key, names in info.items() if names}
    if wrong:
        raise CheckpointMismatch(f"The weights of {name} do not fit its {CONFIG}: {wrong}.", cure=AGAIN_DIRECTORY)
    return network.eval()


def _checked(config: dict[str, Any], tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """The settings without what runs code or is none of ours. Raises CodeExecutionRefused, ModelError."""
    if ("model_type" not in config and "architecture" in config) or config.get("model_type") == "timm_wrapper":
        raise ModelError(f"{name} is a timm directory, which is not read.", cure=TIMM)
    labels = config.get("id2label")
    classes = len(labels) if isinstance(labels, dict) else config.get("num_labels", 0)
    if not isinstance(classes, int) or classes > MAX_CLASSES:
        raise ModelError(
            f"{CONFIG} of {name} has {classes} classes: at most {MAX_CLASSES:,} can be scanned.", cure=OTHER_DIRECTORY
        )
    checked = _without_private(config, len(tensors), name)
    assert isinstance(checked, dict)
    return checked


def _without_private(value: Any, num_tensors: int, name: str, key: str = "") -> Any:
    if isinstance(value, dict):
        keys = [str(inner) for inner in value]
        if "auto_map" in keys:
            raise CodeExecutionRefused(
                f"{name} brings its own Python code (auto_map in {CONFIG}), which would run. Nothing of it was run.",
                cure="Use a network that transformers itself knows, or export it to ONNX or .pt2.",
            )
        if refused := sorted(inner for inner in keys if inner in REFUSED_KEYS and value[inner]):
            raise ModelError(f"{CONFIG} of {name} sets {refused[0]}, which is not read.", cure=OTHER_DIRECTORY)
        return {
            inner: _without_private(part, num_tensors, name, str(inner))
            for inner, part in value.items()
            if not str(inner).startswith("_") and inner not in IGNORED_KEYS
        }
    if isinstance(value, list):
        return [_without_private(part, num_tensors, name, key) for part in value]
    counts = any(part in key for part in LAYER_COUNTS) and isinstance(value, int)
    if counts and value > max(num_tensors, 1000) and key not in ("label2id", "id2label"):
        raise ModelError(
            f"{CONFIG} of {name} has {key} {value:,}, the files hold {num_tensors:,} tensors.", cure=AGAIN_DIRECTORY
        )
    return value


def _refuse_growth(empty: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Hold the network, built without memory, against the weights that the files really hold."""
    needed = sum(parameter.numel() for parameter in empty.parameters())
    held = sum(tensor.numel() for tensor in tensors.values())
    if needed > held:
        raise CheckpointMismatch(
            f"{CONFIG} of {name} needs {needed:,} weights, the files hold {held:,}.", cure=AGAIN_DIRECTORY
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and hints; what is wrong we say ourselves."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
