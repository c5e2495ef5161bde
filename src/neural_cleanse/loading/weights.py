"""Files that hold weights alone: the tensors meet the network that somebody names."""

from collections.abc import Mapping

from torch import Tensor

from neural_cleanse.errors import CheckpointMismatch, ModelError
from neural_cleanse.loading.architecture import Blueprint, build
from neural_cleanse.loading.checkpoint import Checkpoint
from neural_cleanse.loading.cures import ITS_ARCHITECTURE
from neural_cleanse.loading.fitting import fill
from neural_cleanse.loading.network import Network, Trust
from neural_cleanse.loading.weight_sets import choose


def assemble(
    checkpoint: Checkpoint, name: str, architecture: str | None, *, allow_code: bool, weights: str | None = None
) -> Network:
    """The network that `architecture` (a name, or FILE.py:FUNCTION) builds, with the checkpoint's tensors in it.

    Without `architecture` the file's own description serves, or the usual architecture that the tensors' names
    tell. Of several sets of weights `weights` names one.
    Raises ModelError and its kinds.
    """
    described = checkpoint.description
    spec = architecture or (described.architecture if described else None)
    if architecture is None and spec is not None and ":" in spec:  # the file's own description never names code to run
        raise ModelError(f"{name} names the architecture {spec!r}, which is not one of ours.", cure="Name it yourself.")
    own_code = spec is not None and ":" in spec
    classes = described.num_classes if described and architecture is None else None
    built: dict[int, Blueprint] = {}

    def network_for(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A named network has as many classes as the set; the user's own function is called once."""
        key = 0 if own_code else id(tensors)
        if key not in built:
            built[key] = build(spec, dict(tensors), classes, allow_code=allow_code, name=name)
        state: Mapping[str, Tensor] = built[key].module.state_dict()
        return state

    chosen = choose(checkpoint.sets, weights, network_for, name)
    tensors = checkpoint.sets[chosen.path]
    blueprint = built[0 if own_code else id(tensors)]
    fill(blueprint.module, chosen.fit, tensors, name)
    shape = (described.input_shape if described else None) or blueprint.input_shape
    if shape is not None and blueprint.input_shape not in (None, shape):
        raise CheckpointMismatch(
            f"{name} says it takes {shape} images, {blueprint.name} takes {blueprint.input_shape}.",
            cure=ITS_ARCHITECTURE,
        )
    return Network(
        module=blueprint.module,
        container=checkpoint.container,
        trust=Trust.TENSORS_OWN_CODE if blueprint.ran_code else Trust.TENSORS,
        architecture=blueprint.name,
        input_shape=shape,
        num_classes=described.num_classes if described else None,
        normalize=described.normalize if described else chosen.fit.normalize,
        label_names=described.label_names if described else None,
        nested_under=chosen.label,
        assumed=(*blueprint.assumed, *chosen.notes, *checkpoint.notes),
    )
