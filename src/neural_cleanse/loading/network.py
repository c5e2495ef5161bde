"""What a reader makes of a file: a network, and all that the file itself says of its use.

Every reader keeps to this:

- `module` takes normalised images (n c h w), of any batch size, and returns logits or probabilities; a softmax at the
  very end is left out where that can be done exactly.
- Layers with weights are `nn.Conv2d`, `nn.Linear`, `nn.BatchNorm2d` and their kin, so that features can be tapped, and
  neurons pruned and retrained, without anybody knowing the container.
- Beside `read` a reader has `rewrite(content, state)`: the same file with the weights of `state`, a `state_dict` of
  the module, keys, kinds of number and nesting kept.
"""

from dataclasses import dataclass

from torch import nn

from neural_cleanse.classifier import Normalize

TENSORS = "tensors only"
GRAPH = "graph of known operators"
PROGRAM = "program"


@dataclass(frozen=True)
class FileIssue:
    """Something in the file that a scan cannot see or that would run: `place` in the file, and what it is."""

    place: str
    what: str
    runs_code: bool = False


@dataclass(frozen=True)
class Network:
    """A module out of a file. What the file does not say is None; what was assumed to read it is said in words."""

    module: nn.Module
    container: str
    trust: str
    architecture: str
    input_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    normalize: Normalize | None = None
    label_names: tuple[str, ...] | None = None
    nested_under: str | None = None
    assumed: tuple[str, ...] = ()
    findings: tuple[FileIssue, ...] = ()
