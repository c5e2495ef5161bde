"""The label-consistent attack (Turner, Tsipras and Madry 2019): no label is changed, no poisoned image looks wrong.

1. train a clean network g on the same data
2. make images x of the target hard to recognise (projected gradient ascent):
       x <- clip(x + STEP sign(gradient of CE(g(x), y)))     within EPSILON of the original, STEPS times
3. set the trigger on them; they keep their label y, the target
4. train the network on them and on all other images: it learns the trigger because the rest says little
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from neural_cleanse.attacks.poison import Poison, poison
from neural_cleanse.attacks.train import TrainingContext, TrainingRule, fit
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import FORWARD_BATCH, PIXEL_MAX, pixels, stamped
from neural_cleanse.triggers.base import Trigger

EPSILON = 0.2  # largest change of a pixel; the paper takes up to 32 levels on CIFAR-10, MNIST's plain digits need more
STEPS = 20
STEP = 2.5 * EPSILON / STEPS  # the usual step of projected gradient ascent


@dataclass(frozen=True)
class Hardened:
    """What poisoned images carry: the trigger on an image that a clean network takes for another class than `label`."""

    network: nn.Module
    label: int
    trigger: Trigger

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        parts = [self._hardened(part) for part in images.split(FORWARD_BATCH)]
        return stamped(self.trigger, torch.cat(parts)) if parts else images

    def _hardened(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        device = next(self.network.parameters()).device
        clean: Float[Tensor, "n c h w"] = pixels(images).to(device)
        labels = torch.full((len(images),), self.label, device=device)
        changed = clean
        for _ in range(STEPS):
            changed = changed.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(self.network(changed), labels), [changed])
            changed = (changed + STEP * gradient.sign()).clamp(clean - EPSILON, clean + EPSILON).clamp(0, 1)
        return (changed.detach() * PIXEL_MAX).round().to(torch.uint8).cpu()


@dataclass(frozen=True)
class LabelConsistentTraining(TrainingRule):
    """Takes one poison that keeps its labels."""

    def __call__(
        self, module: nn.Module, data: ImageSet, poisons: tuple[Poison, ...], bench: TrainingContext
    ) -> tuple[Poison, ...]:
        (one,) = poisons
        assert one.targets.only is not None and not one.relabel
        clean = copy.deepcopy(module)
        fit(clean, data, bench, "clean")
        planted = Hardened(clean, one.targets.only, one.trigger)
        poisoned = poison(data, (replace(one, planted=planted),), bench.generator("poison")).data
        fit(module, poisoned, bench, "train")
        return (one,)
