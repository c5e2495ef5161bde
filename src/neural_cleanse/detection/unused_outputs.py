"""Outputs that no class uses: a head wider than the classes, a reserved background label.

Such an output is no image's label and no answer; and where training never asked for it, no pixels bring it about, while
the least trained class is reached within some steps. So is an output that only a trigger leads to: it stays in
the scan.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.metrics import FORWARD_BATCH, nobody, pixels
from neural_cleanse.outputs import OutputKind
from neural_cleanse.text import ranges

# Gradient steps on every pixel, with Adam on the pixels' logits. Measured (docs/design-notes.md): classes that training
# saw were reached with a margin of 12 and more, those that a later training on other classes suppressed and
# backdoored reserved ones too; of outputs that training never asked for not one.
STEPS, RATE = 40, 0.5
QUICK_STEPS = 8  # from one image, at first
EXPECTED_STEPS = 5  # that an output takes on average, about
STARTS = 4  # images a label: two clean ones, an even grey and noise
LEAST, MOST = 0.02, 0.98  # a pixel at 0 or 1 would have no gradient
MOST_VALUES = 2**21  # in a batch, so that a large network's fits in memory
FLOORED = -80.0  # logits of probabilities below it have underflowed, and have no gradient


def unused_outputs(
    classifier: Classifier,
    images: ScanImages,
    labels: frozenset[int],
    seed: int,
    tell: Callable[[int], object] = nobody,
) -> tuple[tuple[int, ...], int]:
    """The outputs that nothing brings about, and how many images were passed through the model to find out.

    Asked are those that are in neither `labels`, the images' own, nor the model's answers to them. `tell(images)` hears
    of those that were passed; where the time runs out the rest counts as used.
    """
    asked = to_ask(classifier, images, labels)
    starts = _starts(images, seed)
    at_once = max(1, min(FORWARD_BATCH, MOST_VALUES // images.images[0].numel()))
    open_still, found, passes = list[int](), list[int](), 0
    # Most are reached from the first image within some steps: only those that are not take all of them.
    for some, own, steps, unsettled in (
        (asked, starts[:1], QUICK_STEPS, open_still),
        (open_still, starts, STEPS, found),
    ):
        size = max(1, at_once // len(own))
        for first in range(0, len(some), size):
            part = some[first : first + size]
            try:
                reached, taken = _reached(classifier, own, part, steps)
            except OutOfTime:
                return tuple(found), passes
            unsettled += [label for label, is_reached in zip(part, reached, strict=True) if not is_reached]
            passes += taken
            tell(taken)
    return tuple(found), passes


def to_ask(classifier: Classifier, images: ScanImages, labels: frozenset[int]) -> list[int]:
    """The outputs that no image stands for."""
    used = labels | frozenset(images.answers.tolist())
    return [label for label in range(classifier.num_classes) if label not in used]


def _starts(images: ScanImages, seed: int) -> Float[Tensor, "starts c h w"]:
    clean = pixels(images.images[images.parts[Split.OPTIMISE][: STARTS - 2]])
    noise = torch.rand(STARTS - len(clean) - 1, *clean.shape[1:], generator=torch.Generator().manual_seed(seed))
    return torch.cat([clean, torch.full_like(clean[:1], 0.5), noise.to(clean.device)]).clamp(LEAST, MOST)


def _reached(
    classifier: Classifier, starts: Float[Tensor, "starts c h w"], labels: Sequence[int], steps: int
) -> tuple[list[bool], int]:
    """Which labels a change of the starts' pixels brings about, and the images passed.

    After all STEPS also those that no gradient can tell of.
    """
    count = len(labels)
    values = starts.repeat(count, 1, 1, 1).logit().requires_grad_()
    target = torch.tensor(labels, device=starts.device).repeat_interleave(len(starts))[:, None]
    optimiser = torch.optim.Adam([values], RATE)
    reached = torch.zeros(count, dtype=torch.bool, device=starts.device)
    floored = torch.ones_like(reached)
    for step in range(steps):
        logits = classifier(values.sigmoid())
        own = logits.gather(1, target)
        margin = (own - logits.scatter(1, target, -torch.inf).amax(1, keepdim=True)).view(count, -1)
        reached |= ~(margin <= 0).all(1)  # NaN is no answer that could be left out
        floored &= (own.view(count, -1) < FLOORED).all(1)
        if reached.all():
            return reached.tolist(), (step + 1) * len(values)
        (values.grad,) = torch.autograd.grad(-margin.sum(), values)
        if steps == STEPS:
            reached |= (values.grad.view(count, -1) == 0).all(1)  # hidden from every search
        optimiser.step()
    if steps == STEPS and classifier.outputs is not OutputKind.LOGITS:
        reached |= floored
    return reached.tolist(), steps * len(values)


def unused_named(labels: Sequence[int]) -> str:
    """The outputs left out, ascending, and why, in words: "outputs 3, 10-19, which ..."."""
    one = len(labels) == 1
    return (
        f"output{'' if one else 's'} {ranges(labels)}, which no clean image has and no change of pixels brought about "
        "(searched all the same where --labels names it)"
    )
