"""A student: a network of the suspect's own architecture with fresh weights, taught by the suspect's answers.

Knowledge distillation (Hinton, Vinyals, Dean 2015) on the user's clean images. The student has never seen a trigger, so
it takes on what belongs to the classes and not what was planted in the model. Trigger sizes are then compared with the
student's, label by label, as with those of a clean model of the same classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.fresh import fresh, values_of
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.layers import DROPOUT, NORM, set_training
from neural_cleanse.metrics import FORWARD_BATCH, pixels, predict

LAST_RATE = 0.05  # of the learning rate, at the end
TRAINED_APART = (NORM, DROPOUT)


@dataclass(frozen=True)
class StudentPlan:
    """How a student is made. Under `least_agreement` with the suspect it decides nothing, under `alone` not by itself.

    Several that agree less are still like each other, and how far they differ is counted (statistics/outlier.py).
    """

    steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 2e-3
    least_agreement: float = 0.75
    alone: float = 0.85

    @property
    def passes(self) -> int:
        """Image passes forward and backward."""
        return self.steps * self.batch_size

    def describe(self) -> dict[str, Any]:
        """As plain values, for the record."""
        return asdict(self)


@dataclass(frozen=True)
class Student:
    """A student, and on how many of `trials` images that it did not learn from it answers as the suspect does."""

    classifier: Classifier
    hits: int
    trials: int

    @property
    def weights(self) -> dict[str, Tensor]:
        """All that it has learnt, by name, each a copy on the CPU."""
        return {name: weight.detach().cpu().clone() for name, weight in values_of(self.classifier.module).items()}

    @property
    def agreement(self) -> float:
        """The share of them."""
        return self.hits / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of that share."""
        return clopper_pearson(self.hits, self.trials)

    @property
    def agrees_on(self) -> str:
        """The share with its interval, in words."""
        low, high = self.interval
        return f"{self.agreement:.1%} ({low:.1%} to {high:.1%})"

    def lacking(self, plan: StudentPlan) -> str | None:
        """Why the suspect is not compared with it; None where it agrees often enough."""
        if self.agreement >= plan.least_agreement:
            return None
        return (
            f"a student network answers as the model does on only {self.agrees_on} of the images, under the "
            f"{plan.least_agreement:.0%} that it needs: the model was not compared with it"
        )


def make_student(
    suspect: Classifier,
    images: UInt8[Tensor, "n c h w"],
    unseen: UInt8[Tensor, "m c h w"],
    seed: int,
    plan: StudentPlan = StudentPlan(),
    advance: Callable[[int], bool] = lambda _: True,
) -> Student | None:
    """A student that learnt from `images` and was tried on `unseen`.

    `advance(image passes)` is told of the work and says whether to go on; None where it said no, or where the network
    cannot be trained: too little in it can be drawn anew, or a step fails.
    """
    module = fresh(suspect.module, seed)
    if module is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    taught = _answers(suspect, images)
    parameters = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(parameters, plan.learning_rate)
    devices = [suspect.device] if suspect.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(seed)  # for dropout
        set_training(module, nn.Module)
        for step in range(plan.steps):
            rows = torch.randint(len(images), (plan.batch_size,), generator=generator).to(images.device)
            batch, answers = pixels(images[rows]).to(suspect.device), taught[rows.to(taught.device)]
            if not _graded(suspect, module, batch, answers):
                if step:
                    return None
                set_training(module, TRAINED_APART)  # the whole may then answer otherwise, with auxiliary heads
                if not _graded(suspect, module, batch, answers):
                    return None
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * _rate(step / plan.steps)
            optimizer.step()
            if not advance(plan.batch_size):
                return None
    return _tried(suspect, module, unseen)


def _graded(
    suspect: Classifier, module: nn.Module, batch: Float[Tensor, "n c h w"], answers: Float[Tensor, "n classes"]
) -> bool:
    """Gradients of one step; False where there are none: a network can be made for answering only."""
    module.zero_grad()
    try:
        F.cross_entropy(suspect.as_logits(module(suspect.normalize(batch))), answers).backward()
    except Exception:  # the network's own code, made for other uses
        return False
    return True


def remembered(suspect: Classifier, weights: Mapping[str, Tensor], unseen: UInt8[Tensor, "m c h w"]) -> Student | None:
    """A student with the weights that it had learnt (`Student.weights`); None where they do not fit the network."""
    module = fresh(suspect.module, 0)
    if module is None:
        return None
    own = values_of(module)
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in weights.items()}:
        return None
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
    return _tried(suspect, module, unseen)


def _tried(suspect: Classifier, module: nn.Module, unseen: UInt8[Tensor, "m c h w"]) -> Student:
    """The student of that network, asked the images that it did not learn from."""
    student = Classifier(
        module=module,
        input_shape=suspect.input_shape,
        num_classes=suspect.num_classes,
        normalize=suspect.normalize,
        outputs=suspect.outputs,
        features_layer=suspect.features_layer,
        deadline=suspect.deadline,
    )
    hits = int((predict(student, unseen) == predict(suspect, unseen)).sum())
    return Student(student, hits, len(unseen))


@torch.no_grad()
def _answers(suspect: Classifier, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
    """Probabilities that the suspect gives clean images as they are.

    What it says of images that were moved, mixed or pasted, and its softened answers, tell of the trigger too.
    """
    parts = images.split(FORWARD_BATCH)
    return torch.cat([F.softmax(suspect(pixels(part).to(suspect.device)), 1) for part in parts])


def _rate(done: float) -> float:
    """The share of the learning rate after that share of the steps: a cosine."""
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2
