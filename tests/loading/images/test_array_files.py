"""Image data as numbers in a file: CIFAR and MNIST as they are handed out, tables, HDF5, MATLAB, floats."""

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from neural_cleanse.api.labels import labels_of
from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images import npz
from neural_cleanse.loading.images.load import load_data

RNG = np.random.default_rng(0)
PLANAR = RNG.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
LABELS = [3, 0, 9, 1, 9, 2]


def same(data: ImageSet, images: Any, labels: Any = None) -> bool:
    """Whether these are the pixels (n c h w) and labels that were read."""
    got = None if data.labels is None else data.labels.tolist()
    return np.array_equal(data.images.numpy(), images) and got == (None if labels is None else list(labels))


# --- CIFAR for Python ---


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("key", [str, str.encode])
def test_a_pickled_cifar_batch_is_read_planes_first(tmp_path: Path, protocol: int, key: Any) -> None:
    batch = {key("data"): PLANAR.reshape(6, -1), key("labels"): LABELS, key("batch_label"): key("testing")}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol))
    names = [f"n{label}".encode() for label in range(10)]
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, 2))
    data = load_data(tmp_path / "test_batch")
    assert same(data, PLANAR, LABELS)
    assert data.names == tuple(f"n{label}" for label in range(10))


def python_2_batch() -> bytes:
    """As Python 2 wrote the batches that the authors hand out: text of bytes, dtype and array by `copy_reg` names."""
    content = PLANAR.reshape(6, -1).tobytes()
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"K\x06M\x00\x0c\x86"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01"
        + shape + dtype + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    )  # fmt: skip
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in LABELS) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + labels + b"U\x0bbatch_labelU\x04testu."


def test_a_batch_written_by_python_2_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(python_2_batch())
    assert pickle.loads(python_2_batch(), encoding="bytes")[b"labels"] == LABELS, "the file must be a right one"
    assert same(load_data(tmp_path / "test_batch"), PLANAR, LABELS)


def test_cifar_100_has_its_fine_labels(tmp_path: Path) -> None:
    batch = {"data": PLANAR.reshape(6, -1), "fine_labels": [99, 0, 5, 7, 99, 1], "coarse_labels": LABELS}
    (tmp_path / "test").write_bytes(pickle.dumps(batch))
    assert same(load_data(tmp_path / "test"), PLANAR, [99, 0, 5, 7, 99, 1])


def test_of_a_folder_of_batches_the_test_batch_is_read(tmp_path: Path) -> None:
    inner = tmp_path / "cifar-10-batches-py"
    inner.mkdir()
    for name, images in (("data_batch_1", PLANAR[::-1]), ("data_batch_2", PLANAR[::-1]), ("test_batch", PLANAR)):
        batch = {"data": images.reshape(6, -1), "labels": LABELS, "batch_label": name}
        (inner / name).write_bytes(pickle.dumps(batch, 2))
    (inner / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"] * 10}))
    (inner / "readme.html").write_text("<html>, not images</html>")
    assert same(load_data(tmp_path), PLANAR, LABELS)
    (inner / "test_batch").unlink()
    with pytest.raises(DataError, match=r"2 files of images: .*data_batch_1.*Give one of them"):
        load_data(tmp_path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_of_features_and_labels_is_read(tmp_path: Path, protocol: int) -> None:
    held = {"features": PLANAR.transpose(0, 2, 3, 1), "labels": np.array(LABELS), "sizes": np.ones((6, 2))}
    (tmp_path / "test.p").write_bytes(pickle.dumps(held, protocol))
    assert same(load_data(tmp_path / "test.p"), PLANAR, LABELS)
    assert load_data(tmp_path / "test.p", ignore_labels=True).labels is None
    (tmp_path / "pair.pkl").write_bytes(pickle.dumps((held["features"], [np.int64(one) for one in LABELS]), protocol))
    assert same(load_data(tmp_path / "pair.pkl"), PLANAR, LABELS)


class Payload:
    """Unpickling it makes a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    held = {"data": PLANAR.reshape(6, -1), "labels": Payload(tmp_path / "marker")}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(held, protocol))
    with pytest.raises(DataError, match=r"names posix\.mkdir.*Nothing of it was run.*np\.savez"):
        load_data(tmp_path / "test_batch")
    assert not (tmp_path / "marker").exists()
    pickle.loads((tmp_path / "test_batch").read_bytes())
    assert (tmp_path / "marker").exists(), "the payload must be a real one"


def test_one_pickle_cannot_change_how_the_next_is_read(tmp_path: Path) -> None:
    attack = b"\x80\x02cnumpy\nndarray\n(N}U\x05arrayK\x07stb."  # sets an attribute of the class itself
    (tmp_path / "attack").write_bytes(attack)
    with pytest.raises(DataError):
        load_data(tmp_path / "attack")
    (tmp_path / "test_batch").write_bytes(python_2_batch())
    assert same(load_data(tmp_path / "test_batch"), PLANAR, LABELS)


# --- CIFAR in binary ---


def test_binary_batches_of_cifar_10_and_100_are_read(tmp_path: Path) -> None:
    flat = PLANAR.reshape(6, -1)
    ten = np.concatenate([np.array(LABELS, np.uint8)[:, None], flat], axis=1)
    fine = np.array([99, 0, 5, 7, 99, 1], np.uint8)
    hundred = np.concatenate([np.array(LABELS, np.uint8)[:, None], fine[:, None], flat], axis=1)
    (tmp_path / "test_batch.bin").write_bytes(ten.tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"n{label}" for label in range(10)) + "\n\n")
    (tmp_path / "test.bin").write_bytes(hundred.tobytes())
    assert same(load_data(tmp_path / "test_batch.bin"), PLANAR, LABELS)
    assert load_data(tmp_path / "test_batch.bin").names == tuple(f"n{label}" for label in range(10))
    assert same(load_data(tmp_path / "test.bin"), PLANAR, fine)


def test_a_binary_file_with_impossible_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\xc8" * 3073 * 2)
    with pytest.raises(DataError, match="none of CIFAR-10's or CIFAR-100's"):
        load_data(tmp_path / "x.bin")


# --- IDX ---

DIGITS = RNG.integers(0, 256, (6, 28, 20), dtype=np.uint8)


def idx(array: Any) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte", "emnist-test-images-idx3-ubyte"])
def test_idx_files_are_read_with_their_labels(tmp_path: Path, name: str, packed: bool) -> None:
    end, pack = (".gz", gzip.compress) if packed else ("", bytes)
    (tmp_path / (name + end)).write_bytes(pack(idx(DIGITS)))
    labels = name.replace("images", "labels").replace("idx3", "idx1")
    assert same(load_data(tmp_path / (name + end)), DIGITS[:, None])
    (tmp_path / (labels + end)).write_bytes(pack(idx(np.array(LABELS, np.uint8))))
    assert same(load_data(tmp_path / (name + end)), DIGITS[:, None], LABELS)


def test_of_torchvisions_mnist_folder_the_test_images_are_read(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, images in (("train", DIGITS[::-1]), ("t10k", DIGITS)):
        for name, array in (("images-idx3", images), ("labels-idx1", np.array(LABELS, np.uint8))):
            (raw / f"{part}-{name}-ubyte").write_bytes(idx(array))
            (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    assert same(load_data(tmp_path), DIGITS[:, None], LABELS)


def test_idx_files_that_lie_about_their_size_are_refused_at_once(tmp_path: Path) -> None:
    huge = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**15, 2**15)
    for name, content in (("a", huge), ("b.gz", gzip.compress(huge + bytes(100)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="header says"):
            load_data(tmp_path / name)
    (tmp_path / "c.gz").write_bytes(gzip.compress(idx(DIGITS))[:-3000])
    with pytest.raises(DataError, match="damaged"):
        load_data(tmp_path / "c.gz")


# --- tables ---


def written(path: Path, rows: Any, header: str = "", separator: str = ",") -> Path:
    lines = [separator.join(str(value) for value in row) for row in rows]
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n")
    return path


GREY = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
FLAT = GREY.reshape(6, 64)


def header_of(*ends: str, count: int = 64) -> str:
    return ",".join([ends[0], *(f"pixel{place}" for place in range(count)), *ends[1:]]).strip(",")


def test_tables_of_pixels_are_read_with_a_header_and_without(tmp_path: Path) -> None:
    first = np.column_stack([LABELS, FLAT])
    last = np.column_stack([FLAT, LABELS])
    numbered = np.column_stack([np.arange(6), LABELS, FLAT])
    for rows, header in (
        (first, header_of("label")), (first, ""), (last, header_of("", "label")), (numbered, "," + header_of("label")),
        (first, '"' + header_of("label").replace(",", '","') + '"'),
    ):  # fmt: skip
        data = load_data(written(tmp_path / "mnist_test.csv", rows, header))
        assert same(data, GREY[:, None], LABELS), header
    assert same(load_data(written(tmp_path / "test.csv", FLAT, header_of("", ""))), GREY[:, None])
    assert same(load_data(written(tmp_path / "usps.txt", first, separator=" ")), GREY[:, None], LABELS)


def test_text_and_code_beside_the_images_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "SOURCES.md").write_text("# Sources of digits\n\nFrom 1 2 3 4\n")
    (tmp_path / "__init__.py").write_text('"""The digits, as arrays."""\n')
    (tmp_path / "fetch.py").write_text("import os, sys, re, json\n1, 2, x, y\n")
    np.savez(tmp_path / "digits.npz", images=PLANAR, labels=np.array(LABELS))
    assert same(load_data(tmp_path), PLANAR, LABELS)
    (tmp_path / "digits.npz").unlink()
    with pytest.raises(DataError):
        load_data(tmp_path)
    table = written(tmp_path / "digits.csv", np.column_stack([LABELS, FLAT]), header_of("label"))
    assert same(load_data(tmp_path), GREY[:, None], LABELS)
    table.write_text("emotion,pixels\n" + "\n".join(f"{row[0]},{' '.join(map(str, row))}" for row in FLAT))
    assert load_data(tmp_path).origin.startswith(str(table))


def test_a_table_of_three_colours_has_them_beside_each_other(tmp_path: Path) -> None:
    coloured = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    rows = np.column_stack([coloured.reshape(6, -1), LABELS])
    path = written(tmp_path / "hmnist_8_8_RGB.csv", rows, header_of("", "label", count=192))
    assert same(load_data(path), coloured.transpose(0, 3, 1, 2), LABELS)


def test_of_a_table_with_pixels_in_one_cell_the_held_out_part_is_read(tmp_path: Path) -> None:
    rows = [
        (label, '"' + " ".join(map(str, pixels)) + '"', "PrivateTest" if place > 1 else "Training")
        for place, (label, pixels) in enumerate(zip(LABELS, FLAT, strict=True))
    ]
    data = load_data(written(tmp_path / "fer2013.csv", rows, "emotion,pixels,Usage"))
    assert same(data, GREY[2:, None], LABELS[2:]) and "privatetest" in data.origin


def test_floats_in_a_table_are_scaled_and_ink_is_white(tmp_path: Path) -> None:
    rows = np.column_stack([LABELS, FLAT / 255])
    assert same(load_data(written(tmp_path / "a.csv", rows)), GREY[:, None], LABELS)
    ink = (FLAT > 100).astype(int)
    data = load_data(written(tmp_path / "b.csv", np.column_stack([LABELS, ink])))
    assert same(data, (GREY > 100)[:, None] * 255, LABELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label," + ",".join("p" * 64) + "\n1," + ",".join("3" * 64) + "\n1,2\n", "table of pixels"),
        ("label," + ",".join("p" * 64) + "\n1," + ",".join("x" * 64) + "\n", "table of pixels"),
        ("label,pixels\n1,1 2 3 4 5\n", "5 pixels a row"),
        ("pixels\n300 2 3 4\n", "no range is guessed"),
        ("name,age\nx,3\n", "no file of images"),
    ],
)
def test_tables_that_are_no_images_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "x.csv")


# --- HDF5 and MATLAB ---


def test_hdf5_files_of_images_are_read(tmp_path: Path) -> None:
    one_hot = np.eye(10, dtype=np.int64)[LABELS]
    with h5py.File(tmp_path / "gtsrb_dataset_int.h5", "w") as file:
        for name, values in (("X_train", PLANAR[:2].transpose(0, 2, 3, 1)), ("Y_train", one_hot[:2]),
                             ("X_test", PLANAR.transpose(0, 2, 3, 1)), ("Y_test", one_hot)):  # fmt: skip
            file[name] = values
    assert same(load_data(tmp_path / "gtsrb_dataset_int.h5"), PLANAR, LABELS)
    with h5py.File(tmp_path / "test_signs.h5", "w") as file:
        file["test_set_x"], file["test_set_y"] = PLANAR.transpose(0, 2, 3, 1), np.array(LABELS)[None]
        file["list_classes"] = np.arange(6)
    assert same(load_data(tmp_path / "test_signs.h5"), PLANAR, LABELS)


@pytest.mark.parametrize("kind", ["u1", "<i2", ">i4", "<i8", "<f4", "<f8", "f2"])
def test_hdf5_pixels_of_any_kind_of_number_are_read(tmp_path: Path, kind: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"], file["labels"] = PLANAR.astype(kind), np.array(LABELS, kind)
    assert same(load_data(tmp_path / "x.h5"), PLANAR, LABELS)


def test_packed_hdf5_and_models_are_refused_with_a_cure(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("images", data=PLANAR, compression="gzip")
    with pytest.raises(DataError, match=r"pieces.*np\.savez"):
        load_data(tmp_path / "x.h5")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_group("model_weights")
    with pytest.raises(DataError, match="a Keras model, not images"):
        load_data(tmp_path / "m.h5")


@pytest.mark.parametrize("packed", [False, True])
def test_svhn_as_matlab_writes_it_is_read_and_ten_is_the_digit_0(tmp_path: Path, packed: bool) -> None:
    labels = np.array([3, 10, 9, 1, 9, 2], np.uint8)[:, None]
    held = {"X": PLANAR.transpose(2, 3, 1, 0), "y": labels}
    scipy.io.savemat(tmp_path / "test_32x32.mat", held, do_compression=packed)
    data = load_data(tmp_path / "test_32x32.mat")
    assert same(data, PLANAR, LABELS) and "digit 0" in data.origin
    scipy.io.savemat(tmp_path / "other.mat", {"Y": np.ones(3)})
    with pytest.raises(DataError, match="no array X"):
        load_data(tmp_path / "other.mat")


# --- ranges ---


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("form", ["unit", "bytes", "both signs"])
def test_floats_that_can_only_be_bytes_are_read_exactly(tmp_path: Path, kind: str, form: str) -> None:
    values = {"unit": PLANAR / 255, "bytes": PLANAR * 1.0, "both signs": PLANAR / 127.5 - 1}[form]
    np.savez(tmp_path / "d.npz", X=values.astype(kind), y=np.array(LABELS, float))
    data = load_data(tmp_path / "d.npz")
    assert same(data, PLANAR, LABELS) and kind in data.origin


@pytest.mark.parametrize("kind", ["int8", "int16", "uint16", "int32", "int64", "uint64"])
def test_whole_numbers_up_to_255_are_bytes(tmp_path: Path, kind: str) -> None:
    images = PLANAR if kind != "int8" else PLANAR // 2
    np.savez(tmp_path / "d.npz", images=images.astype(kind))
    assert same(load_data(tmp_path / "d.npz"), images)


NORMALISED = (PLANAR / 255 - 0.45) / 0.25


@pytest.mark.parametrize(
    "images",
    [
        NORMALISED, NORMALISED * 0.5, PLANAR.astype("u2") * 257, PLANAR.astype("i2") - 1, PLANAR / 255 / 255,
        PLANAR // 16 * 1.0, np.where(PLANAR > 3, PLANAR, np.nan), PLANAR * 1j,
        RNG.normal(0, 0.3, PLANAR.shape).clip(-1, 1),
    ],
)  # fmt: skip
def test_arrays_whose_range_would_be_a_guess_are_refused(tmp_path: Path, images: Any) -> None:
    np.savez(tmp_path / "d.npz", images=images)
    with pytest.raises(DataError, match=r"no range is guessed|hold NaN or Inf"):
        load_data(tmp_path / "d.npz")


# --- hostile ---


def claiming(path: Path, *shape: int, packed: bool = False) -> Path:
    """A file of arrays whose header says another shape than it holds."""
    with io.BytesIO() as array:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(array, header)
        content = array.getvalue() + bytes(100)
    if not packed:
        path.write_bytes(content)
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_lies_about_its_shape_is_refused(tmp_path: Path, packed: bool) -> None:
    for shape in ((10**30, 28, 28), (10**9, 28, 28)):
        with pytest.raises(DataError, match=r"cannot be read as an|asks for more memory than \d"):
            load_data(claiming(tmp_path / "d", *shape, packed=packed))


def test_arrays_that_memory_does_not_hold_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "d.npz", images=np.zeros((1000, 28, 28), np.uint8))
    monkeypatch.setattr(npz, "physical_memory", lambda: 1_000_000)
    with pytest.raises(DataError, match=r"holds 784,128 bytes of images.*a part"):
        load_data(tmp_path / "d.npz")


@pytest.mark.parametrize("label", [np.array([2**64 - 1] * 6, np.uint64), np.array([1e30] * 6)])
def test_labels_beyond_whole_numbers_are_told_as_they_are(tmp_path: Path, label: Any) -> None:
    np.savez(tmp_path / "d.npz", images=PLANAR, labels=label)
    with pytest.raises(DataError, match=r"There is the label 1[08]\d+\."):
        load_data(tmp_path / "d.npz")
    with pytest.raises(DataError, match=r"There is the label 1[08]\d+\."):
        labels_of(list(label), None)


def test_changed_bytes_end_in_one_message(tmp_path: Path) -> None:
    files: dict[str, bytes] = {
        "test_batch": python_2_batch(), "p5": pickle.dumps({"images": PLANAR, "labels": np.array(LABELS)}, 5),
        "images-idx3.gz": gzip.compress(idx(DIGITS)),
    }  # fmt: skip
    written(tmp_path / "t", np.column_stack([LABELS, FLAT]), header_of("label"))
    scipy.io.savemat(tmp_path / "m", {"X": PLANAR.transpose(2, 3, 1, 0), "y": np.array(LABELS)}, do_compression=True)
    with h5py.File(tmp_path / "h", "w") as file:
        file["images"], file["labels"] = PLANAR, np.array(LABELS)
    files |= {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    path, generator, refused = tmp_path / "changed", np.random.default_rng(1), 0
    for content in files.values():
        for _ in range(60):
            broken = bytearray(content)
            for position in generator.integers(0, min(len(broken), 700), 2):
                broken[position] = generator.integers(0, 256)
            path.write_bytes(broken)
            try:
                load_data(path)
            except DataError:
                refused += 1
    assert refused > 60


def test_a_table_gives_the_class_of_torch(tmp_path: Path) -> None:
    data = load_data(written(tmp_path / "a.csv", np.column_stack([LABELS, FLAT])))
    assert data.labels is not None and data.labels.dtype == torch.int64 and data.images.dtype == torch.uint8
