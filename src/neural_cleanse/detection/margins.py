"""The largest margin that any input reaches for a label (MM-BD; Wang et al., S&P 2024): gradient ascent from noise.

    maximise over images x in [0, 1]    logit of the label - largest other logit

Adam comes as high in 60 steps as plain ascent in 200, on networks whose logits differ by a factor of thirty.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neural_cleanse.classifier import Classifier

STARTS, STEPS, LEARNING_RATE = 4, 60, 0.1
PASSES_PER_LABEL = STARTS * STEPS
MOST = 1e6  # what an infinite margin counts as; none at all counts as 0


def largest_margins(
    classifier: Classifier,
    targets: Sequence[int],
    seed: int,
    at_once: int,
    advance: Callable[[int], bool] = lambda _: True,
) -> list[float] | None:
    """The largest margin (logits) that noise comes to for each label, all from the same STARTS images of noise.

    At most `at_once` images are in a pass, STARTS at least. `advance(image passes)` is told of the work and says
    whether to go on; None where it said no. Raises OutOfTime after the classifier's deadline.
    """
    noise = torch.rand(STARTS, *classifier.input_shape, generator=torch.Generator().manual_seed(seed))
    found: list[float] = []
    for labels in torch.tensor(targets).split(max(1, at_once // STARTS)):
        wanted = labels.repeat_interleave(STARTS).to(classifier.device)
        images = noise.repeat(len(labels), 1, 1, 1).to(classifier.device).requires_grad_(True)
        optimizer = torch.optim.Adam([images], LEARNING_RATE, maximize=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
        for _ in range(STEPS):
            with torch.enable_grad():
                images.grad = torch.autograd.grad(_margins(classifier(images), wanted).sum(), images)[0]
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
            if not advance(len(images)):
                return None
        with torch.no_grad():
            reached = _margins(classifier(images), wanted).reshape(len(labels), STARTS).amax(1)
        found += torch.nan_to_num(reached, 0.0, MOST, -MOST).tolist()
    return found


def _margins(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits[own] - logits.masked_fill(own, -torch.inf).amax(1)
