"""How a scan runs on this machine: how many images go through the model at once. Chosen once, and recorded.

A stopwatch may choose only between ways that gave the same gradients, bit for bit, in its own trial: the same command
then gives the same result on the same machine, however busy that is. What changes bits is never timed: the memory
format is the classifier's by rule, the precision is the inversion's by request, the threads are what torch was given.
"""

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.inversion import Inversion

# Images in one forward pass where nothing is measured. A GPU wants all it can get (the figures for it were not tried).
BATCH_IMAGES = {"cpu": 128, "cuda": 8192, "mps": 1024}
CANDIDATES = (64, 128, 256, 512)  # on a CPU
TRIAL_SHARE = 0.02  # of the image passes of the scan itself
TRIAL_ROUNDS = 3
WORTH_IT = 0.9  # another batch must take less than this share of the usual one's time for an image
MEMORY_SHARE = 0.5  # of this machine's memory, for one batch
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Trial:
    """One batch size tried: images forward and backward a second, and whether bits were those of the usual batch."""

    batch_images: int
    images_per_s: float
    same_bits: bool


@dataclass(frozen=True)
class Execution:
    """How the scan runs. `chosen` says by what: "asked", "rule", "memory" (less than usual fits) or "measured"."""

    batch_images: int
    chosen: str
    threads: int
    memory_format: str
    precision: str
    bytes_per_image: int
    trials: tuple[Trial, ...] = ()

    def describe(self) -> dict[str, Any]:
        """As plain values, for the record; without the speeds, which differ from run to run."""
        return {name: value for name, value in asdict(self).items() if name != "trials"}


def choose_execution(
    classifier: Classifier,
    inversion: Inversion,
    num_pairs: int,
    *,
    batch_images: int | None = None,
    memory: int | None = None,
) -> Execution:
    """The execution of a search over `num_pairs` label pairs; `batch_images` and `memory` (bytes) override.

    A batch never holds more images than all rows together have, nor fewer than one row has.
    """
    device = classifier.device.type
    least, most = inversion.batch_size, inversion.batch_size * inversion.restarts * max(1, num_pairs)
    per_image = bytes_per_image(classifier)
    usual = BATCH_IMAGES.get(device, BATCH_IMAGES["cpu"])
    trials: tuple[Trial, ...] = ()
    if batch_images is not None:
        images, chosen = batch_images, "asked"
    else:
        fits = int(MEMORY_SHARE * (_memory_of(classifier.device) if memory is None else memory)) // max(1, per_image)
        images, chosen = (usual, "rule") if fits >= min(usual, most) else (fits, "memory")
        if chosen == "rule" and device == "cpu" and torch.get_num_threads() > 1:  # one thread: all sizes the same
            trials = _try(classifier, _affordable(min(fits, most), usual, num_pairs * inversion.passes), usual)
            images, chosen = (_fastest(trials, usual), "measured") if trials else (usual, "rule")
    return Execution(
        batch_images=max(least, min(images, most)),
        chosen=chosen,
        threads=torch.get_num_threads(),
        memory_format=str(classifier.memory_format).removeprefix("torch."),
        precision=inversion.precision,
        bytes_per_image=per_image,
        trials=trials,
    )


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


def _memory_of(device: torch.device) -> int:
    """Bytes that the device, or this machine and its control group, has: not what is free, which changes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 33
    with contextlib.suppress(OSError, ValueError):  # no control group, or the word "max"
        memory = min(memory, int(_CGROUP_LIMIT.read_text()))
    return memory


def _affordable(limit: int, usual: int, passes: int) -> list[int]:
    """Batch sizes to time in a scan of so many image passes: fewer, the shorter it is."""
    sizes = sorted({usual, *(size for size in CANDIDATES if size <= limit)})
    while (TRIAL_ROUNDS + 1) * sum(sizes) > TRIAL_SHARE * passes and len(sizes) > 1:
        sizes.remove(max(size for size in sizes if size != usual))
    return sizes if len(sizes) > 1 else []


def _try(classifier: Classifier, sizes: list[int], usual: int) -> tuple[Trial, ...]:
    """Every size timed on the same random images, in turn."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(max(sizes, default=0), *classifier.input_shape, generator=generator).to(classifier.device)
    gradients = {size: _gradient(classifier, images[:size]) for size in sizes}
    seconds = dict.fromkeys(sizes, float("inf"))
    for _ in range(TRIAL_ROUNDS):
        for size in sizes:
            began = time.perf_counter()
            _gradient(classifier, images[:size])
            seconds[size] = min(seconds[size], time.perf_counter() - began)
    return tuple(
        Trial(size, size / seconds[size], torch.equal(*(gradients[n][: min(size, usual)] for n in (size, usual))))
        for size in sizes
    )


def _gradient(classifier: Classifier, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """One forward and backward pass to the images."""
    with torch.enable_grad():
        images = images.clone().requires_grad_()
        return torch.autograd.grad(classifier(images).sum(), images)[0]


def _fastest(trials: tuple[Trial, ...], usual: int) -> int:
    """The size to take: the usual one, unless another of the same bits is clearly faster."""
    best = max((trial for trial in trials if trial.same_bits), key=lambda trial: trial.images_per_s)
    (known,) = (trial for trial in trials if trial.batch_images == usual)
    return best.batch_images if known.images_per_s < WORTH_IT * best.images_per_s else usual
