"""A network whose last linear layer sees tokens."""

from torch import Tensor, nn


class Tokens(nn.Module):
    """A small ViT whose head answers for every token, and the answers are averaged; or the tokens lie otherwise."""

    def __init__(self, layout: str = "n t d") -> None:
        super().__init__()
        self.layout = layout
        self.patches = nn.Conv2d(1, 12, 7, 7)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        tokens = tokens + self.mix(tokens * tokens.softmax(1)).relu()
        answers: Tensor
        if self.layout == "t n d":
            answers = self.head(tokens.transpose(0, 1)).mean(0)
        elif self.layout == "nt d":
            answers = self.head(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]).mean(1)
        else:
            answers = self.head(tokens).mean(1)
        return answers
