"""A container is told by its content; what cannot be told is said to be unknown, and nothing is unpacked for it."""

import gzip
import io
import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neural_cleanse.errors import ModelError, UnknownFormat
from neural_cleanse.loading.detect import Container, container_of
from neural_cleanse.loading.program import findings as program_parts
from neural_cleanse.loading.zip_guard import MAX_ENTRIES, entries

WEIGHTS = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}


def torch_saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def torchscript() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what people still hand out
        torch.jit.save(torch.jit.script(nn.Linear(3, 2)), stream)
    return stream.getvalue()


def exported() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),)), stream)
    return stream.getvalue()


def numpy_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


def numpy_arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3), b=np.zeros(2))
    return stream.getvalue()


def tarred(name: str = "storages") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def arrays(*names: str) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **dict.fromkeys(names, np.zeros(3, np.float32)))
    return stream.getvalue()


def field(number: int, payload: bytes | int) -> bytes:
    """A field of a protobuf message."""
    if isinstance(payload, int):
        return bytes([number << 3, payload])
    return bytes([number << 3 | 2, len(payload)]) + payload


ONNX = field(1, 8) + field(2, b"pytorch") + field(7, b"\x0a\x00") + field(8, b"\x10\x11")
SAMPLES: dict[str, tuple[Callable[[], bytes], Container]] = {
    "safetensors": (lambda: safetensors.torch.save(WEIGHTS), Container.SAFETENSORS),
    "checkpoint": (lambda: torch_saved(WEIGHTS), Container.CHECKPOINT),
    "pickled module": (lambda: torch_saved(nn.Linear(3, 2)), Container.CHECKPOINT),
    "legacy": (lambda: torch_saved(WEIGHTS, _use_new_zipfile_serialization=False), Container.PICKLE),
    "pickle": (lambda: pickle.dumps({"a": 1}), Container.PICKLE),
    "torchscript": (torchscript, Container.TORCHSCRIPT),
    "exported": (exported, Container.EXPORTED),
    "keras": (lambda: zipped({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b""}), Container.KERAS),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), Container.HDF5),
    "onnx": (lambda: ONNX, Container.ONNX),
    "onnx cut off": (lambda: ONNX[:-3], Container.ONNX),
    "tar": (tarred, Container.TAR),
    "tar that begins like a pickle": (lambda: tarred("\udc80\x02"), Container.TAR),
    "npy": (numpy_array, Container.NUMPY),
    "npz": (numpy_arrays, Container.NUMPY),
    "npz of images": (lambda: arrays("images", "labels"), Container.NUMPY),
    "npz of images and an odd name": (lambda: arrays("x_test", "y_test", "bias"), Container.NUMPY),
    "npz of weights": (lambda: arrays("fc.weight", "fc.bias", "steps"), Container.ARRAY_WEIGHTS),
    "npz of weights with slashes": (lambda: arrays("dense/kernel", "dense/bias"), Container.ARRAY_WEIGHTS),
    "npz of losses": (lambda: arrays("train_loss", "test_loss"), Container.NUMPY),
    "gzip": (lambda: gzip.compress(torch_saved(WEIGHTS)), Container.COMPRESSED),
    "other zip": (lambda: zipped({"readme.txt": b"hello"}), Container.ZIP),
    "text": (lambda: b"hello, this is no model", Container.TEXT),
    "text cut in a letter": (lambda: ("ä" * 3000).encode()[:-1], Container.TEXT),
    "json": (lambda: json.dumps({"a": [1] * 50}).encode(), Container.TEXT),
    "zeros": (lambda: bytes(600), Container.UNKNOWN),
    "graph without a version": (lambda: field(7, b"\x0a\x00"), Container.UNKNOWN),
    "nothing": (lambda: b"", Container.UNKNOWN),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_containers_are_told_by_their_content(case: str) -> None:
    make, expected = SAMPLES[case]
    assert container_of(make()) is expected


def test_no_header_promises_more_than_there_is() -> None:
    for case, (make, _) in SAMPLES.items():
        content = make()
        for length in range(0, len(content), max(1, len(content) // 50)):
            assert isinstance(container_of(content[:length]), Container), case


# --- zip directories ---


def test_an_honest_archive_lists_its_entries() -> None:
    found = entries(torch_saved(WEIGHTS), "m.pt")
    assert {"archive/data.pkl", "archive/data/0", "archive/data/1"} <= set(found)
    assert found["archive/data/0"].file_size == 24


def altered(content: bytes, entry: str, offset: int, value: int, width: int = 4) -> bytes:
    """A field of the entry's record in the directory, changed: 8 flags, 20 packed size, 24 size, 42 where it lies."""
    name = entry.encode()
    start = content.rindex(name) - 46
    assert content[start : start + 4] == b"PK\x01\x02"
    changed = bytearray(content)
    changed[start + offset : start + offset + width] = value.to_bytes(width, "little")
    return bytes(changed)


def twice() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the second
        archive.writestr("a/data.pkl", b"one")
        archive.writestr("a/data.pkl", b"two")
    return stream.getvalue()


HONEST = zipped({"a/data.pkl": b"x" * 100, "a/data/0": b"y" * 400})
TRAPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (lambda: zipped({"a/data.pkl": bytes(10_000_000)}, zipfile.ZIP_DEFLATED), "zip bomb"),
    "declares more": (lambda: altered(HONEST, "a/data/0", 24, 10**6), "declares more than it holds"),
    "beyond the end": (
        lambda: altered(altered(HONEST, "a/data/0", 24, 10**6), "a/data/0", 20, 10**6),
        "declares more than it holds",
    ),
    "encrypted": (lambda: altered(HONEST, "a/data/0", 8, 1, 2), "encrypted"),
    "two of one name": (twice, "two entries of one name"),
    "something before": (lambda: b"PK\x03\x04" + bytes(60) + HONEST, "before its first entry"),
    "a comment": (lambda: HONEST[:-2] + b"\x04\0PK\x05", "does not end with its directory"),
    "cut off": (lambda: HONEST[:-30], "does not end with its directory"),
    "without entries": (lambda: HONEST[:30] + zipped({}), "without entries"),
    "too many": (lambda: b"PK\x03\x04" + b"PK\x01\x02" * (MAX_ENTRIES + 1), "entries"),
    "a 64-bit directory elsewhere": (
        lambda: HONEST[:-22] + b"PK\x06\x06" + bytes(52) + b"PK\x06\x07" + bytes(16) + HONEST[-22:],
        "does not end with its directory",
    ),
}


@pytest.mark.parametrize("case", TRAPS)
def test_archives_that_are_traps_are_refused_unopened(case: str) -> None:
    make, message = TRAPS[case]
    content = make()
    assert len(content) < 1_000_000
    with pytest.raises(ModelError, match=message):
        entries(content, "m.pt")
    assert container_of(content) is Container.ZIP


def test_overlapping_entries_are_a_bomb() -> None:
    """Many names for one large piece of the file: what they declare together is what counts."""
    files = {"a/00": b"x" * 100_000} | {f"a/{number:02}": b"" for number in range(1, 100)}
    content = zipped(files)
    for number in range(1, 100):
        for offset, value in ((20, 100_000), (24, 100_000), (42, 0)):
            content = altered(content, f"a/{number:02}", offset, value)
    with pytest.raises(ModelError, match="zip bomb"):
        entries(content, "m.pt")


SEEDS = [make() for make, _ in SAMPLES.values()]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_files_are_told_or_refused(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    container = container_of(bytes(content))
    program_parts.findings(container, bytes(content))
    if content.startswith(b"PK\x03\x04"):
        try:
            assert entries(bytes(content), "m")
        except (ModelError, UnknownFormat):
            assert container is Container.ZIP
