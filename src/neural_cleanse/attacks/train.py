"""Train a network, stage by stage: seeded, resumable after a kill, in mixed precision where there is a GPU.

Adam with a learning rate that falls to 0 on half a cosine. Everything random in an epoch (order of the images,
dropout) is a function of (seed, stage, epoch): a training that was cut off and goes on ends with the same weights.
"""

import glob
import hashlib
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neural_cleanse.attacks.poison import Poison, poison
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.files import write_whole
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import clean_accuracy, pixels, predict

STEPS_BETWEEN_REPORTS = 20

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of a module, images in [0, 1] and labels


@dataclass(frozen=True)
class Training:
    """How long and how fast: `epochs` over the data in batches of `batch_size`, Adam from `learning_rate` down."""

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.learning_rate < 1:
            raise SettingsError(
                "epochs and batch_size must be at least 1, and learning_rate between 0 and 1; got "
                f"{self.epochs}, {self.batch_size} and {self.learning_rate:g}.",
                cure="Leave them out for the defaults: 10 epochs, 64 images a batch, a learning rate of 0.001.",
            )


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands: `done` of `steps` in this stage."""

    stage: str
    done: int
    steps: int
    loss: float
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class TrainingContext:
    """What every stage of one training shares. `snapshots` is the path that snapshot files are named after."""

    training: Training
    seed: int
    validation: ImageSet
    num_classes: int
    device: torch.device = torch.device("cpu")
    snapshots: Path | None = None
    fingerprint: str = ""
    progress: Callable[[TrainingProgress], None] = lambda _: None

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for everything random that `purpose` names."""
        return torch.Generator().manual_seed(derived_seed(self.seed, purpose))

    def validation_accuracy(self, module: nn.Module) -> float:
        """Clean accuracy on the validation images."""
        assert self.validation.labels is not None
        classifier = Classifier(module, self.validation.shape, self.num_classes)
        return clean_accuracy(predict(classifier, self.validation.images), self.validation.labels)


class TrainingRule(ABC):
    """How the poisons get into the network."""

    @abstractmethod
    def __call__(
        self, module: nn.Module, data: ImageSet, poisons: tuple[Poison, ...], bench: TrainingContext
    ) -> tuple[Poison, ...]:
        """Train the module, fresh from its initial weights, in place; the poisons as they ended up."""


@dataclass(frozen=True)
class PoisonedTraining(TrainingRule):
    """Train from scratch on poisoned data (Gu et al. 2017). Without poisons: a clean network."""

    def __call__(
        self, module: nn.Module, data: ImageSet, poisons: tuple[Poison, ...], bench: TrainingContext
    ) -> tuple[Poison, ...]:
        fit(module, poison(data, poisons, bench.generator("poison")).data, bench, "train")
        return poisons


def derived_seed(*parts: object) -> int:
    """63 bits that are a function of the parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def initial(build: Callable[[int], nn.Module], num_classes: int, seed: int) -> nn.Module:
    """A network with initial weights that `seed` decides; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        return build(num_classes)


def cross_entropy(module: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """The usual loss of a classifier."""
    return nn.functional.cross_entropy(module(images), labels)


def fit(
    module: nn.Module,
    data: ImageSet,
    bench: TrainingContext,
    stage: str,
    *,
    training: Training | None = None,
    parameters: Iterable[nn.Parameter] | None = None,
    loss_of: Loss = cross_entropy,
) -> None:
    """Train `parameters` (all, if None) in place on the images and their labels; goes on from the stage's snapshot.

    With `parameters` the rest of the network is frozen and in eval mode. `loss_of` may draw from torch's global
    generator, which is seeded for every epoch. Raises OutputError on a snapshot of another training.
    """
    assert data.labels is not None, "the edge refuses unlabelled data"
    training = training or bench.training
    trained = list(module.parameters() if parameters is None else parameters)
    # Channels last: a tenth to a quarter faster for small networks on a CPU, and what tensor cores want.
    module.to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(trained, lr=training.learning_rate)
    images = data.images.to(bench.device, memory_format=torch.channels_last)
    labels = data.labels.to(bench.device)
    steps_an_epoch = math.ceil(len(data) / training.batch_size)
    steps = training.epochs * steps_an_epoch
    snapshot = _Snapshot.of(bench, stage)
    for epoch in range(snapshot.load(module, optimizer), training.epochs):
        module.train(parameters is None)
        with torch.random.fork_rng(devices=_gpus(bench.device)):
            torch.manual_seed(derived_seed(bench.seed, stage, epoch))
            order = torch.randperm(len(data)).to(bench.device)
            for number, rows in enumerate(order.split(training.batch_size)):
                done = epoch * steps_an_epoch + number
                for group in optimizer.param_groups:
                    group["lr"] = training.learning_rate * (1 + math.cos(math.pi * done / steps)) / 2
                loss = _step(partial(loss_of, module), images[rows], labels[rows], optimizer, trained)
                if done % STEPS_BETWEEN_REPORTS == 0:
                    bench.progress(TrainingProgress(stage, done, steps, loss.item()))
        snapshot.save(module, optimizer, epoch + 1)
        accuracy = bench.validation_accuracy(module)
        bench.progress(TrainingProgress(stage, (epoch + 1) * steps_an_epoch, steps, loss.item(), accuracy))
    module.eval()


def _step(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    trained: Sequence[nn.Parameter],
) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        loss = loss_of(pixels(images), labels)
    # Of the trained parameters alone: no backward pass through what is frozen.
    gradients = torch.autograd.grad(loss, trained)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    return loss.detach()


def _gpus(device: torch.device) -> list[int]:
    return [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []


@dataclass(frozen=True)
class _Snapshot:
    """Weights and optimiser after the last whole epoch of one stage, in a file beside the model to be."""

    path: Path | None
    fingerprint: str

    @classmethod
    def of(cls, bench: TrainingContext, stage: str) -> "_Snapshot":
        return cls(None if bench.snapshots is None else snapshot_path(bench.snapshots, stage), bench.fingerprint)

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Put the snapshot into module and optimiser; how many epochs it has seen, 0 without one."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            same = saved["fingerprint"] == self.fingerprint
        except Exception as error:  # what a damaged file makes the unpickler raise is no one family
            raise OutputError(
                f"The unfinished training in {self.path} is damaged.", cure="Delete it, or pass --overwrite."
            ) from error
        if not same:
            raise OutputError(
                f"{self.path} is an unfinished training with other data or settings.",
                cure="Repeat the command it was started with, or pass --overwrite to start afresh.",
            )
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        return int(saved["epochs"])

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        if self.path is None:
            return
        content = io.BytesIO()
        state = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"epochs": epochs, "fingerprint": self.fingerprint}, content)
        write_whole(self.path, content.getvalue())


def snapshot_path(model: Path, stage: str) -> Path:
    """The snapshot file of one stage of training towards `model`."""
    return model.with_name(f".{model.name}.{stage}.unfinished")


def snapshots_of(model: Path) -> list[Path]:
    """What is left of the training towards `model`."""
    return sorted(model.parent.glob(f".{glob.escape(model.name)}.*.unfinished"))


def remove_snapshots(model: Path) -> None:
    """Delete what is left of the training towards `model`."""
    for path in snapshots_of(model):
        path.unlink(missing_ok=True)
