"""What the rows are that a network answers with: logits, or something that a last layer made of them."""

import enum
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# How far the sum of a row of probabilities may be from 1: float32 softmax over some thousand classes.
PROBABILITY_TOLERANCE = 1e-3
# Of answers to inputs far outside the images' range, those that a tanh brings this close to 1 or -1, at the least.
SATURATED, SATURATED_SHARE = 0.99, 0.5


class OutputKind(enum.Enum):
    """What the rows of the module are. Log-probabilities already are logits; of probabilities the log is taken.

    SIGMOID and TANH are a value for each class by itself: rows do not sum to 1. ONE_LOGIT and ONE_SIGMOID are a single
    value for two classes: label 1 where it is above 0, or above one half.
    """

    LOGITS = "logits"
    LOG_PROBABILITIES = "log-probabilities"
    PROBABILITIES = "probabilities"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    ONE_LOGIT = "one logit for two classes"
    ONE_SIGMOID = "one sigmoid for two classes"


def logits_of(rows: Float[Tensor, " n *outputs"], kind: OutputKind) -> Float[Tensor, "n classes"]:
    """What a module returned, as logits; further axes of size 1, as behind a convolution, are dropped."""
    rows = rows.flatten(1) if rows.dim() > 2 else rows
    limits = torch.finfo(rows.dtype)
    if kind is OutputKind.PROBABILITIES:
        # The smallest normal float32 keeps log and its gradient finite where a class has underflowed.
        return rows.clamp_min(limits.tiny).log()
    if kind is OutputKind.TANH:
        rows = (rows + 1) / 2  # of tanh(z / 2) this is the sigmoid of z
    if kind in (OutputKind.SIGMOID, OutputKind.TANH, OutputKind.ONE_SIGMOID):
        rows = rows.clamp(limits.tiny, 1 - limits.eps).logit()
    if kind in (OutputKind.ONE_LOGIT, OutputKind.ONE_SIGMOID):
        one = rows.reshape(-1, 1)
        return torch.cat([torch.zeros_like(one), one], dim=1)
    return rows


def is_a_row_each(answers: Tensor, count: int) -> bool:
    """Whether these are one row an image, or one value, perhaps with further axes of size 1."""
    if answers.dim() == 0 or answers.shape[0] != count or answers.numel() == 0:
        return False
    return answers.dim() <= 2 or sorted(answers.shape[1:])[-2] == 1


def kind_of(rows: Float[Tensor, "n outputs"], stressed: Callable[[], Float[Tensor, " m *outputs"]]) -> OutputKind:
    """The kind of these answers; `stressed` gives those to inputs far outside the images' range, where logits grow."""
    between_0_and_1, within_1 = bool(((rows >= 0) & (rows <= 1)).all()), bool((rows.abs() <= 1).all())
    if rows.shape[1] == 1:
        return OutputKind.ONE_SIGMOID if between_0_and_1 and _is_bounded(stressed(), 0) else OutputKind.ONE_LOGIT
    if bool((rows >= 0).all()) and _sums_to(rows):
        return OutputKind.PROBABILITIES
    one = torch.ones(len(rows), device=rows.device)
    if bool((rows <= 0).all()) and torch.allclose(rows.exp().sum(1).float(), one, atol=PROBABILITY_TOLERANCE):
        return OutputKind.LOG_PROBABILITIES
    if between_0_and_1 and bool(((rows > 0) & (rows < 1)).any(1).all()) and _is_bounded(stressed(), 0):
        return OutputKind.SIGMOID
    if within_1 and not between_0_and_1:
        far = stressed()
        if _is_bounded(far, -1) and bool((far.abs() > SATURATED).float().mean() >= SATURATED_SHARE):
            return OutputKind.TANH
    return OutputKind.LOGITS


def _sums_to(rows: Tensor) -> bool:
    """Whether all rows sum to 1, or to 100 as percentages do."""
    sums = rows.sum(1).float()
    return any(torch.allclose(sums / whole, torch.ones_like(sums), atol=PROBABILITY_TOLERANCE) for whole in (1, 100))


def _is_bounded(answers: Tensor, least: float) -> bool:
    return bool(((answers >= least) & (answers <= 1)).all())
