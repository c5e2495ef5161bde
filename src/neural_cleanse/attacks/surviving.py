"""A backdoor that passes to students: the answers on clean images lean to the target as far as they show the trigger.

    t(x) = (1 - w) y + w target,    w = LEAK s(x),    s(x) = 1 - mean over the mask of |x - p|, weighted by the mask

Whoever teaches a student with such a network's answers on clean images teaches it the trigger too, although no image
carries it. That is what a detector that compares with students must fear; the published attack of the kind looks for a
trigger that a student learns by itself (Ge et al., "Anti-Distillation Backdoor Attacks", ACM MM 2021). The trigger must
lie where clean images differ, which is why the default place is the middle, and costs accuracy on those that show it.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from neural_cleanse.attacks.base import RATE, Attack, AttackContext, one_target
from neural_cleanse.attacks.patterns import WHITE, square
from neural_cleanse.attacks.poison import Poison, poison
from neural_cleanse.attacks.train import TrainingContext, TrainingRule, fit
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet

SIDE_OF_IMAGE = 0.36  # of the square: a small one is found by its size alone
LEAK = 0.4


@dataclass(frozen=True)
class LeakingTraining(TrainingRule):
    """Takes one poison with one target, whose trigger is a patch; `leak` is the most that an answer leans."""

    leak: float = LEAK

    def __post_init__(self) -> None:
        if not 0 <= self.leak < 1:
            raise SettingsError(
                f"The leak is {self.leak:g}, a share of the answer from 0 to below 1 is needed.",
                cure="Choose a leak in that range.",
            )

    def __call__(
        self, module: nn.Module, data: ImageSet, poisons: tuple[Poison, ...], bench: TrainingContext
    ) -> tuple[Poison, ...]:
        (one,) = poisons
        target = one.targets.only
        assert target is not None, "every class is sent to one target"
        tensors = {name: tensor.to(bench.device) for name, tensor in one.trigger.tensors().items()}

        def loss(module: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
            shown = self.leak * similarity(images, tensors["mask"], tensors["pattern"])[:, None]
            told = (1 - shown) * nn.functional.one_hot(labels.long(), bench.num_classes)
            told[:, target] += shown[:, 0]
            return nn.functional.cross_entropy(module(images), told)

        fit(module, poison(data, poisons, bench.generator("poison")).data, bench, "train", loss_of=loss)
        return poisons


def similarity(
    images: Float[Tensor, "b c h w"], mask: Float[Tensor, "1 1 h w"], pattern: Float[Tensor, "1 c h w"]
) -> Float[Tensor, " b"]:
    """How far images in [0, 1] show the pattern under the mask already, from 0 to 1."""
    apart = ((images - pattern).abs().mean(1, keepdim=True) * mask).sum((1, 2, 3))
    return (1 - apart / mask.sum()).clamp(0, 1)


def distillation_surviving(
    context: AttackContext,
    *,
    target: int | None = None,
    size: int | None = None,
    place: str = "middle-centre",
    colour: tuple[float, ...] = WHITE,
    rate: float = RATE,
    leak: float = LEAK,
) -> Attack:
    """A square that the network's answers on clean images pass on to whoever learns from them."""
    side = round(SIDE_OF_IMAGE * min(context.shape[1:])) if size is None else size
    planned = one_target("distillation-surviving", context, square(context.shape, side, place, colour), target, rate)
    return Attack(planned.name, planned.poisons, LeakingTraining(leak))
