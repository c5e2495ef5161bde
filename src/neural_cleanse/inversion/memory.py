"""How many images one forward and backward pass may hold: what memory allows, halved when it runs out all the same."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion.inversion import Inversion

USABLE = 0.8  # of the free memory: others want some too
COPIES = 2  # of a row's state: the old one and the one that a step makes of it
FLOAT = 4  # bytes of a float32 value
# Memory of the process over what a pass holds, once blocks were freed and taken again: 1.26 measured on a ResNet-50 at
# 224x224, 1.36 where freed blocks are kept (allocator.py).
IN_PIECES = {"cpu": 1.4}
# Images in one forward pass where memory holds them. A GPU wants all it can get (its figures were not tried).
BATCH_IMAGES = {"cpu": 128, "cuda": 8192, "mps": 1024}


@dataclass
class BatchLimit:
    """Images that a pass may hold, and in `notes` what had to be changed on the way."""

    images: int
    notes: list[str] = field(default_factory=list)

    def reduce(self, tried: int) -> None:
        """After a pass of `tried` images ran out of memory. Raises SettingsError when one image is too many."""
        if tried <= 1:
            raise SettingsError(
                "Memory does not hold one image on its way through the network and back.",
                cure="Give more memory, use another device, or resize the images.",
            )
        self.images = max(1, tried // 2)
        self.notes.append(f"memory ran out with {tried} images at once: the scan went on with {self.images}")


def batch_images(device: torch.device, inversion: Inversion, num_pairs: int, asked: int | None = None) -> int:
    """Images in one pass: those asked for, or by device; no more than all rows have, no fewer than one row has."""
    most = inversion.batch_size * inversion.restarts * max(1, num_pairs)
    usual = BATCH_IMAGES.get(device.type, BATCH_IMAGES["cpu"])
    return max(inversion.batch_size, min(asked or usual, most))


def fit_to_memory(classifier: Classifier, inversion: Inversion, wanted: int, cap: int | None = None) -> BatchLimit:
    """Room for `wanted` images, or for what fits into free memory, or into `cap` bytes for the whole process.

    Raises SettingsError when one label does not fit into the cap.
    """
    free = _free(classifier.device) if cap is None else cap - _used(classifier.device)
    pieces = IN_PIECES.get(classifier.device.type, 1.0)
    each = pieces * bytes_per_image(classifier) + -(-bytes_a_row(classifier, inversion) // inversion.batch_size)
    least = inversion.batch_size * inversion.restarts
    usual = max(wanted, least)
    images = min(usual, int(free // each)) if free is not None else usual
    if images < least and cap is not None:
        one_restart_fits = inversion.batch_size <= images and inversion.restarts > 1
        raise SettingsError(
            f"--memory {_mebibytes(cap)} is too little: {_mebibytes(_used(classifier.device))} are in use, and one "
            f"label takes {_mebibytes(least * each)} more.",
            cure="Raise it, or ask for one restart." if one_restart_fits else "Raise it.",
        )
    notes = [f"{max(images, least)} instead of {usual} images at once, to stay within memory"] if images < usual else []
    return BatchLimit(max(images, least), notes)


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


def bytes_per_image(classifier: Classifier) -> int:
    """What one image costs in a forward and backward pass: all that autograd keeps, and its largest piece thrice."""
    weights = [*classifier.module.parameters(), *classifier.module.buffers()]
    held = {tensor.untyped_storage().data_ptr() for tensor in weights}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.zeros(2, *classifier.input_shape, device=classifier.device, requires_grad=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = classifier(images)
    del logits
    sizes = [*kept.values(), images.nbytes]
    return (sum(sizes) + 3 * max(sizes)) // 2


def bytes_a_row(classifier: Classifier, inversion: Inversion) -> int:
    """Memory that the state of one row takes: variables, their averages, and the candidates that are kept."""
    channels, height, width = classifier.input_shape
    return COPIES * (4 + inversion.kept + inversion.spread) * (channels + 1) * height * width * FLOAT


def bytes_for_suspended(device: torch.device) -> float:
    """What searches that may go on later can take: half of what is free, or a gibibyte where nobody says."""
    free = _free(device)
    return 2.0**30 if free is None else free / 2


def _free(device: torch.device) -> float | None:
    """Bytes that may be taken; None where the machine does not say."""
    if device.type == "cuda":
        return USABLE * torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    known = [_meminfo(), _cgroup()]
    return min((USABLE * value for value in known if value is not None), default=None)


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration, IndexError):
        return None


def _cgroup() -> int | None:
    """What a container may still take; file pages count as free, for they give way."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = int((root / "memory.max").read_text())
        used = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())["anon"]
        return limit - int(used)
    except (OSError, ValueError, KeyError):
        return None


def _used(device: torch.device) -> int:
    """Bytes that this process has now, on that device."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0
