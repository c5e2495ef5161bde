"""The container of a torch.export archive: a zip of JSON and raw tensor bytes, opened without trusting it.

Entries are slices of the bytes at hand, never unpacked: torch stores them uncompressed, and what is compressed, lies
twice in the archive, or reaches beyond it is refused. Names are keys of a dictionary and never paths.
Accepted: archive version 0, schema 8 (torch 2.9 writes 8.14, 2.10 8.15, 2.11 8.17, 2.12 and 2.13 8.20), little-endian.
"""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.errors import ModelError, UnknownFormat
from neural_cleanse.loading.cures import AGAIN, OTHER_THAN_EXPORTED
from neural_cleanse.loading.zip_guard import entries

ARCHIVE_VERSION, SCHEMA_MAJOR = b"0", 8
MAX_JSON = 32 * 1024**2  # bytes; the JSON of networks with hundreds of layers is some 3 MB
MAX_TENSORS = 2  # all tensors together, in sizes of the file: a weight may be used under two names
LOCAL_HEADER = 30  # bytes of a zip entry before its name
STRIDED = 7  # of the schema's layouts, the only one with plain bytes

# ScalarType of the schema. Numbers that are not here (complex, float8) are refused.
DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


@dataclass(frozen=True)
class Payload:
    """Where a tensor lies: an entry of the archive, and how its bytes are read. `pickled`: not as plain bytes."""

    entry: str
    pickled: bool
    dtype: torch.dtype = torch.float32
    sizes: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    offset: int = 0

    @property
    def num_bytes(self) -> int:
        """Of the tensor itself, which may be a part of its entry."""
        return math.prod(self.sizes) * self.dtype.itemsize

    def of(self, storage: bytearray) -> Tensor:
        """The tensor over the bytes of its entry, which it shares. Raises ValueError when it reaches beyond them."""
        held = len(storage) // self.dtype.itemsize
        reach = (
            self.offset + 1 + sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))
        )
        if math.prod(self.sizes) > held or (0 not in self.sizes and reach > held):
            raise ValueError(f"{self.entry} holds {held} values, its tensor needs {max(reach, math.prod(self.sizes))}")
        behind = 0  # where the values of the dimensions so far end
        for stride, size in sorted(zip(self.strides, self.sizes, strict=True)):
            if size > 1 and stride <= behind:
                raise ValueError(f"{self.entry} holds a tensor whose values overlap")
            behind += (size - 1) * stride
        if 0 in self.sizes:
            return torch.empty(self.sizes, dtype=self.dtype)
        flat = torch.frombuffer(storage, dtype=self.dtype, count=held)
        return flat.as_strided(self.sizes, self.strides, self.offset)


@dataclass(frozen=True)
class Archive:
    """The entries by their names below the archive's root folder."""

    content: bytes
    entries: Mapping[str, zipfile.ZipInfo]

    def start(self, entry: str) -> int:
        """Where the bytes of `entry` begin. Raises ValueError when there are none."""
        header = self.entries[entry].header_offset
        if header < 0 or self.content[header : header + 4] != b"PK\x03\x04":
            raise ValueError(f"{entry} is not where the archive's directory says")
        lengths = self.content[header + 26 : header + LOCAL_HEADER]
        return header + LOCAL_HEADER + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")

    def read(self, entry: str) -> bytes:
        """The bytes of an entry. Raises KeyError without one, ValueError when it is cut short or damaged."""
        start, size = self.start(entry), self.entries[entry].file_size
        found = self.content[start : start + size]
        if len(found) != size or zlib.crc32(found) != self.entries[entry].CRC:
            raise ValueError(f"{entry} is cut short or damaged")
        return found

    def parsed(self, entry: str) -> dict[str, Any]:
        """A JSON entry. Raises KeyError without one, ValueError when it is no JSON object."""
        if self.entries[entry].file_size > MAX_JSON:
            raise ValueError(f"{entry} has more than {MAX_JSON} bytes")
        found = json.loads(self.read(entry))
        if not isinstance(found, dict):
            raise ValueError(f"{entry} is no JSON object")
        return found


def open_archive(content: bytes, name: str) -> Archive:
    """The archive's directory, sizes checked against the file. Raises UnknownFormat, ModelError where they differ."""
    found = entries(content, name)
    root = next(iter(found)).partition("/")[0] + "/"
    inside = {entry.removeprefix(root): info for entry, info in found.items() if entry.startswith(root)}
    if any(info.compress_type != zipfile.ZIP_STORED for info in inside.values()):
        raise ModelError(
            f"{name} holds compressed entries, which torch does not write.", cure="Unpack it, and pack it uncompressed."
        )
    if sum(info.file_size for info in found.values()) > len(content):
        raise ModelError(f"{name} is damaged: its entries are said to be larger than the file.", cure=AGAIN)
    return Archive(content, inside)


def program_of(archive: Archive, name: str) -> tuple[str, dict[str, Any]]:
    """The name of the archive's one network and its JSON, versions checked.

    Raises UnknownFormat for archives of another kind, ModelError for versions and contents that are not read.
    """
    kind = archive.read("archive_format") if "archive_format" in archive.entries else b""
    if kind != b"pt2":
        raise UnknownFormat(f"{name} is a zip archive, but not one of torch.export.", cure=OTHER_THAN_EXPORTED)
    version = archive.read("archive_version")
    if version != ARCHIVE_VERSION or archive.read("byteorder") != b"little":
        raise ModelError(
            f"{name} is a torch.export archive of version {version[:20]!r}: version 0, little-endian, is read.",
            cure="Save it with torch 2.9 to 2.13.",
        )
    models = sorted(e for e in archive.entries if e.startswith("models/") and e.endswith(".json"))
    if len(models) != 1:
        compiled = any(entry.startswith("data/aotinductor/") for entry in archive.entries)
        what = "compiled code (AOTInductor) and no graph" if compiled and not models else f"{len(models)} networks"
        raise ModelError(f"{name} holds {what}: one exported graph is needed.", cure="Save it with torch.export.save.")
    program = archive.parsed(models[0])
    schema = program["schema_version"]
    if schema["major"] != SCHEMA_MAJOR:
        raise ModelError(
            f"{name} follows schema {str(schema['major'])[:20]} of torch.export: schema {SCHEMA_MAJOR} is read.",
            cure="Save it with torch 2.9 to 2.13.",
        )
    return models[0].removeprefix("models/").removesuffix(".json"), program


def payloads_of(archive: Archive, model: str) -> dict[str, Payload]:
    """Where the network's weights and constants lie, by their names. Raises KeyError, TypeError or ValueError."""
    found: dict[str, Payload] = {}
    for folder in ("weights", "constants"):
        config = archive.parsed(f"data/{folder}/{model}_{folder}_config.json")["config"]
        for tensor_name, entry in config.items():
            found[tensor_name] = _payload(f"data/{folder}/{entry['path_name']}", entry)
    total = sum(payload.num_bytes for payload in found.values())
    if total > MAX_TENSORS * len(archive.content):
        raise ValueError(f"its tensors would fill {total} bytes, the file has {len(archive.content)}")
    return found


def _payload(entry: str, config: Mapping[str, Any]) -> Payload:
    if config["use_pickle"] is not False or config["tensor_meta"] is None:
        return Payload(entry, pickled=True)
    meta = config["tensor_meta"]
    if meta["dtype"] not in DTYPES or meta["layout"] != STRIDED:
        raise ValueError(f"{entry} holds numbers of kind {meta['dtype']}, layout {meta['layout']}")
    sizes = tuple(whole(size["as_int"]) for size in meta["sizes"])
    strides = tuple(whole(stride["as_int"]) for stride in meta["strides"])
    return Payload(
        entry=entry,
        pickled=False,
        dtype=DTYPES[meta["dtype"]],
        sizes=sizes,
        strides=strides,
        offset=whole(meta["storage_offset"]["as_int"]),
    )


def whole(value: Any) -> int:
    """`value` as a size. Raises ValueError unless it is a whole number from 0 to 2**62."""
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{str(value)[:40]} is no size")
    return value


def with_entries(archive: Archive, changed: Mapping[str, bytes]) -> bytes:
    """The archive with the bytes of some entries replaced by as many others: all else stays, checksums follow."""
    content = bytearray(archive.content)
    checksums = {archive.entries[entry].header_offset: zlib.crc32(data) for entry, data in changed.items()}
    for entry, data in changed.items():
        header, start = archive.entries[entry].header_offset, archive.start(entry)
        content[start : start + len(data)] = data
        written_after = archive.entries[entry].flag_bits & 0x08  # then the checksum stands behind the data
        behind = start + len(data)
        place = header + 14 if not written_after else behind + 4 * (content[behind : behind + 4] == b"PK\x07\x08")
        content[place : place + 4] = checksums[header].to_bytes(4, "little")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as directory:
        place, found = directory.start_dir, directory.infolist()
    for info in found:  # the central directory has them in this order
        if info.header_offset in checksums:
            content[place + 16 : place + 20] = checksums[info.header_offset].to_bytes(4, "little")
        lengths = (int.from_bytes(content[place + at : place + at + 2], "little") for at in (28, 30, 32))
        place += 46 + sum(lengths)
    return bytes(content)
