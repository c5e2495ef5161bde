"""Fine-tuning, on clean images and on some with triggers, that keeps what the network knows.

    minimise over the weights   cross entropy(t(x), model(x')) + w cross entropy(s(z), model(z))
    x' = A(x, m, p) for a share of the images, else x      t(x) = 1/2 y + 1/2 s(x)
    z  = u x1 + (1 - u) x2, two clean images mixed         s(x) = softmax(model as it came (x))

What the model itself says of unstamped images, and of mixtures of them (as in mixup; Zhang et al., ICLR 2018), keeps
what it knows: few images make many mixtures. Beside the triggers given those are stamped that a search finds in the
network as it changes (family.py).
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.cut import Shifted
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.layers import DROPOUT, NORM, Kinds, set_training
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.mitigation.base import Backdoor, Place, RepairLimits
from neural_cleanse.mitigation.family import Renewal

STAMPED = 0.2  # of the images, for each trigger (paper) ...
MOST_STAMPED = 0.25  # ... and of all triggers together: most of what is learned from stays clean
LEARNING_RATES = (1e-3, 5e-4, 1e-4, 2e-5)  # Adam's, in the order in which they are tried
TAUGHT = 0.5  # weight of the model's own answers beside the labels
MIXED = 64  # mixtures beside every batch ...
LIGHTLY = 0.5  # ... and their weight where they are to leave less
LEAST_BATCHES = 1280  # of a fine-tuning: few images get more epochs


@dataclass(frozen=True)
class Start:
    """The network that a fine-tuning starts from, what it is called, and what is done to it after every step."""

    module: nn.Module
    name: str
    after_step: Callable[[nn.Module], None] = lambda _: None


@dataclass(frozen=True)
class FineTuning:
    """How long and at what rates to train; without backdoors on clean images alone.

    `mixed` mixtures of two images go beside every batch. Images that make fewer than `least_batches` in all epochs get
    more epochs. All triggers together are on a share `most_stamped` of the images at most.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rates: tuple[float, ...] = LEARNING_RATES
    mixed: int = MIXED
    least_batches: int = LEAST_BATCHES
    most_stamped: float = MOST_STAMPED

    def __post_init__(self) -> None:
        rates = self.learning_rates
        counts = (self.epochs, self.batch_size, self.least_batches)
        if min(counts) < 1 or self.mixed < 0 or not rates or not all(0 < rate < 1 for rate in rates):
            raise SettingsError(
                "epochs, least_batches and batch_size must be at least 1, mixed at least 0, and every learning rate "
                f"between 0 and 1; got {counts[0]}, {counts[2]}, {counts[1]}, {self.mixed} and {rates}.",
                cure="Leave out what you have no reason to change: the defaults are measured.",
            )

    def tuned(
        self,
        classifier: Classifier,
        start: Start,
        backdoors: Sequence[Backdoor],
        limits: RepairLimits,
        rate: float,
        weight: float,
        generator: torch.Generator,
    ) -> Classifier:
        """Fine-tuned at that learning rate, mixtures weighing `weight`; the answers of `classifier` are kept."""
        module = _trainable(start.module)
        parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
        optimizer = torch.optim.Adam(parameters, lr=rate)
        images, labels = limits.train.images, limits.train.labels
        assert labels is not None
        wanted = soft_labels(classifier, limits.train)
        a_round = math.ceil(len(images) / self.batch_size)
        epochs = max(self.epochs, math.ceil(self.least_batches / a_round))
        batches = epochs * a_round
        seen = [classifier.device] if classifier.device.type == "cuda" else []
        with torch.enable_grad(), torch.random.fork_rng(devices=seen):  # dropout draws from the global generator
            trained = _trained_kinds(classifier, module)
            seed = int(torch.randint(2**62, (1,), generator=generator))
            torch.manual_seed(seed)
            mixing = torch.Generator().manual_seed(seed)  # its own, for stamping draws as often as there are triggers
            renewal = Renewal(classifier, backdoors, limits.train, batches, seed % 2**31)
            for number, rows in enumerate(self._batches(len(images), epochs, generator)):
                if number % a_round == 0:
                    epoch = number // a_round + 1
                    limits.on_step(f"{start.name}, learning rate {rate:g}, epoch {epoch} of {epochs}")
                for group in optimizer.param_groups:
                    group["lr"] = rate * (1 + math.cos(math.pi * number / batches)) / 2
                network = classifier.changed(module=module.eval(), memory_format=torch.contiguous_format)
                found = [*backdoors, *renewal.after(number, network)]
                each = min(STAMPED, self.most_stamped / max(1, len(found)))
                stamped = stamp_some(images[rows], labels[rows], found, generator, each)
                set_training(module, trained, but=NORM)
                logits = stamped.answers(classifier, module)
                loss = nn.functional.cross_entropy(logits, wanted[rows].to(logits.device))
                if self.mixed:
                    loss = loss + weight * _on_mixtures(classifier, module, mixtures(images, self.mixed, mixing))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                start.after_step(module)
        return replace(classifier, module=module)

    def _batches(self, count: int, epochs: int, generator: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
        """The rows of every batch, each epoch in another order."""
        for _ in range(epochs):
            yield from torch.randperm(count, generator=generator).split(self.batch_size)


def _trainable(module: nn.Module) -> nn.Module:
    """A copy to be trained. Memory is laid out plainly: channels last, the weight gradient of some 1x1 convolutions
    with stride crashes in oneDNN (its issue 6035).
    """
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return module.requires_grad_(True)


@torch.no_grad()
def _trained_kinds(classifier: Classifier, module: nn.Module) -> Kinds:
    """The layers to put in train mode, batch norms always excepted: all, or dropout alone where the whole then answers
    otherwise, as with auxiliary heads.

    Statistics of batch norms belong to all the data the network was trained on; a few hundred images, a fifth of them
    stamped, would estimate them worse.
    """
    set_training(module, nn.Module, but=NORM)
    try:
        images = torch.zeros(2, *classifier.input_shape)
        logits = Stamped(images).answers(classifier, module)
    except Exception:  # the network's own code, made for other uses
        return DROPOUT
    return nn.Module if logits.shape == (len(images), classifier.num_classes) else DROPOUT


def mixtures(images: UInt8[Tensor, "n c h w"], count: int, generator: torch.Generator) -> Float[Tensor, "count c h w"]:
    """Pairs of images drawn at random, mixed by shares drawn at random."""
    one, other = torch.randint(len(images), (2, count), generator=generator)
    shares = torch.rand(count, 1, 1, 1, generator=generator).to(images.device)
    return torch.lerp(pixels(images[other]), pixels(images[one]), shares)


def _on_mixtures(classifier: Classifier, module: nn.Module, mixed: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """The cross entropy of the changed network on mixtures to what the model as it came says of them."""
    with torch.no_grad():
        told = classifier(mixed.to(classifier.device)).softmax(1)
    return nn.functional.cross_entropy(Stamped(mixed).answers(classifier, module), told)


@torch.no_grad()
def soft_labels(classifier: Classifier, data: ImageSet) -> Float[Tensor, "n classes"]:
    """What is to be answered: halfway between the labels and what the model as it came says."""
    assert data.labels is not None, "repair labels what has no labels with the model's own answers"
    parts = [classifier(pixels(part)).softmax(1) for part in data.images.to(classifier.device).split(FORWARD_BATCH)]
    labels = nn.functional.one_hot(data.labels.long(), classifier.num_classes).float()
    return torch.lerp(labels, torch.cat(parts).cpu(), TAUGHT)


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
    share: float,
) -> Stamped:
    """The images with each trigger on that share of them; never on images of its target, which would teach it.

    The patch of a pair of labels is put on images of all classes: in an all-to-all backdoor it works from each, and a
    scan may have seen that one pair.
    """
    batch = pixels(images)
    if not backdoors:
        return Stamped(batch)
    shift: Tensor | None = None
    place = next((backdoor.place for backdoor in backdoors if backdoor.place is not None), None)
    chance = torch.rand(len(images), generator=generator)
    for number, backdoor in enumerate(backdoors):
        chosen = (chance >= number * share) & (chance < (number + 1) * share)
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
