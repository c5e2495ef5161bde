"""The files of a Hugging Face directory, read once: what was checked is what is loaded.

Only what a scan needs is read: two JSON files and the safetensors. Python files and pickles are never opened.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from neural_cleanse.errors import CodeExecutionRefused, ModelError, UnknownFormat
from neural_cleanse.loading.checkpoint import read_safetensors
from neural_cleanse.loading.cures import AGAIN_DIRECTORY
from neural_cleanse.loading.files import read_file
from neural_cleanse.loading.weight_sets import TOP

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
INDEX = WEIGHTS + ".index.json"
MAX_JSON = 16 * 1024**2  # bytes: 100,000 label names and then some
MAX_SHARDS = 1000
MODEL_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".pt2", ".h5", ".keras"})


@dataclass(frozen=True)
class Snapshot:
    """The directory's files by name, as they were when they were read."""

    files: Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """Of the lines `sha256sum FILES` prints, sorted by name."""
        lines = (f"{hashlib.sha256(self.files[name]).hexdigest()}  {name}\n" for name in sorted(self.files))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def num_bytes(self) -> int:
        return sum(len(content) for content in self.files.values())

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the directory; empty when it is not there. Raises ModelError."""
        if name not in self.files:
            return {}
        try:
            value = json.loads(self.files[name])
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{name} is damaged: {error}.", cure=AGAIN_DIRECTORY) from error
        if not isinstance(value, dict):
            raise ModelError(f"{name} is damaged: it holds a {type(value).__name__}.", cure=AGAIN_DIRECTORY)
        return value

    def weight_files(self) -> list[str]:
        """The safetensors files, one or all shards."""
        return [name for name in self.files if name.endswith(".safetensors")]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the safetensors files. Raises ModelError when one is damaged or two share a name."""
        found: dict[str, Tensor] = {}
        for name in self.weight_files():
            shard = read_safetensors(self.files[name], name).sets[TOP]
            if twice := found.keys() & shard.keys():
                raise ModelError(f"{min(twice)} is in two of the safetensors files.", cure=AGAIN_DIRECTORY)
            found |= shard
        return found


def _models_in(directory: Path) -> str:
    """Files in it that are named like models, in words."""
    try:
        found = sorted(path for path in directory.iterdir() if path.suffix.lower() in MODEL_SUFFIXES and path.is_file())
    except OSError:
        return ""
    return f" ({', '.join(map(str, found[:3]))})" if found else ""


def read_directory(directory: Path) -> Snapshot:
    """Read what a scan needs. Raises UnknownFormat when it is no such directory, ModelError on its faults."""
    if not (directory / CONFIG).is_file():
        if (directory / ".metadata").is_file() and any(directory.glob("*.distcp")):
            raise UnknownFormat(
                f"{directory} is a distributed checkpoint of PyTorch, in several parts.",
                cure="Put them together: python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR FILE.",
            )
        what = "a TensorFlow SavedModel" if (directory / "saved_model.pb").exists() else "a directory"
        raise UnknownFormat(
            f"{directory} is {what}, not a model file, and holds no {CONFIG}.",
            cure=f"Give the model file itself{_models_in(directory)}, or a Hugging Face directory; "
            "export TensorFlow models to ONNX.",
        )
    files = {CONFIG: read_file(directory / CONFIG, at_most=MAX_JSON)}
    for name in (PREPROCESSOR, INDEX):
        if (directory / name).exists():
            files[name] = read_file(directory / name, at_most=MAX_JSON)
    shards = [WEIGHTS]
    if not (directory / WEIGHTS).exists():
        if INDEX not in files:
            _refuse_without_weights(directory)
        shards = _shards(Snapshot(files).json(INDEX))
    else:
        files.pop(INDEX, None)
    for name in shards:
        files[name] = read_file(directory / name)
    return Snapshot(files)


def _shards(index: dict[str, Any]) -> list[str]:
    """The file names of an index: plain ones, in this directory."""
    weight_map = index.get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not 1 <= len(names) <= MAX_SHARDS:
        raise ModelError(f"{INDEX} is damaged: it names {len(names)} files.", cure=AGAIN_DIRECTORY)
    for name in names:
        if not name.endswith(".safetensors") or Path(name).name != name or "\\" in name or "\0" in name:
            raise ModelError(
                f"{INDEX} names {name!r}, which is no safetensors file of this directory.", cure=AGAIN_DIRECTORY
            )
    return names


def _refuse_without_weights(directory: Path) -> None:
    pickles = sorted(path.name for path in directory.glob("*.bin"))
    if pickles:
        raise CodeExecutionRefused(
            f"{directory} holds its weights as a pickle only ({pickles[0][:100]}), which can run code when loaded.",
            cure="Ask its author for safetensors: model.save_pretrained(directory) writes them.",
        )
    raise UnknownFormat(f"{directory} holds {CONFIG} and no {WEIGHTS}.", cure="Give a directory with safetensors.")
