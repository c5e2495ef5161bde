"""Images that `torch.save` wrote: a pair of tensors as torchvision's MNIST has it, a dictionary of them, or one alone.

Read with `weights_only`, which runs nothing of the file.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.errors import DataError, ModelError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.cures import AS_NPZ, PICTURES_AGAIN
from neural_cleanse.loading.images.arrays import content_of
from neural_cleanse.loading.images.pickled import of_values
from neural_cleanse.loading.memory_limit import allowance, at_most
from neural_cleanse.loading.zip_guard import MAX_GROWTH, entries


def is_saved_tensors(path: Path) -> bool:
    """Whether a zip archive is one that torch.save wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist()[:10])
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return False


def read_tensors(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of a file of tensors. Raises DataError when it holds anything else."""
    content = content_of(path)
    try:
        entries(content, str(path))
        with at_most(allowance(len(content))):
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise DataError(
            f"{path} asks for more memory than {len(content):,} bytes can need.", cure=PICTURES_AGAIN
        ) from error
    except ModelError as error:
        raise DataError(error.message, cure=PICTURES_AGAIN) from error
    except Exception as error:  # what a damaged file makes the unpickler raise is no one family
        raise DataError(
            f"{path} holds more than tensors and plain values, or is damaged. Nothing of it was run.", cure=AS_NPZ
        ) from error
    if isinstance(held, Tensor):
        held = {"images": held}
    if isinstance(held, tuple | list) and len(held) > 2:  # newer torchvision adds the class of the data set
        held = tuple(held[:2])
    return of_values(_arrays(held, len(content), path), path, ignore_labels=ignore_labels)


def _arrays(held: Any, num_bytes: int, path: Path) -> Any:
    """The same pair or dictionary, with an array in the place of every tensor."""
    if isinstance(held, Mapping):
        return {key: _array(part, num_bytes, path) for key, part in held.items() if isinstance(part, Tensor | list)}
    if isinstance(held, tuple | list):
        return tuple(_array(part, num_bytes, path) for part in held)
    return held


def _array(value: Any, num_bytes: int, path: Path) -> Any:
    if not isinstance(value, Tensor):
        return value
    plain = value.layout is torch.strided and not (value.is_meta or value.is_nested or value.is_quantized)
    if not plain or value.numel() * value.element_size() > MAX_GROWTH * num_bytes:
        raise DataError(f"{path} holds tensors that its {num_bytes:,} bytes do not fill.", cure=AS_NPZ)
    return (value.float() if value.dtype is torch.bfloat16 else value).detach().resolve_conj().numpy()
