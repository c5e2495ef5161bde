"""HDF5 files of images, as h5py writes them: X_test and Y_test of the Neural Cleanse authors, or test_set_x."""

from pathlib import Path
from typing import Any

import numpy as np

from neural_cleanse.errors import DataError, ModelError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.array_names import pair_of
from neural_cleanse.loading.cures import AS_NPZ, PICTURES_AGAIN
from neural_cleanse.loading.images.arrays import Arrays, content_of, image_set
from neural_cleanse.loading.keras.hdf5 import Hdf5
from neural_cleanse.loading.memory_limit import allowance, at_most

MARK = b"\x89HDF"


def read_hdf5(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of an HDF5 file. Raises DataError where it has none under a usual name, or cuts or packs them."""
    content = content_of(path)
    try:
        with at_most(allowance(len(content))):
            return image_set(_arrays(content, path, ignore_labels=ignore_labels), path)
    except MemoryError as error:
        raise DataError(
            f"{path} asks for more memory than {len(content):,} bytes can need.", cure=PICTURES_AGAIN
        ) from error
    except ModelError as error:
        raise DataError(error.message, cure=AS_NPZ) from error


def _arrays(content: bytes, path: Path, *, ignore_labels: bool) -> Arrays:
    file = Hdf5(content, str(path))
    names = file.children("")
    pair = pair_of(names)
    if pair is None:
        what = (
            "a Keras model, not images" if "model_weights" in names or "layer_names" in names else "no array 'images'"
        )
        raise DataError(f"{path} has {what}; it has {', '.join(names[:8]) or 'nothing'}.", cure=AS_NPZ)
    images, labels = pair
    held: Any = None if labels is None or ignore_labels else file.numbers(labels)
    return Arrays(np.asarray(file.numbers(images)), held, None, images, labels or "labels")
