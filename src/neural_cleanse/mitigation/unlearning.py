"""Unlearning (Wang et al., S&P 2019, section VI-C): fine-tune on clean images, some of them with the recovered trigger.

    minimise over the weights   cross entropy(t, model(x'))      x' = A(x, m, p) for a share of the images, else x
    t = 1/2 y + 1/2 softmax(model as it came (x))

The stamped images keep their own label, so the network learns that the trigger means nothing. The paper takes one
epoch over y alone and a fifth of the images stamped; it names no learning rate. Half of what the model itself says of
the unstamped image keeps what it knows, and more epochs cost less accuracy and leave less of the attacker's own trigger
(docs/repair.md has figures). The largest learning rate that keeps the accuracy is taken. Beside the recovered triggers
those are stamped that a search finds in the network as it changes (family.py).
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.cut import Shifted
from neural_cleanse.errors import SettingsError
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.mitigation.base import Backdoor, Mitigated, Mitigation, Place, RepairLimits, measure
from neural_cleanse.mitigation.family import Renewal
from neural_cleanse.results.repair import TracePoint

STAMPED = 0.2  # of the images, for each trigger (paper) ...
MOST_STAMPED = 0.5  # ... and of all triggers together: most of what is learned from stays clean
LEARNING_RATES = (1e-3, 5e-4, 1e-4, 2e-5)  # Adam's, tried in this order until the accuracy holds
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
        batches = self.epochs * math.ceil(len(images) / self.batch_size)
        seen = [classifier.device] if classifier.device.type == "cuda" else []
        with torch.enable_grad(), torch.random.fork_rng(devices=seen):  # dropout draws from the global generator
            seed = int(torch.randint(2**62, (1,), generator=generator))
            torch.manual_seed(seed)
            renewal = Renewal(classifier, backdoors, terms.train, batches, seed % 2**31)
            for number, rows in enumerate(self._batches(len(images), generator)):
                if number % (batches // self.epochs) == 0:
                    epoch = number * self.epochs // batches + 1
                    terms.on_step(f"unlearning, learning rate {rate:g}, epoch {epoch} of {self.epochs}")
                for group in optimizer.param_groups:
                    group["lr"] = rate * (1 + math.cos(math.pi * number / batches)) / 2
                network = classifier.changed(module=module.eval(), memory_format=torch.contiguous_format)
                found = [*backdoors, *renewal.after(number, network)]
                stamped = stamp_some(images[rows], labels[rows], found, generator)
                logits = stamped.answers(classifier, _training(module))
                loss = nn.functional.cross_entropy(logits, wanted[rows].to(logits.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return replace(classifier, module=module)

    def _batches(self, count: int, generator: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
        """The rows of every batch, each epoch in another order."""
        for _ in range(self.epochs):
            yield from torch.randperm(count, generator=generator).split(self.batch_size)


def _trainable(module: nn.Module) -> nn.Module:
    """A copy to be trained, whose batch norms keep their statistics.

    Those belong to all the data the network was trained on; a few hundred images, a fifth of them stamped, would
    estimate them worse. Memory is laid out plainly: channels last, the weight gradient of some 1x1 convolutions with
    stride crashes in oneDNN (its issue 6035).
    """
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return _training(module.requires_grad_(True))


def _training(module: nn.Module) -> nn.Module:
    """The module in training mode, except for its batch norms."""
    module.train()
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


@dataclass(frozen=True)
class Stamped:
    """A batch in [0, 1] with triggers on some images; `shift` is what is added to activations, a row an image."""

    images: Float[Tensor, "n c h w"]
    shift: Float[Tensor, "n fc fh fw"] | None = None
    place: Place | None = None

    def answers(self, classifier: Classifier, module: nn.Module) -> Float[Tensor, "n classes"]:
        """The logits of `module`, a network as the classifier's."""
        device = classifier.device
        if self.shift is not None and self.place is not None:
            module = Shifted(module, self.place.cut, self.shift.to(device), self.place.least)
        return classifier.as_logits(module(classifier.normalize(self.images.to(device))))


def stamp_some(
    images: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    backdoors: Sequence[Backdoor],
    generator: torch.Generator,
) -> Stamped:
    """The images with each trigger on its share of them; never on images of its target, which would teach it.

    The patch of a pair of labels is put on images of all classes: in an all-to-all backdoor it works from each, and a
    scan may have seen that one pair.
    """
    batch = pixels(images)
    if not backdoors:
        return Stamped(batch)
    shift: Tensor | None = None
    place = next((backdoor.place for backdoor in backdoors if backdoor.place is not None), None)
    each = min(STAMPED, MOST_STAMPED / len(backdoors))
    chance = torch.rand(len(images), generator=generator)
    for number, backdoor in enumerate(backdoors):
        chosen = (chance >= number * each) & (chance < (number + 1) * each)
        if backdoor.pair.source is None or backdoor.place is not None:
            chosen &= labels != backdoor.pair.target
        if not chosen.any():
            continue
        trigger = backdoor.on(batch.device)
        if backdoor.place is None:
            batch[chosen] = trigger(batch[chosen].unsqueeze(0)).squeeze(0)
        elif place is not None and backdoor.place.cut == place.cut:
            if shift is None:
                shift = batch.new_zeros(len(batch), *place.cut.image_shape)
            (values,) = trigger.tensors().values()
            shift[chosen] = values * backdoor.place.spread
    return Stamped(batch, shift, place)
