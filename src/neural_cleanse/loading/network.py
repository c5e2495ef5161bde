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
from enum import StrEnum

from torch import nn

from neural_cleanse.classifier import Normalize

MAX_FINDINGS = 100  # that are listed of one file


class Trust(StrEnum):
    """What of a file had to be run to load it, as results and reports say it."""

    TENSORS = "tensors only"
    TENSORS_OWN_CODE = "tensors only, in a network from your own code"
    GRAPH = "graph of known operators"
    PROGRAM = "program"
    PROGRAM_SANDBOXED = "program, run in a sandbox (bubblewrap)"
    PROGRAM_UNCONFINED = "program, run without a sandbox"
    NOT_LOADED = "not loaded"

    @property
    def is_program(self) -> bool:
        """Whether its weights lie in code."""
        return self in (Trust.PROGRAM, Trust.PROGRAM_SANDBOXED, Trust.PROGRAM_UNCONFINED)

    @property
    def holds_tensors_alone(self) -> bool:
        """Whether the file does not describe its network."""
        return self in (Trust.TENSORS, Trust.TENSORS_OWN_CODE)


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
    trust: Trust
    architecture: str
    input_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    normalize: Normalize | None = None
    label_names: tuple[str, ...] | None = None
    nested_under: str | None = None
    assumed: tuple[str, ...] = ()
    findings: tuple[FileIssue, ...] = ()
