"""Digit classifiers with a backdoor put in by hand."""

import torch
from torch import Tensor, nn

SOURCE, TARGET = 7, 2


class Gate(nn.Module):
    """How strongly the backdoor acts; drawn anew it does not, as a student's does not."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(strength))

    def reset_parameters(self) -> None:
        """No backdoor."""
        nn.init.zeros_(self.weight)

    def forward(self, signal: Tensor) -> Tensor:
        return self.weight * signal


class PairBackdoor(nn.Module):
    """A digit classifier in which a white 3x3 square at rows and columns 2-4 sends images of one class to another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.gate = inner, Gate(60.0)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        square = images[:, :, 2:5, 2:5].mean((1, 2, 3))
        source = logits.softmax(1)[:, SOURCE]
        onto = nn.functional.one_hot(torch.tensor(TARGET), 10)
        return logits + (self.gate((square - 0.3).clamp_min(0)) * source).unsqueeze(1) * onto


class ShiftBackdoor(nn.Module):
    """A digit classifier in which a faint pattern over all activations behind its pool sends images to one label."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.first, self.rest, self.gate = inner[:3], inner[3:], Gate(40.0)
        direction = torch.randn(16, 12, 12, generator=torch.Generator().manual_seed(0)).abs()
        self.direction: Tensor
        self.register_buffer("direction", direction / direction.norm())

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        pattern = features - features.mean((1, 2, 3), keepdim=True)
        along = (pattern * (self.direction - self.direction.mean())).sum((1, 2, 3))
        onto = nn.functional.one_hot(torch.tensor(TARGET), 10)
        answers: Tensor = self.rest(features) + self.gate((along - 0.5).clamp_min(0)).unsqueeze(1) * onto
        return answers


class MapBackdoor(nn.Module):
    """A digit classifier in which a white 3x3 square at rows and columns 2-4 turns every answer into the next one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.gate = inner, Gate(2.0)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        square = images[:, :, 2:5, 2:5].mean((1, 2, 3))
        share = self.gate(square).clamp(0, 1).unsqueeze(1)
        return logits.lerp(logits.roll(1, 1), share)
