"""Files that hold weights alone: the tensors meet the network that somebody names."""

from neural_cleanse.errors import CheckpointMismatch, ModelError
from neural_cleanse.loading.architecture import build
from neural_cleanse.loading.checkpoint import Checkpoint, fit_tensors
from neural_cleanse.loading.network import TENSORS, Network


def assemble(checkpoint: Checkpoint, name: str, architecture: str | None, *, allow_code: bool) -> Network:
    """The network that `architecture` (a name, or FILE.py:FUNCTION) builds, with the checkpoint's tensors in it.

    Without `architecture` the file's own description serves. Raises ModelError and its kinds.
    """
    described = checkpoint.description
    spec = architecture or (described.architecture if described else None)
    if spec is None:
        raise ModelError(
            f"{name} holds weights only and does not say which network they belong to.",
            cure="Name it with --architecture NAME, or FILE.py:FUNCTION and --allow-code.",
        )
    if architecture is None and ":" in spec:  # the file's own description never names code to run
        raise ModelError(f"{name} names the architecture {spec!r}, which is not one of ours.", cure="Name it yourself.")
    classes = described.num_classes if described and architecture is None else None
    blueprint = build(spec, checkpoint.tensors, classes, allow_code=allow_code)
    fit_tensors(checkpoint, blueprint.module, name)
    shape = (described.input_shape if described else None) or blueprint.input_shape
    if shape is not None and blueprint.input_shape not in (None, shape):
        raise CheckpointMismatch(f"{name} says it takes {shape} images, {spec} takes {blueprint.input_shape}.")
    return Network(
        module=blueprint.module,
        container=checkpoint.container,
        trust=TENSORS + (", in a network from your own code" if blueprint.ran_code else ""),
        architecture=spec,
        input_shape=shape,
        num_classes=described.num_classes if described else None,
        normalize=described.normalize if described else None,
        label_names=described.label_names if described else None,
        nested_under=checkpoint.nested_under,
    )
