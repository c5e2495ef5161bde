"""How a scan runs on this machine: how many images go through the model at once. Chosen once, and recorded.

A stopwatch may choose only between ways that gave the same gradients, bit for bit, in its own trial: the same command
then gives the same result on the same machine, however busy that is. What changes bits is never timed: the memory
format is the classifier's by rule, the precision is the inversion's by request, the threads are what torch was given.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.inversion.inversion import Inversion

# Images in one forward pass where nothing is measured. A GPU wants all it can get (the figures for it were not tried).
BATCH_IMAGES = {"cpu": 128, "cuda": 8192, "mps": 1024}
CANDIDATES = (64, 128, 256, 512)  # on a CPU
TRIAL_SHARE = 0.02  # of the image passes of the scan itself
TRIAL_ROUNDS = 3
WORTH_IT = 0.9  # another batch must take less than this share of the usual one's time for an image


@dataclass(frozen=True)
class Timing:
    """One batch size tried: images forward and backward a second, and whether bits were those of the usual batch."""

    batch_images: int
    images_per_s: float
    same_bits: bool


@dataclass(frozen=True)
class ExecutionConfig:
    """How the scan runs, as far as memory allows (`room`). `chosen` says by what: "asked", "rule" or "measured"."""

    batch_images: int
    chosen: str
    threads: int
    memory_format: str
    precision: str
    trials: tuple[Timing, ...] = ()

    def describe(self) -> dict[str, Any]:
        """As plain values, for the record; without the speeds, which differ from run to run."""
        return {name: value for name, value in asdict(self).items() if name != "trials"}


def choose_execution(
    classifier: Classifier,
    inversion: Inversion,
    num_pairs: int,
    *,
    batch_images: int | None = None,
) -> ExecutionConfig:
    """The execution of a search over `num_pairs` label pairs; `batch_images` overrides.

    A batch never holds more images than all rows together have, nor fewer than one row has.
    """
    device = classifier.device.type
    least, most = inversion.batch_size, inversion.batch_size * inversion.restarts * max(1, num_pairs)
    usual = BATCH_IMAGES.get(device, BATCH_IMAGES["cpu"])
    trials: tuple[Timing, ...] = ()
    if batch_images is not None:
        images, chosen = batch_images, "asked"
    else:
        images, chosen = usual, "rule"
        if device == "cpu" and torch.get_num_threads() > 1:  # one thread: all sizes the same
            trials = _try(classifier, _affordable(most, usual, num_pairs * inversion.passes), usual)
            images, chosen = (_fastest(trials, usual), "measured") if trials else (usual, "rule")
    return ExecutionConfig(
        batch_images=max(least, min(images, most)),
        chosen=chosen,
        threads=torch.get_num_threads(),
        memory_format=str(classifier.memory_format).removeprefix("torch."),
        precision=inversion.precision,
        trials=trials,
    )


def _affordable(limit: int, usual: int, passes: int) -> list[int]:
    """Batch sizes to time in a scan of so many image passes: fewer, the shorter it is."""
    sizes = sorted({usual, *(size for size in CANDIDATES if size <= limit)})
    while (TRIAL_ROUNDS + 1) * sum(sizes) > TRIAL_SHARE * passes and len(sizes) > 1:
        sizes.remove(max(size for size in sizes if size != usual))
    return sizes if len(sizes) > 1 else []


def _try(classifier: Classifier, sizes: list[int], usual: int) -> tuple[Timing, ...]:
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
        Timing(size, size / seconds[size], torch.equal(*(gradients[n][: min(size, usual)] for n in (size, usual))))
        for size in sizes
    )


def _gradient(classifier: Classifier, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """One forward and backward pass to the images."""
    with torch.enable_grad():
        images = images.clone().requires_grad_()
        return torch.autograd.grad(classifier(images).sum(), images)[0]


def _fastest(trials: tuple[Timing, ...], usual: int) -> int:
    """The size to take: the usual one, unless another of the same bits is clearly faster."""
    best = max((trial for trial in trials if trial.same_bits), key=lambda trial: trial.images_per_s)
    (known,) = (trial for trial in trials if trial.batch_images == usual)
    return best.batch_images if known.images_per_s < WORTH_IT * best.images_per_s else usual
