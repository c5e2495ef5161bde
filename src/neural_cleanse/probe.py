"""What a network answers, tried on a few images before it is scanned: how many classes, logits or probabilities."""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.copies import copied
from neural_cleanse.errors import UnusableOutputs
from neural_cleanse.outputs import OutputKind, is_a_row_each, kind_of
from neural_cleanse.text import by

FEW = 2  # images of a small batch
APART = 0.2  # of the answers' spread: quantising by the batch's range moves them by some hundredths
STRESS = (-20.0, 20.0)  # times the input, to tell a sigmoid from logits that happen to be small


def wanted_channels(error: Exception) -> int | None:
    """How many channels the images need, where torch says so of the ones that they have."""
    found = re.search(r"to have (\d+) channels, but got", str(error))
    return None if found is None else int(found[1])


def probe(module: nn.Module, images: Float[Tensor, "n c h w"], normalize: Normalize) -> tuple[int, OutputKind]:
    """Number of classes and kind of output, from two equal forward passes over images in [0, 1].

    Raises UnusableOutputs when the module fails, has several heads, answers differently twice, or is not finite.
    """
    tried = copied(module)
    tried.eval()  # a user's own may return nothing
    shape = by(images.shape[1:])
    normalized = normalize(images)
    with torch.no_grad():
        try:
            first, second = tried(normalized.clone()), tried(normalized.clone())
        except Exception as error:  # whatever a user's own forward raises is theirs to read
            channels = wanted_channels(error)
            raise UnusableOutputs(
                f"The network fails on images of shape {shape} (channels x height x width): {error}",
                cure=f"Give images with {channels} channel{'s' if channels > 1 else ''}, or check the architecture."
                if channels
                else "Check the architecture, and resize the images to what it takes (--resize HxW).",
            ) from error
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        raise UnusableOutputs(
            f"The network returns a {type(first).__name__}, a scan needs one tensor (images x classes).",
            cure="Give a network that returns the classification head alone, images x classes.",
        )
    if not is_a_row_each(first, len(images)):
        raise UnusableOutputs(
            f"The network answers {tuple(first.shape)} to {images.shape[0]} images: a scan needs "
            f"{images.shape[0]} x the number of classes, or one value an image for two classes.",
            cure="Give a network that returns the classification head alone, images x classes.",
        )
    if not first.is_floating_point():
        raise UnusableOutputs(
            f"The network answers with {first.dtype}: a scan needs logits or probabilities.",
            cure="Give the network without what picks the class (argmax, topk) at its end.",
        )
    if not torch.isfinite(first).all():
        raise UnusableOutputs(
            "The network's outputs hold NaN or Inf.", cure="Check its weights, and --mean, --std and --scale."
        )
    if not torch.equal(first, second):
        raise UnusableOutputs(
            "The network answers differently to the same images, even in eval mode.",
            cure="Remove what is random in its forward pass: a scan needs one answer for one image.",
        )
    _check_batch(tried, normalized, first)
    _check_gradient(tried, normalized)
    kind = kind_of(first.reshape(len(first), -1), lambda: _stressed(tried, normalized))
    return max(2, first.numel() // len(first)), kind


def _stressed(module: nn.Module, normalized: Float[Tensor, "n c h w"]) -> Float[Tensor, " m *outputs"]:
    """Answers to inputs far outside the images' range."""
    with torch.no_grad():
        return torch.cat([module(normalized * factor) for factor in STRESS])


def _check_batch(module: nn.Module, normalized: Float[Tensor, "n c h w"], answers: Float[Tensor, " n *o"]) -> None:
    """Raise UnusableOutputs where an image's answer hangs on the images beside it."""
    cure = (
        "Put it into eval mode, with batch norm that keeps running statistics: a scan needs one answer for one image."
    )
    try:
        with torch.no_grad():
            alone = module(normalized[:FEW].clone())
        apart = float((alone - answers[:FEW]).abs().max())
    except Exception as error:  # whatever a user's own forward raises is theirs to read
        raise UnusableOutputs(
            f"The network fails on {FEW} images, and not on {len(answers)}: {error}", cure=cure
        ) from error
    if apart > APART * max(float(answers.std()), float(answers.abs().max()) / 100):
        raise UnusableOutputs("The network answers an image otherwise beside other images.", cure=cure)


def _check_gradient(module: nn.Module, normalized: Float[Tensor, "n c h w"]) -> None:
    """Raise UnusableOutputs unless a gradient reaches the pixels, at another batch size than the probe's."""
    with torch.enable_grad():
        images = normalized[:-1].clone().requires_grad_()
        try:
            (gradient,) = torch.autograd.grad(module(images * 1).sum(), images)
            reaches = bool(torch.isfinite(gradient).all())
        except Exception as error:  # whatever a user's own forward raises is theirs to read
            raise UnusableOutputs(
                f"No gradient reaches the pixels, or the batch size is fixed: {error}",
                cure="A scan needs the network itself: no torch.no_grad, detach, argmax or fixed batch in forward.",
            ) from error
    if not reaches:
        raise UnusableOutputs(
            "The gradient at the pixels holds NaN or Inf: the network cannot be searched.",
            cure="Is the form of the input right (--mean, --std, --scale)? If so, do not trust this model.",
        )
