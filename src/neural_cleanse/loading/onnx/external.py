"""Weights of an ONNX file that lie in files beside it: read from its own folder alone."""

from pathlib import Path
from typing import Any

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import AGAIN, RIGHTS
from neural_cleanse.text import plain

EXTERNAL = 1  # TensorProto.DataLocation
BESIDE = "Put its files of weights beside it, or save one file: onnx.save(model, path, save_as_external_data=False)."


def tensors(model: Any) -> list[Any]:
    constants = [item.t for node in model.graph.node for item in node.attribute if item.HasField("t")]
    return [*model.graph.initializer, *constants]


def take_in(model: Any, name: str, folder: Path | None) -> None:
    """Read external data into the model, from inside `folder` only and no more of it than is there."""
    sizes: dict[Path, int] = {}
    taken = 0
    for proto in tensors(model):
        if proto.data_location != EXTERNAL:
            continue
        where = {entry.key: entry.value for entry in proto.external_data}
        path = _inside(where.get("location", ""), name, folder)
        try:
            sizes[path] = path.stat().st_size
            offset, length = int(where.get("offset", 0)), int(where.get("length", sizes[path]))
            taken += length
            if min(offset, length) < 0 or offset + length > sizes[path] or taken > 2 * sum(sizes.values()):
                raise ModelError(f"{name} asks for more than {plain(path.name)} holds.", cure=AGAIN)
            with path.open("rb") as stream:
                stream.seek(offset)
                proto.raw_data = stream.read(length)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{name} keeps weights in {plain(path.name)}, which cannot be read.", cure=RIGHTS
            ) from error
        proto.data_location = 0
        del proto.external_data[:]


def files_of(model: Any, name: str, folder: Path) -> list[Path]:
    """The files beside it that hold weights. Raises ModelError on one outside its folder."""
    outside = [proto for proto in tensors(model) if proto.data_location == EXTERNAL]
    locations = {entry.value for proto in outside for entry in proto.external_data if entry.key == "location"}
    return [_inside(location, name, folder) for location in sorted(locations)]


def _inside(location: str, name: str, folder: Path | None) -> Path:
    """The file of external data. Raises ModelError unless it lies in the model's folder by every link."""
    relative = Path(location)
    if not location or relative.is_absolute() or ".." in relative.parts or "\\" in location or "\0" in location:
        raise ModelError(
            f"{name} asks for a file outside its folder ({plain(location)}): refused, nothing was opened.",
            cure=BESIDE,
        )
    if folder is None:
        raise ModelError(
            f"{name} keeps its weights in another file ({plain(location)}).",
            cure="Save it into one: onnx.save(model, path, save_as_external_data=False).",
        )
    root = folder.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise ModelError(f"{name} keeps weights in {plain(location)}, which is no file in its folder.", cure=BESIDE)
    return path
