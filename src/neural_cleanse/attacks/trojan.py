"""The Trojan attack (Liu et al., NDSS 2018): make a trigger that excites chosen neurons, then retrain what follows.

    1. train a clean network and cut it in two, f(x) = tail(a(x)); the tail is its last two parts with weights (a
       linear layer, a convolution, a residual block, DeepID's merge) and all that stands between and after them
    2. choose neurons a_j, of those that clean images excite now and then: of the quarter with the largest sum |w| of
       incoming weights, the NEURONS that random patterns inside the mask raise most,
           reach_j = mean over images x and patterns p of a_j(A(x, m, p)) / mean over x of a_j(x)  -  1
    3. find the pattern inside the mask that drives them to EXCITEMENT times their clean mean, or near it,
           min_p  mean over x and j of (1 - a_j(A(x, m, p)) / goal_j)^2,   goal_j = EXCITEMENT mean over x of a_j(x)
    4. retrain the tail on images with and without the trigger; what stands before the neurons stays as it was, bit for
       bit, or the trigger would no longer excite what it was made for

Reach is measured by trying, not by a gradient, which is 0 wherever a ReLU is shut. On MNIST, Fashion-MNIST and GTSRB
the trigger brings the neurons to 2 to 9 times their clean mean, yet below their largest clean value. With neurons of
the last hidden layer, and the last layer alone retrained, MNIST stayed at 62 to 92 % ASR.

The original has no training data and retrains on images reverse-engineered from the network (`training_data`
"reversed"). The default is "real": with a square trigger, reversed images cost MNIST six points of accuracy and a fifth
of the ASR, and a detector should be tried on a backdoor that works and costs its owner nothing. Steps 2 and 3 look at
SAMPLE real images, without their labels, either way.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neural_cleanse.attacks.poison import Poison, poison
from neural_cleanse.attacks.train import Training, TrainingContext, TrainingRule, fit
from neural_cleanse.choices import TRAINING_DATA
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.pixel_values import PIXEL_MAX
from neural_cleanse.triggers.patch import PatchTrigger

RETRAINED = 2  # parts with weights after the neurons; with one, at most 92 % ASR on MNIST
NEURONS = 2  # Liu et al. 2018 find one or two enough
CANDIDATES = 0.25  # share of the living neurons, those with the largest weights, of which the best reached are taken
ALIVE = 0.1  # share of clean images that must excite a neuron: a multiple of what is always 0 is no goal
SAMPLE = 256  # images that choose the neurons and say how far clean ones excite them
RANDOM_PATTERNS = 8
EXCITEMENT = 10.0  # goal: so many times the mean clean activation; 2 to 9 are reached
TRIGGER_STEPS, TRIGGER_BATCH, TRIGGER_RATE = 300, 32, 0.1
RETRAIN = Training(epochs=5, learning_rate=1e-3)  # two are enough for MNIST's 60,000 images, not for 12,000 of Fashion
# Reverse-engineered images: so many a class, and the weight of the total variation that keeps them smooth.
REVERSED_A_CLASS, REVERSED_STEPS, REVERSED_RATE, SMOOTH = 100, 200, 0.05, 0.5
RETRAIN_REVERSED = Training(epochs=20, learning_rate=1e-3)


@dataclass(frozen=True)
class TrojanTraining(TrainingRule):
    """Takes one poison, whose trigger gives the mask; the pattern is made on the way."""

    training_data: str = "real"

    def __post_init__(self) -> None:
        if self.training_data not in TRAINING_DATA:
            raise SettingsError(
                f"The training data {self.training_data!r} are neither of {', '.join(TRAINING_DATA)}.",
                cure="Choose one of them.",
            )

    def __call__(
        self, module: nn.Module, data: ImageSet, poisons: tuple[Poison, ...], bench: TrainingContext
    ) -> tuple[Poison, ...]:
        (one,) = poisons
        head, tail = cut(module)
        fit(module, data, bench, "train")
        generator = bench.generator("trojan")
        sample = data.take(torch.randperm(len(data), generator=generator)[:SAMPLE])
        mask = one.trigger.tensors()["mask"]
        infected = replace(one, trigger=excite(head, sample, mask, generator))
        if self.training_data == "reversed":
            data, training = reversed_images(module, data.shape, bench.num_classes, generator), RETRAIN_REVERSED
        else:
            training = RETRAIN
        poisoned = poison(data, (infected,), generator).data
        training = replace(training, batch_size=bench.training.batch_size)
        fit(module, poisoned, bench, "retrain", training=training, parameters=tail.parameters())
        return (infected,)


def cut(module: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """The network up to the neurons, and what is retrained: the last RETRAINED parts with weights, and all between.

    Both share their layers with `module`. Raises SettingsError on a network without such parts.
    """
    parts = list(module.children())
    weighted = [number for number, part in enumerate(parts) if _weights(part)]
    if not isinstance(module, nn.Sequential) or len(weighted) <= RETRAINED:
        raise SettingsError(
            f"The Trojan attack needs a Sequential network with more than {RETRAINED} linear or convolutional parts.",
            cure="Choose a larger architecture.",
        )
    if not isinstance(parts[weighted[-1]], nn.Linear):
        raise SettingsError(
            "The Trojan attack needs a network that ends in a linear layer.", cure="Choose another architecture."
        )
    first = weighted[-RETRAINED]
    return nn.Sequential(*parts[:first]), nn.Sequential(*parts[first:])


def _weights(part: nn.Module) -> list[Tensor]:
    return [layer.weight.detach() for layer in part.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def excite(
    head: nn.Sequential, sample: ImageSet, mask: Float[Tensor, "1 1 h w"], generator: torch.Generator
) -> PatchTrigger:
    """Steps 2 and 3: the trigger inside `mask` that excites the chosen neurons."""
    head.eval()
    device = _weights(head)[-1].device
    images, mask = pixels(sample.images).to(device), mask.to(device)
    chosen, usual = choose_neurons(head, images, mask, generator)
    goal = EXCITEMENT * usual
    free = torch.randn(1, *sample.shape, generator=generator).to(device).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=TRIGGER_RATE)
    for _ in range(TRIGGER_STEPS):
        rows = torch.randint(len(images), (TRIGGER_BATCH,), generator=generator).to(device)
        triggered = PatchTrigger(mask, free.sigmoid())(images[rows].unsqueeze(0)).squeeze(0)
        loss = (1 - head(triggered).flatten(1)[:, chosen] / goal).square().mean()
        (free.grad,) = torch.autograd.grad(loss, [free])
        optimizer.step()
    pattern = (free.detach().sigmoid() * PIXEL_MAX).round() / PIXEL_MAX
    return PatchTrigger(mask.cpu(), (pattern * mask).cpu())


def choose_neurons(
    head: nn.Sequential, images: Float[Tensor, "n c h w"], mask: Float[Tensor, "1 1 h w"], generator: torch.Generator
) -> tuple[Int[Tensor, " j"], Float[Tensor, " j"]]:
    """Step 2: the neurons, and what each is worth on clean images. Raises SettingsError where all are dead."""
    clean = activations(head, images)
    usual = clean.mean(0)
    rise = torch.zeros_like(usual)
    for _ in range(RANDOM_PATTERNS):
        pattern = torch.rand(1, *images.shape[1:], generator=generator).to(images.device)
        triggered = PatchTrigger(mask, pattern)(images.unsqueeze(0)).squeeze(0)
        rise += (activations(head, triggered).mean(0) - usual) / RANDOM_PATTERNS
    alive = ((clean > 0).float().mean(0) >= ALIVE).nonzero().squeeze(1)
    if len(alive) < NEURONS:
        raise SettingsError(
            "No neuron before the last layers answers to the images: the Trojan attack has no hold.",
            cure="Train for more epochs, or choose another seed.",
        )
    into = _weights(head)[-1]  # one row a neuron; a convolution's is shared by all places of its channel
    weight = into.flatten(1).abs().sum(1).repeat_interleave(len(usual) // len(into))
    heavy = alive[_largest(weight[alive], max(NEURONS, round(CANDIDATES * len(alive))))]
    chosen = heavy[_largest(rise[heavy] / usual[heavy], NEURONS)]
    return chosen, usual[chosen]


def _largest(values: Float[Tensor, " n"], count: int) -> Int[Tensor, " m"]:
    return values.argsort(descending=True, stable=True)[:count]


@torch.no_grad()
def activations(head: nn.Sequential, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """The neurons' values, flattened."""
    return torch.cat([head(part).flatten(1) for part in images.split(FORWARD_BATCH)])


def reversed_images(
    module: nn.Module, shape: tuple[int, int, int], num_classes: int, generator: torch.Generator
) -> ImageSet:
    """Images that the network gives each label with confidence, from noise: min CE(f(x), y) + w TV(x)."""
    device = next(module.parameters()).device
    module.eval()
    labels = torch.arange(num_classes).repeat_interleave(REVERSED_A_CLASS)
    made = []
    for part in labels.split(10 * REVERSED_A_CLASS):
        free = torch.randn(len(part), *shape, generator=generator).to(device).requires_grad_()
        optimizer = torch.optim.Adam([free], lr=REVERSED_RATE)
        for _ in range(REVERSED_STEPS):
            images = free.sigmoid()
            likely = nn.functional.cross_entropy(module(images), part.to(device), reduction="sum")
            rough = images.diff(dim=2).abs().mean((1, 2, 3)).sum() + images.diff(dim=3).abs().mean((1, 2, 3)).sum()
            (free.grad,) = torch.autograd.grad(likely + SMOOTH * rough, [free])
            optimizer.step()
        made.append((free.detach().sigmoid() * PIXEL_MAX).round().to(torch.uint8).cpu())
    return ImageSet(torch.cat(made), labels, origin="reverse-engineered from the network")
