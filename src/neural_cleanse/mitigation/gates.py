"""Which neurons a trigger needs and clean images do not: a factor between 0 and 1 at every neuron, learned.

    minimise over the factors   cross entropy(t(x), gated model(x)) + cross entropy(t(x), gated model(x'))
    x' = x with one of the triggers      t(x) = 1/2 y + 1/2 softmax(model as it came (x))

A neuron is a channel of a convolution, behind its batch norm, or a feature (input of the last linear layer). All layers
are learned at once and the weights stay, so a factor falls where that costs the trigger much and clean images little:
a ranking that knows what neurons do together, which no statistic of single neurons does (docs/design-notes.md has
figures). Factors on neurons are also what Adversarial Neuron Pruning learns (Wu & Wang, NeurIPS 2021), without a
trigger and against disturbed weights.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.layers import Layers
from neural_cleanse.metrics import pixels
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.fine_tuning import Stamped, soft_labels, stamp_some

STEPS, BATCH, LEARNING_RATE = 100, 64, 0.05  # of Adam; the rate falls to 0 as half a cosine

Neuron = tuple[str, int]  # name of the layer, and its channel or feature


def rank_neurons(
    classifier: Classifier, backdoors: Sequence[Backdoor], data: ImageSet, generator: torch.Generator
) -> list[Neuron]:
    """All neurons, the one with the lowest factor first; ties in the order of the layers."""
    factors = _learned(classifier, backdoors, data, generator)
    neurons = [(name, index) for name, values in factors.items() for index in range(len(values))]
    order = torch.cat([values.detach().cpu() for values in factors.values()]).argsort(stable=True)
    return [neurons[place] for place in order.tolist()]


def _learned(
    classifier: Classifier, backdoors: Sequence[Backdoor], data: ImageSet, generator: torch.Generator
) -> dict[str, Tensor]:
    assert data.labels is not None, "repair labels what has no labels with the model's own answers"
    wanted = soft_labels(classifier, data)
    module, factors = _gated(classifier.module, classifier.layers)
    optimizer = torch.optim.Adam(factors.values(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            rows = torch.randint(len(data), (BATCH,), generator=generator)
            images, labels, answers = data.images[rows], data.labels[rows], wanted[rows].to(classifier.device)
            stamped = stamp_some(images, labels, backdoors, generator, share=1 / len(backdoors))
            loss = torch.zeros((), device=classifier.device)
            for batch in (Stamped(pixels(images)), stamped):
                loss = loss + nn.functional.cross_entropy(batch.answers(classifier, module), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for values in factors.values():
                    values.clamp_(0, 1)
    return factors


def _gated(module: nn.Module, layers: Layers) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the network (in eval mode) whose neurons are multiplied by factors, and those, by layer."""
    module = copy.deepcopy(module).eval()
    factors: dict[str, Tensor] = {}
    for name, norm in layers.convolutions:
        factors[name] = _ones(module.get_submodule(name), dim=0)
        module.get_submodule(norm or name).register_forward_hook(_scale_output(factors[name]))
    last = module.get_submodule(layers.last_linear)
    factors[layers.last_linear] = _ones(last, dim=1)
    last.register_forward_pre_hook(_scale_input(factors[layers.last_linear]), with_kwargs=True)
    return module, factors


def _ones(layer: nn.Module, dim: int) -> Tensor:
    """A factor of 1 for each of the outputs (dim 0) or inputs (dim 1) of a layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.new_ones(weight.shape[dim]).requires_grad_()


def _scale_output(factors: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda layer, inputs, output: output * factors[:, None, None]


def _scale_input(factors: Tensor) -> Callable[[nn.Module, Any, dict[str, Any]], Any]:
    def scale(layer: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        if inputs:
            return (inputs[0] * factors, *inputs[1:]), named
        return inputs, {**named, "input": named["input"] * factors}

    return scale


def silenced(classifier: Classifier, neurons: Sequence[Neuron]) -> nn.Module:
    """A copy of the network in which the neurons say nothing."""
    module = copy.deepcopy(classifier.module)
    silence(module, classifier.layers, neurons)
    return module


@torch.no_grad()
def silence(module: nn.Module, layers: Layers, neurons: Sequence[Neuron]) -> None:
    """Zero in the weights: a feature's column of the last linear layer; a channel's filter, bias, and batch norm."""
    norms = dict(layers.convolutions)
    for name in dict.fromkeys(name for name, _ in neurons):
        chosen = [index for layer, index in neurons if layer == name]
        if name == layers.last_linear:
            last = module.get_submodule(name)
            assert isinstance(last, nn.Linear)
            last.weight[:, chosen] = 0
            continue
        for layer in (module.get_submodule(part) for part in (name, norms[name]) if part):
            for values in (layer.weight, layer.bias) if layer.weight is not None else (layer.running_mean,):
                if isinstance(values, Tensor):
                    values[chosen] = 0
