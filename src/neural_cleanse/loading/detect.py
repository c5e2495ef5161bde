"""Which container a file is, told by its content alone: a name says what somebody wants us to believe."""

import enum
import tarfile

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.array_names import SUFFIX, are_weights
from neural_cleanse.loading.checkpoint import is_safetensors
from neural_cleanse.loading.zip_guard import entries, is_zip


class Container(enum.Enum):
    """Kinds of file; the value is what a message calls one."""

    SAFETENSORS = "a safetensors file"
    CHECKPOINT = "a PyTorch checkpoint"
    PICKLE = "a PyTorch checkpoint of before 1.6, or a bare pickle"
    TORCHSCRIPT = "a TorchScript archive"
    EXPORTED = "a torch.export archive"
    KERAS = "a Keras archive"
    HDF5 = "an HDF5 file"
    ONNX = "an ONNX graph"
    TAR = "a tar archive"
    NUMPY = "a NumPy array file"
    ARRAY_WEIGHTS = "a NumPy archive of weights"
    COMPRESSED = "a compressed file"
    ZIP = "a zip archive of no kind that we know"
    POINTER = "a pointer of git-lfs: the file itself was not fetched"
    PAGE = "a web page, not a model: the download gave an error or a login page"
    TFLITE = "a TensorFlow Lite model"
    PICKLED_ARRAY = "a NumPy array of Python objects, which is a pickle"
    TEXT = "a text file, not a model"
    UNKNOWN = "no container that this version reads"


HDF5 = b"\x89HDF\r\n\x1a\n"
NUMPY = b"\x93NUMPY"
LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")
_NUMPY_HEADER, _PAGE_START, _TEXT_START = 256, 512, 4096
PICKLE_PROTOCOLS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# gzip, bzip2, xz, zstd, 7z
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c")
_TAR_HEADER = 512


def container_of(content: bytes) -> Container:
    """The kind of file; nothing of it is unpacked, and what cannot be told is UNKNOWN or ZIP."""
    if is_zip(content):
        return _kind_of_zip(content)
    if is_safetensors(content):
        return Container.SAFETENSORS
    if content.startswith(HDF5):
        return Container.HDF5
    if content.startswith(NUMPY):
        return Container.PICKLED_ARRAY if b"|O" in content[:_NUMPY_HEADER] else Container.NUMPY
    if content.startswith(LFS):
        return Container.POINTER
    if content[:_PAGE_START].lstrip().lower().startswith(PAGES):
        return Container.PAGE
    if content[4:8] == b"TFL3":
        return Container.TFLITE
    if content.startswith(COMPRESSED):
        return Container.COMPRESSED
    if _is_tar(content):  # before pickles: a tar archive begins with a file name of its author's choice
        return Container.TAR
    if content.startswith(PICKLE_PROTOCOLS):
        return Container.PICKLE
    if _is_onnx(content):
        return Container.ONNX
    return Container.TEXT if _is_text(content) else Container.UNKNOWN


def _kind_of_zip(content: bytes) -> Container:
    """By the names of the entries; PyTorch's lie in one folder, which is named as its author likes."""
    try:
        names = set(entries(content, "it"))
    except ModelError:
        return Container.ZIP
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or "serialized_exported_program.json" in names | inner:
        return Container.EXPORTED
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return Container.TORCHSCRIPT
    if "data.pkl" in inner:
        return Container.CHECKPOINT
    if "config.json" in names and names & {"model.weights.h5", "metadata.json"}:
        return Container.KERAS
    if not all(name.endswith(SUFFIX) for name in names):
        return Container.ZIP
    arrays = [name.removesuffix(SUFFIX) for name in names]
    return Container.ARRAY_WEIGHTS if are_weights(arrays) else Container.NUMPY


def _is_text(content: bytes) -> bool:
    """Its start is UTF-8 without control characters; a letter may be cut off."""
    start = content[:_TEXT_START].decode("utf-8", errors="ignore")
    whole = len(start.encode()) >= min(len(content), _TEXT_START) - 3
    return bool(content) and whole and not any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in start)


def _is_tar(content: bytes) -> bool:
    """The first header's checksum is right."""
    if len(content) < _TAR_HEADER:
        return False
    try:
        tarfile.TarInfo.frombuf(content[:_TAR_HEADER], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


# Fields of onnx.ModelProto (onnx.proto3): number -> wire type, 0 a varint and 2 a length and so many bytes.
_MODEL_PROTO = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_IR_VERSION, _GRAPH = 1, 7
_MAX_FIELDS = 100_000  # a graph with so many functions is none of an image classifier


def _is_onnx(content: bytes) -> bool:
    """The bytes are the fields of a ModelProto: a version of the format, and a graph that may be cut off."""
    position, seen = 0, set[int]()
    for _ in range(_MAX_FIELDS):
        if position >= len(content):
            break
        tag, position = _varint(content, position)
        if _MODEL_PROTO.get(tag >> 3) != tag & 7:
            return False
        seen.add(tag >> 3)
        value, position = _varint(content, position)
        if value < 0:
            break  # the file is cut off here: its reader says so
        position += value if tag & 7 == 2 else 0
    return seen >= {_IR_VERSION, _GRAPH}


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends; -1 where it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return -1, position
