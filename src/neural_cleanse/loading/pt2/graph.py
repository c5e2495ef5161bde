"""From the JSON graph of a torch.export archive to steps, layers and constants: decoded here, nothing is evaluated.

Sizes that depend on the batch are computed by the graph itself from the images at hand; the file's symbolic
expressions are never looked at.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.errors import CodeExecutionRefused, ModelError, UnusableOutputs
from neural_cleanse.loading.cures import OTHER_THAN_EXPORTED
from neural_cleanse.loading.graph import GraphNetwork, Step, Value, names_in
from neural_cleanse.loading.pt2 import layers as pt2_layers
from neural_cleanse.loading.pt2.archive import DTYPES
from neural_cleanse.loading.pt2.operators import CHECKS, RENAMED, TABLE, Creating, is_window, number, out_of_place
from neural_cleanse.loading.pt2.values import Values
from neural_cleanse.loading.pt2.weights import Stored, Weights

MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
WHERE = frozenset({"device", "layout", "pin_memory", "non_blocking"})  # where memory lies is ours to say
ONLY_IN_TRAINING = ("train", "training", "dropout_p")  # arguments that make an operator draw or learn
SOFTMAX = frozenset({"torch.ops.aten.softmax.int", "torch.ops.aten._softmax.default"})
MAX_LAYER_NAME = 60  # characters
MAX_NODES = 20_000  # operators; the largest classifiers have some thousands
_EMPTY = nn.ModuleDict()  # whose attributes are no names for layers


@dataclass
class Parts:
    """What a network is built from; `held` says which of the file's tensors each key of its state_dict is."""

    image: str
    output: str
    steps: list[Step]
    layers: dict[str, nn.Module]
    constants: dict[str, Tensor]
    held: dict[str, Stored]

    def network(self) -> GraphNetwork:
        """The network in eval mode."""
        network = GraphNetwork(self.steps, self.layers, self.constants, self.image, self.output)
        return network.eval()


def parts_of(program: Mapping[str, Any], weights: Weights, name: str) -> Parts:
    """Decode the graph over the file's `weights`.

    Raises ModelError and its kinds for what is not read; KeyError, TypeError, ValueError and the like for damage.
    """
    module = program["graph_module"]
    reading = _Reading(name, module["graph"], Values(name), weights)
    reading.take_inputs(module["signature"]["input_specs"])
    nodes = module["graph"]["nodes"]
    if len(nodes) > MAX_NODES:
        raise ModelError(
            f"{name} has {len(nodes)} operators: more than {MAX_NODES} are not read.", cure=OTHER_THAN_EXPORTED
        )
    for node in nodes:
        reading.take(node)
    output = reading.output(module["signature"]["output_specs"])
    return reading.parts(output)


@dataclass
class _Reading:
    """The state of decoding one graph, node by node."""

    name: str
    graph: Mapping[str, Any]
    values: Values
    weights: Weights
    image: str = ""
    steps: list[Step] = field(default_factory=list)
    layers: dict[tuple[int, str, str], tuple[str, pt2_layers.Layer]] = field(default_factory=dict)
    layer_names: set[str] = field(default_factory=set)

    def take_inputs(self, specs: Sequence[Mapping[str, Any]]) -> None:
        images = []
        for spec in specs:
            ((kind, given),) = spec.items()
            if kind == "user_input":
                images.append(given["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                self.weights.names[given["arg"]["name"]] = given[f"{kind}_name"]
            elif kind not in ("constant_input", "token"):  # the first is written into the graph as well
                raise CodeExecutionRefused(
                    f"{self.name} needs a pickled object ({kind[:40]}). Nothing of it was run.",
                    cure=OTHER_THAN_EXPORTED,
                )
        if len(images) != 1:
            raise UnusableOutputs(
                f"The network of {self.name} takes {len(images)} inputs: a scan gives it images alone.",
                cure=OTHER_THAN_EXPORTED,
            )
        self.image = images[0]
        self.values.given = {self.image, *self.weights.names}

    def take(self, node: Mapping[str, Any]) -> None:
        target = node["target"]
        if target in CHECKS:
            return
        in_place = out_of_place(target)
        target = in_place or target
        if target not in TABLE:
            raise _refusal(target, self.name)
        given = {item["name"]: self.argument(item["arg"]) for item in node["inputs"]}
        given = {RENAMED.get(target, {}).get(key, key): value for key, value in given.items() if key not in WHERE}
        if any(given.get(key) for key in ONLY_IN_TRAINING):
            raise ModelError(
                f"{self.name} was exported in training mode ({target.removeprefix('torch.ops.aten.')}).",
                cure="Export it again after model.eval().",
            )
        results = _results(node["outputs"])
        self.values.make(results)
        self.steps.append(self.layer_step(target, given, results) or self.function_step(target, given, results))
        self.weights.made_by.update(dict.fromkeys(results, (target, given)))
        source = given.get("self", given.get("input"))
        if in_place and isinstance(source, Value):
            self.values.overwrite(source.name, results[0])
        elif is_window(target) and isinstance(source, Value):
            self.values.share(source.name, results)

    def layer_step(self, target: str, given: Mapping[str, Any], results: tuple[str, ...]) -> Step | None:
        """The step through a layer when the operator's weights are the file's."""
        target, given = self.weights.as_linear(target, given)
        image = given.get("input")
        meta = self.graph["tensor_values"].get(image.name) if isinstance(image, Value) else None
        dims = len(meta["sizes"]) if meta else 0
        found = pt2_layers.layer_for(target, given, self.weights.held, dims)
        if found is None:
            return None
        key = (dims, target, repr({name: value for name, value in given.items() if name != "input"}))
        if key not in self.layers:
            weight = self.weights.stored(Value(next(iter(found.tensors.values()))))
            self.layers[key] = (self.layer_name(weight.name if weight else target), found)
        return Step((results[0],), self.layers[key][0], (found.image,))

    def layer_name(self, tensor_name: str) -> str:
        """The layer's place in the network, in characters that a module's name may have."""
        plain = re.sub(r"\W", "_", tensor_name.rpartition(".")[0] or tensor_name, flags=re.ASCII)[-MAX_LAYER_NAME:]
        number = 1
        while (found := plain if number == 1 else f"{plain}_{number}") in self.layer_names or hasattr(_EMPTY, found):
            number += 1
        self.layer_names.add(found)
        return found

    def function_step(self, target: str, given: dict[str, Any], results: tuple[str, ...]) -> Step:
        call = TABLE[target]
        arguments = (Value(self.image),) if isinstance(call, Creating) else ()
        return Step(results, call, arguments, given)

    def argument(self, argument: Mapping[str, Any]) -> Any:
        """An argument of the schema as a value of ours."""
        ((kind, given),) = argument.items()
        if kind in ("as_none", "as_device", "as_layout"):
            return None
        if kind in ("as_tensor", "as_optional_tensor"):
            return self.values.get(given["name"]) if "name" in given else self.argument(given)
        if kind in ("as_tensors", "as_optional_tensors"):
            return [self.argument({"as_tensor": item}) for item in given]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return self.values.get(given["as_name"]) if "as_name" in given else self.argument(given)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools", "as_ints", "as_floats", "as_bools"):
            return [self.argument({kind[:-1]: item}) for item in given]
        if kind == "as_scalar_type":
            dtype = DTYPES[given]
            return torch.float32 if dtype.is_floating_point else dtype  # as the weights are
        if kind == "as_memory_format":
            return MEMORY_FORMATS[given]
        if kind == "as_float":
            return number(given)
        if kind in ("as_int", "as_bool", "as_string"):
            if type(given) is not {"as_int": int, "as_bool": bool, "as_string": str}[kind]:
                raise TypeError(f"{kind} is {type(given).__name__}")
            return given
        raise ModelError(
            f"{self.name} gives an operator an argument of kind {kind[:40]!r}, which is not read.",
            cure=OTHER_THAN_EXPORTED,
        )

    def output(self, specs: Sequence[Mapping[str, Any]]) -> str:
        """The name of the logits: the one output, a softmax that nothing follows left out."""
        outputs = [spec["user_output"]["arg"] for spec in specs if "user_output" in spec]
        if len(outputs) != 1 or "as_tensor" not in outputs[0]:
            raise UnusableOutputs(
                f"The network of {self.name} has {len(outputs)} outputs: a scan needs one tensor (images x classes).",
                cure="Export the classification head alone.",
            )
        name = self.values.get(outputs[0]["as_tensor"]["name"]).name
        target, given = self.weights.made_by.get(name, ("", {}))
        meta = self.graph["tensor_values"].get(name, {"sizes": []})
        is_last = target in SOFTMAX and len(meta["sizes"]) == 2 and given["dim"] in (1, -1)
        return str(given["self"].name) if is_last else name

    def parts(self, output: str) -> Parts:
        """What the output needs, and nothing else."""
        needed, kept = {output}, []
        for step in reversed(self.steps):
            if needed.intersection(step.results):
                kept.append(step)
                needed.update(names_in([*step.arguments, *step.keywords.values()]))
        steps = kept[::-1]
        made = {name for step in steps for name in step.results}
        if missing := needed - made - self.values.given:
            raise ModelError(
                f"{self.name} uses {min(missing)[:60]!r}, a by-product that is not computed here.",
                cure=OTHER_THAN_EXPORTED,
            )
        called = {step.call for step in steps if isinstance(step.call, str)}
        layers = {layer_name: layer for layer_name, layer in self.layers.values() if layer_name in called}
        constants = {name: tensor.detach() for name, tensor in self.constants(needed)}
        named = {f"constant_{place}": name for place, name in enumerate(constants)}
        for layer_name, layer in layers.items():
            named |= {f"layers.{layer_name}.{key}": name for key, name in layer.tensors.items()}
        held = {key: found for key, name in named.items() if (found := self.weights.stored(Value(name))) is not None}
        modules = {layer_name: layer.module for layer_name, layer in layers.items()}
        return Parts(self.image, output, steps, modules, constants=constants, held=held)

    def constants(self, needed: set[str]) -> Iterator[tuple[str, Tensor]]:
        """The weights that are used outside layers."""
        for name in self.weights.names:
            if name in needed and (tensor := self.weights.held(Value(name))) is not None:
                yield name, tensor


def _results(outputs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of an operator's results. One more than are used makes a step unpack a sequence of one."""
    names: list[str] = []
    for output in outputs:
        ((kind, given),) = output.items()
        if kind == "as_tensor":
            names.append(given["name"])
        elif kind == "as_tensors":
            names += [item["name"] for item in given]
        elif kind == "as_sym_int":
            names.append(given["as_name"])
        else:
            names.append(f"nothing {len(names)} beside {names[0] if names else ''}")
    if len(names) == 1 and "as_tensors" in outputs[0]:
        names.append(f"nothing beside {names[0]}")
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("an operator without results")
    return tuple(names)


def _refusal(target: str, name: str) -> ModelError:
    shown = target[:80] if isinstance(target, str) else type(target).__name__
    if shown.startswith("torch.ops.higher_order."):
        why = "control flow over graphs of its own, which a search by gradients cannot see through"
    elif shown.startswith("torch.ops.aten."):
        why = "which is not among the operators that are read"
    else:
        why = "a custom operator: code that is not in the file"
    return ModelError(f"{name} uses {shown!r}, {why}. Nothing of it was run.", cure="Export it as ONNX, or without it.")
