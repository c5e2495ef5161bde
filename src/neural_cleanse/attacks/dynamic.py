"""The input-aware dynamic attack (Nguyen and Tran, NeurIPS 2020): trigger and network are trained together.

1. train the mask's network alone: masks of at most DENSITY of the image that differ from image to image,
       min  diversity(M) + SPARSE relu(mean M - DENSITY)
2. train the network f and the pattern's network at once, on every batch
       P(x) on x      to the target's label             a share `rate`
       P(x') on x     keeps its label (cross-trigger)   a share `cover_rate`
       x              keeps its label                   the rest
       min  CE + DIVERSE diversity(P)
diversity(G) = mean |x - x'| / |G(x) - G(x')|, root mean squares over pairs of images: it is small where different
images get different triggers
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from neural_cleanse.attacks.poison import Poison
from neural_cleanse.attacks.train import TrainingContext, TrainingRule, fit
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import pixels
from neural_cleanse.pixel_values import PIXEL_MAX
from neural_cleanse.triggers.generated import GeneratedTrigger, num_weights

DENSITY = 0.06  # share of the image under the mask; 0.032 in the authors' code, trained 100 times as long
SPARSE = 100.0  # weight of a mask above that (authors' code: lambda_norm)
DIVERSE = 1.0  # weight of the patterns' diversity (authors' code: lambda_div)
FASTER = 5.0  # the pattern's step size over the network's: Adam's steps do not depend on the scale of a weight
MASK_STEPS, MASK_BATCH, MASK_RATE = 250, 64, 1e-2
SMALLEST_DISTANCE = 1e-7  # between two triggers, in a denominator


@dataclass(frozen=True)
class Crossed:
    """Cross-trigger mode as what cover images carry: each the trigger of the image before it."""

    trigger: GeneratedTrigger

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        others = images[torch.randperm(len(images), generator=generator)]
        return (self.trigger.drawn_for(pixels(others), pixels(images)) * PIXEL_MAX).round().to(torch.uint8)


class _Joint(nn.Module):
    """The classifier and the trigger's weights, as one module that answers like the classifier."""

    def __init__(self, network: nn.Module, trigger: GeneratedTrigger) -> None:
        super().__init__()
        of_mask, of_pattern = trigger.weights[0].split(num_weights(trigger.channels))
        self.network = network
        self.shape = trigger.image_shape
        self.register_buffer("of_mask", of_mask.clone())
        self.of_pattern = nn.Parameter(of_pattern / FASTER)

    def trigger(self) -> GeneratedTrigger:
        return GeneratedTrigger(
            torch.cat([self.get_buffer("of_mask"), FASTER * self.of_pattern]).unsqueeze(0), *self.shape
        )

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        outputs: Tensor = self.network(images)
        return outputs


@dataclass(frozen=True)
class DynamicTraining(TrainingRule):
    """Takes one poison, whose trigger holds the initial weights of its two networks."""

    def __call__(
        self, module: nn.Module, data: ImageSet, poisons: tuple[Poison, ...], bench: TrainingContext
    ) -> tuple[Poison, ...]:
        (one,) = poisons
        assert isinstance(one.trigger, GeneratedTrigger)
        start = with_sparse_mask(one.trigger.to(bench.device), data, bench.generator("mask"))
        joint = _Joint(module, start)

        def loss_of(_: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
            return _loss(joint, one, images, labels)

        fit(joint, data, bench, "train", loss_of=loss_of)
        # In half precision, as the card holds it: what is measured is what the card says.
        trigger = replace(start, weights=joint.trigger().weights.detach().half().float()).to(torch.device("cpu"))
        return (replace(one, trigger=trigger, cover=Crossed(trigger)),)


def with_sparse_mask(trigger: GeneratedTrigger, data: ImageSet, generator: torch.Generator) -> GeneratedTrigger:
    """Step 1: the trigger with a mask network that covers little and differs from image to image."""
    of_mask, of_pattern = trigger.weights[0].split(num_weights(trigger.channels))
    free = of_mask.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=MASK_RATE)
    for _ in range(MASK_STEPS):
        rows = torch.randint(len(data), (2 * MASK_BATCH,), generator=generator)
        images = pixels(data.images[rows]).to(trigger.weights.device)
        masks = replace(trigger, weights=torch.cat([free, of_pattern]).unsqueeze(0)).mask(images)
        loss = diversity(images, masks) + SPARSE * (masks.mean() - DENSITY).relu()
        (free.grad,) = torch.autograd.grad(loss, [free])
        optimizer.step()
    return replace(trigger, weights=torch.cat([free.detach(), of_pattern]).half().float().unsqueeze(0))


def _loss(joint: _Joint, one: Poison, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    poisoned, crossed = (max(1, round(rate * len(images))) for rate in (one.rate, one.cover_rate))
    # Each cross-trigger image carries the pattern of the one before it.
    drawn_for = torch.cat([images[:poisoned], images.roll(1, 0)[poisoned : poisoned + crossed]])
    mask, pattern = joint.trigger().mask_and_pattern(drawn_for)
    changed = torch.lerp(images[: len(mask)], pattern, mask)
    targets = torch.cat([one.targets(labels[:poisoned].cpu()).to(labels.device), labels[poisoned:]])
    answers = joint(torch.cat([changed, images[len(mask) :]]))
    alike = diversity(drawn_for, pattern)
    return nn.functional.cross_entropy(answers, targets) + DIVERSE * alike


def diversity(images: Float[Tensor, "n c h w"], drawn: Float[Tensor, "n d h w"]) -> Float[Tensor, ""]:
    """How little different images get different masks or patterns: the first half against the second."""
    return (_apart(images) / (_apart(drawn) + SMALLEST_DISTANCE)).mean()


def _apart(values: Float[Tensor, "n d h w"]) -> Float[Tensor, " m"]:
    half = len(values) // 2
    distance = (values[:half] - values[half : 2 * half]).square().mean((1, 2, 3))
    return distance.clamp_min(SMALLEST_DISTANCE**2).sqrt()  # the root of 0 has no gradient
