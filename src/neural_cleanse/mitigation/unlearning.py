"""Unlearning (Wang et al., S&P 2019, section VI-C): fine-tune on clean images, some of them with the recovered trigger.

    minimise over the weights   cross entropy(t, model(x'))      x' = A(x, m, p) for a share of the images, else x
    t = 1/2 y + 1/2 softmax(model as it came (x))

The stamped images keep their own label, so the network learns that the trigger means nothing. The paper takes one
epoch over y alone and a fifth of the images stamped; it names no learning rate. Half of what the model itself says of
the unstamped image keeps what it knows, and more epochs cost less accuracy and leave less of the attacker's own trigger
(docs/repair.md has figures). The largest learning rate that keeps the accuracy is taken.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.mitigation.base import Backdoor, Mitigated, Mitigation, RepairLimits, measure
from neural_cleanse.results.repair import TracePoint

STAMPED = 0.2  # of the images, for each trigger (paper) ...
MOST_STAMPED = 0.5  # ... and of all triggers together: most of what is learned from stays clean
LEARNING_RATES = (2e-3, 5e-4, 1e-4, 2e-5)  # Adam's, tried in this order until the accuracy holds
TAUGHT = 0.5  # weight of the model's own answers beside the labels


@dataclass(frozen=True)
class Unlearning(Mitigation):
    """Fine-tune until no trigger works. Without backdoors it is plain fine-tuning on clean images."""

    epochs: int = 5
    batch_size: int = 32
    learning_rates: tuple[float, ...] = LEARNING_RATES

    def __post_init__(self) -> None:
        rates = self.learning_rates
        if self.epochs < 1 or self.batch_size < 1 or not rates or not all(0 < rate < 1 for rate in rates):
            raise SettingsError(
                f"{self.epochs} epochs of batches of {self.batch_size} at learning rates {rates} are no training.",
                cure="At least one epoch and one image a batch, and rates between 0 and 1.",
            )

    def __call__(
        self, classifier: Classifier, backdoors: Sequence[Backdoor], terms: RepairLimits, generator: torch.Generator
    ) -> Mitigated:
        """The first learning rate, from the largest down, that keeps both bounds; else the best that keeps the floor.

        Every rate starts from the classifier as it was given.
        """
        trace: list[TracePoint] = []
        best: tuple[float, Classifier] | None = None
        start = generator.get_state()
        for rate in self.learning_rates:
            generator.set_state(start)
            tuned = self._tune(classifier, backdoors, terms, rate, generator)
            found = measure(tuned, backdoors, terms.check)
            trace.append(TracePoint("unlearning", rate, found.accuracy, found.worst_asr))
            if found.accuracy >= terms.min_accuracy and (best is None or found.worst_asr < best[0]):
                best = found.worst_asr, tuned
            if terms.satisfied(found):
                break
        return Mitigated(None if best is None else best[1], tuple(trace))

    def _tune(
        self,
        classifier: Classifier,
        backdoors: Sequence[Backdoor],
        terms: RepairLimits,
        rate: float,
        generator: torch.Generator,
    ) -> Classifier:
        module = _trainable(classifier.module)
        parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
        optimizer = torch.optim.Adam(parameters, lr=rate)
        images, labels = terms.train.images, terms.train.labels
        assert labels is not None
        wanted = torch.lerp(_one_hot(labels, classifier.num_classes), _answers(classifier, images), TAUGHT)
        batches = math.ceil(len(images) / self.batch_size)
        seen = [classifier.device] if classifier.device.type == "cuda" else []
        with torch.enable_grad(), torch.random.fork_rng(devices=seen):  # dropout draws from the global generator
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            for epoch in range(self.epochs):
                terms.on_step(f"unlearning, learning rate {rate:g}, epoch {epoch + 1} of {self.epochs}")
                order = torch.randperm(len(images), generator=generator)
                for number, rows in enumerate(order.split(self.batch_size)):
                    done = (epoch * batches + number) / (self.epochs * batches)
                    for group in optimizer.param_groups:
                        group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
                    batch = stamp_some(images[rows], labels[rows], backdoors, generator).to(classifier.device)
                    logits = classifier.as_logits(module(classifier.normalize(batch)))
                    loss = nn.functional.cross_entropy(logits, wanted[rows].to(batch.device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        return replace(classifier, module=module)


def _trainable(module: nn.Module) -> nn.Module:
    """A copy in training mode whose batch norms keep their statistics.

    Those belong to all the data the network was trained on; a few hundred images, a fifth of them stamped, would
    estimate them worse. Memory is laid out plainly: channels last, the weight gradient of some 1x1 convolutions with
    stride crashes in oneDNN (its issue 6035).
    """
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module.requires_grad_(True).train()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.eval()
    return module


@torch.no_grad()
def _answers(classifier: Classifier, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
    """What the model as it came says of the images, as probabilities."""
    parts = [classifier(pixels(part)).softmax(1) for part in images.to(classifier.device).split(FORWARD_BATCH)]
    return torch.cat(parts).cpu()


def _one_hot(labels: Int[Tensor, " n"], num_classes: int) -> Float[Tensor, "n classes"]:
    return nn.functional.one_hot(labels.long(), num_classes).float()


def stamp_some(
    images: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    backdoors: Sequence[Backdoor],
    generator: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """The images in [0, 1], each trigger on its share of them; never on images of its target, which would teach it."""
    batch = pixels(images)
    if not backdoors:
        return batch
    each = min(STAMPED, MOST_STAMPED / len(backdoors))
    chance = torch.rand(len(images), generator=generator)
    for number, backdoor in enumerate(backdoors):
        chosen = (chance >= number * each) & (chance < (number + 1) * each) & (labels != backdoor.pair.target)
        if backdoor.pair.source is not None:
            chosen &= labels == backdoor.pair.source
        if chosen.any():
            batch[chosen] = backdoor.on(batch.device)(batch[chosen].unsqueeze(0)).squeeze(0)
    return batch
