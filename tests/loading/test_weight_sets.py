"""Checkpoints as training scripts leave them: several sets, other names, parts of weights, objects beside tensors."""

import argparse
import pathlib
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm
from torch.optim.swa_utils import AveragedModel

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError, SettingsError, UnknownFormat
from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.loading.load import LoadedModel, load_model
from neural_cleanse.loading.save import save_like

Weights = dict[str, Tensor]
DIGIT = (1, 28, 28)


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mnist_cnn(7).eval()


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return network(1)


@pytest.fixture(scope="module")
def other() -> nn.Sequential:
    return network(2)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(4, *DIGIT, generator=torch.Generator().manual_seed(1))


def load(path: Path, value: object, **options: Any) -> LoadedModel:
    torch.save(value, path)
    return load_model(path, architecture="mnist_cnn", **options)


def agree(loaded: LoadedModel, module: nn.Module, pictures: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(loaded.classifier(pictures), module(pictures), atol=tolerance)


def renamed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def shadow(weights: Weights) -> dict[str, object]:
    """What torch_ema keeps: the averages of parameters() as a list without names."""
    return {"decay": 0.999, "num_updates": 7, "shadow_params": list(weights.values()), "collected_params": None}


# --- several sets ---


@pytest.mark.parametrize(
    ("labels", "make"),
    [
        (("model", "model_ema"), lambda a, b: {"model": a, "model_ema": b, "epoch": 90}),
        (("state_dict", "state_dict_ema"), lambda a, b: {"state_dict": a, "state_dict_ema": b, "arch": "net"}),
        (("state_dict.student", "state_dict.teacher"), lambda a, b: {"state_dict": {"student": a, "teacher": b}}),
        (("model", "ema_model"), lambda a, b: renamed(a, "model.") | renamed(b, "ema_model.")),
        (
            ("state_dict.net", "state_dict.ema.module.net"),
            lambda a, b: {"state_dict": renamed(a, "net.") | renamed(b, "ema.module.net.")},
        ),
        ((".", "ema"), lambda a, b: a | renamed(b, "ema.")),
        (("0", "1.ema"), lambda a, b: [a, {"ema": b, "epoch": 3}]),
        (("model", "ema.shadow_params"), lambda a, b: {"model": a, "ema": shadow(b)}),
        (("0", "1"), lambda a, b: {0: a, 1: b}),
        (("model", "ema"), lambda a, b: {b"model": a, b"ema": b}),
        (("net.state_dict", "shadow_params"), lambda a, b: {"net": {"state_dict": a}} | shadow(b)),
    ],
)
def test_of_several_sets_one_must_be_named_and_that_one_is_read(
    tmp_path: Path, model: nn.Module, other: nn.Module, pictures: Tensor, labels: tuple[str, str], make: Any
) -> None:
    value = make(model.state_dict(), other.state_dict())
    with pytest.raises(ModelError) as refused:
        load(tmp_path / "m", value)
    shown = [label.replace("module.", "") for label in labels]  # a wrapper's part of a name is not needed
    for label in shown:
        assert repr(label) in str(refused.value) and f"--weights {label}" in str(refused.value)
    for label, truth in zip(shown, (model, other), strict=True):
        loaded = load(tmp_path / "m", value, weights=label)
        assert agree(loaded, truth, pictures)
        assert loaded.origin.nested_under == label


def test_an_average_without_names_is_read_and_written_in_the_order_of_parameters(tmp_path: Path) -> None:
    module, averaged = (nn.Sequential(nn.Flatten(), nn.Linear(784, 6), nn.BatchNorm1d(6)) for _ in range(2))
    module[2].running_mean.fill_(0.5)
    parts = [parameter.detach() for parameter in averaged.parameters()]
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 6), nn.BatchNorm1d(6))\n"
    )
    path = tmp_path / "m.pth"
    torch.save({"model": module.state_dict(), "ema": {"shadow_params": parts}}, path)
    named: dict[str, Any] = {"architecture": f"{tmp_path / 'net.py'}:make", "allow_code": True, "input_shape": DIGIT}
    loaded = load_model(path, weights="ema.shadow_params", **named)
    held = loaded.classifier.module.state_dict()
    assert torch.equal(held["1.weight"], averaged[1].weight) and torch.equal(
        held["2.running_mean"], torch.full((6,), 0.5)
    )
    changed = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in held.items()}
    save_like(loaded.origin, changed, tmp_path / "out.pth")
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert all(torch.equal(new, old + 1) for new, old in zip(written["ema"]["shadow_params"], parts, strict=True))
    assert all(torch.equal(new, module.state_dict()[name]) for name, new in written["model"].items())


def test_a_list_that_no_set_names_is_not_taken_for_weights(tmp_path: Path, model: nn.Module, pictures: Tensor) -> None:
    path = tmp_path / "m.pth"
    loaded = load(path, {"model": model.state_dict(), "ema": {"shadow_params": [torch.zeros(3), torch.zeros(2, 2)]}})
    assert agree(loaded, model, pictures)
    assert any("ema.shadow_params" in note for note in loaded.origin.assumed)


def test_equal_sets_count_as_one_and_that_is_said(tmp_path: Path, model: nn.Module, pictures: Tensor) -> None:
    loaded = load(tmp_path / "m", {"model": model.state_dict(), "ema": model.state_dict()})
    assert agree(loaded, model, pictures)
    assert any("the same weights lie under 'ema'" in note for note in loaded.origin.assumed)


def test_a_set_that_does_not_fit_the_network_is_named_as_not_scanned(
    tmp_path: Path, model: nn.Module, pictures: Tensor
) -> None:
    generator = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 8)).state_dict()
    loaded = load(tmp_path / "m", {"netG": generator, "netC": model.state_dict()})
    assert agree(loaded, model, pictures)
    assert any("'netG'" in note and "not scanned" in note for note in loaded.origin.assumed)


def test_a_set_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(SettingsError, match=r"'net'.*they lie under 'model'"):
        load(tmp_path / "m", {"model": model.state_dict()}, weights="net")
    with pytest.raises(SettingsError, match=r"'net'.*they lie under '\.'"):  # one set by itself
        load(tmp_path / "m", dict(model.state_dict()), weights="net")


def test_the_set_that_was_read_is_the_one_written_back(
    tmp_path: Path, model: nn.Module, other: nn.Module, pictures: Tensor
) -> None:
    loaded = load(tmp_path / "m", {"model": model.state_dict(), "ema": other.state_dict()}, weights="ema")
    changed = {key: tensor * 0.5 for key, tensor in loaded.classifier.module.state_dict().items()}
    save_like(loaded.origin, changed, tmp_path / "new")
    written = torch.load(tmp_path / "new", weights_only=True)
    assert all(torch.equal(written["model"][key], tensor) for key, tensor in model.state_dict().items())
    assert all(torch.equal(written["ema"][key], tensor * 0.5) for key, tensor in other.state_dict().items())


# --- objects beside the tensors ---


class Recorder:
    """A training script's own class; it must never be built."""

    def __init__(self) -> None:
        self.values = [1.0]


def beside() -> dict[str, object]:
    table: defaultdict[str, list[float]] = defaultdict(list)
    table["loss"].append(0.5)
    return {
        "numpy scalar": np.float64(0.98),
        "numpy words": np.array(["a", "b"]),
        "namespace": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=1)),
        "path": pathlib.PurePosixPath("/data"),
        "class of their own": Recorder(),
        "default dictionary": table,
        "slice": slice(1, 2),
        "queue": deque([1.5]),
    }


@pytest.mark.parametrize("what", beside())
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_weights_are_named_and_not_built(
    tmp_path: Path, model: nn.Module, pictures: Tensor, monkeypatch: pytest.MonkeyPatch, what: str, zipped: bool
) -> None:
    value = {"state_dict": model.state_dict(), "args": beside()[what], "epoch": 3}
    torch.save(value, tmp_path / "m", _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(Recorder, "__new__", lambda *_: pytest.fail("it was built"))
    loaded = load_model(tmp_path / "m", architecture="mnist_cnn")
    assert agree(loaded, model, pictures)
    assert any("not built" in note for note in loaded.origin.assumed)
    save_like(loaded.origin, model.state_dict(), tmp_path / "again")
    assert torch.load(tmp_path / "again", weights_only=True)["epoch"] == 3


def test_weights_in_a_dictionary_of_another_class_are_read(tmp_path: Path, model: nn.Module, pictures: Tensor) -> None:
    weights: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(1))
    weights.default_factory = None
    weights.update(model.state_dict())
    assert agree(load(tmp_path / "m", {"weights": weights}), model, pictures)


@pytest.mark.parametrize("dangerous", [eval, print, compile])
def test_what_is_there_to_run_code_is_refused_whatever_lies_beside(
    tmp_path: Path, model: nn.Module, dangerous: Callable[..., Any]
) -> None:
    with pytest.raises(CodeExecutionRefused, match="Nothing of it was run"):
        load(tmp_path / "m", {"state_dict": model.state_dict(), "hook": dangerous})


def test_quantised_weights_are_read_as_the_numbers_they_stand_for(tmp_path: Path, model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what people still hand out
        weights = {
            key: torch.quantize_per_tensor(tensor, 0.001, 0, torch.qint8) if tensor.dim() == 4 else tensor
            for key, tensor in model.state_dict().items()
        }
        loaded = load(tmp_path / "m", weights)
    for key, tensor in loaded.classifier.module.state_dict().items():
        assert torch.equal(tensor, weights[key].dequantize() if weights[key].is_quantized else weights[key])
    save_like(loaded.origin, model.state_dict(), tmp_path / "again")
    again = torch.load(tmp_path / "again", weights_only=True)
    assert all(torch.equal(again[key], tensor) for key, tensor in model.state_dict().items())


def test_weights_in_whole_numbers_of_an_unknown_step_are_refused(tmp_path: Path, model: nn.Module) -> None:
    weights = {key: (tensor * 99).char() if tensor.dim() > 1 else tensor for key, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match="rounded, and nothing says by what"):
        load(tmp_path / "m", weights)


@pytest.mark.parametrize(
    ("key", "message", "cure"),
    [
        ("9.SCB", "rounded for a fast runtime", "network that they were made from"),
        ("9._packed_params._packed_params.zero_point", "rounded for a fast runtime", "float32"),
        ("9.lora_A.default.weight", "adapters", "merge_and_unload"),
    ],
)
def test_rounded_weights_and_adapters_are_told_as_what_they_are(
    tmp_path: Path, model: nn.Module, key: str, message: str, cure: str
) -> None:
    with pytest.raises(CheckpointMismatch, match=message) as refused:
        load(tmp_path / "m", {**model.state_dict(), key: torch.ones(3)})
    assert cure in refused.value.cure


def test_a_nested_tensor_is_no_weight(tmp_path: Path, model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        odd = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
        with pytest.raises(ModelError, match="several sizes in one"):
            load(tmp_path / "m", {**model.state_dict(), "0.weight": odd})


def test_complex_weights_are_refused_in_one_sentence(tmp_path: Path, model: nn.Module) -> None:
    weights = {key: tensor.to(torch.complex64) for key, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match="complex"):
        load(tmp_path / "m", weights)


# --- names ---


@pytest.mark.parametrize("prefix", ["backbone.", "a.b.c.", "classifier.module.", "_orig_mod.encoder."])
def test_any_prefix_that_makes_the_names_fit_is_dropped_and_said(
    tmp_path: Path, model: nn.Module, pictures: Tensor, prefix: str
) -> None:
    loaded = load(tmp_path / "m", renamed(model.state_dict(), prefix))
    assert agree(loaded, model, pictures)
    assert any("begin with" in note for note in loaded.origin.assumed)


def test_parts_of_a_network_may_lie_under_prefixes_of_their_own(
    tmp_path: Path, model: nn.Module, pictures: Tensor
) -> None:
    weights = {("head." if name.startswith("9") else "backbone.") + name: t for name, t in model.state_dict().items()}
    loaded = load(tmp_path / "m", weights)
    assert agree(loaded, model, pictures)
    assert "names in the file begin with 'backbone.', 'head.', which were dropped" in loaded.origin.assumed
    save_like(loaded.origin, {key: tensor + 1 for key, tensor in model.state_dict().items()}, tmp_path / "again")
    again = torch.load(tmp_path / "again", weights_only=True)
    assert again.keys() == weights.keys() and torch.equal(again["head.9.bias"], model.state_dict()["9.bias"] + 1)


def test_a_part_that_lies_there_twice_is_not_chosen(tmp_path: Path, model: nn.Module, other: nn.Module) -> None:
    heads = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("9")}
    bodies = {name: tensor for name, tensor in model.state_dict().items() if name not in heads}
    with pytest.raises(CheckpointMismatch):
        load(tmp_path / "m", renamed(heads, "head.") | renamed(bodies, "a.") | renamed(bodies, "b."))


# --- modules that were pickled whole ---


class Whole(nn.Module):
    """A network of a project's own class, with what modules have beside weights."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.net, self.history = inner, [0.5]
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("it was built")


@pytest.mark.parametrize(
    "wrap", [lambda whole: whole, lambda whole: {"model": whole, "epoch": 3}, nn.DataParallel], ids=["bare", "in", "dp"]
)
def test_a_pickled_module_is_read_as_tensors_where_its_network_is_named(
    tmp_path: Path, model: nn.Module, pictures: Tensor, wrap: Any
) -> None:
    torch.save(wrap(Whole(model)), tmp_path / "m")
    loaded = load_model(tmp_path / "m", architecture="mnist_cnn")
    assert agree(loaded, model, pictures) and not loaded.origin.trust.is_program
    assert any("Whole" in note and "not built" in note for note in loaded.origin.assumed)
    with pytest.raises(CodeExecutionRefused) as refused:
        load_model(tmp_path / "m", input_shape=DIGIT)
    assert "--architecture" in refused.value.cure
    save_like(loaded.origin, {key: tensor + 1 for key, tensor in model.state_dict().items()}, tmp_path / "again")
    again = load_model(tmp_path / "again", architecture="mnist_cnn")
    assert torch.equal(again.classifier.module.state_dict()["9.bias"], model.state_dict()["9.bias"] + 1)


def test_a_pickled_module_beside_other_weights_is_a_set_of_its_own(
    tmp_path: Path, model: nn.Module, other: nn.Module
) -> None:
    with pytest.raises(ModelError, match=r"'state_dict', 'model\.net'"):
        load(tmp_path / "m", {"state_dict": model.state_dict(), "model": Whole(other)})


def test_modules_that_hold_each_other_end_in_one_message(tmp_path: Path) -> None:
    outer = Whole(nn.Linear(2, 2))
    for _ in range(40):  # 2 to the power of 40 paths
        outer = Whole(nn.ModuleList([outer, outer]))
    with pytest.raises((CodeExecutionRefused, UnknownFormat)):
        load(tmp_path / "m", outer)


@pytest.mark.parametrize(
    "extra",
    [
        {"criterion.pos_weight": torch.ones(7)},
        {"loss_fn.weight": torch.ones(7)},
        {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
        {"n_averaged": torch.tensor(3)},
        {"val_acc.correct": torch.zeros(1)},
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_counters_and_losses_are_left_out_and_said(
    tmp_path: Path, model: nn.Module, pictures: Tensor, extra: Weights, prefix: str
) -> None:
    loaded = load(tmp_path / "m", {"state_dict": renamed(model.state_dict(), prefix) | extra})
    assert agree(loaded, model, pictures)
    assert any("left out" in note and next(iter(extra)) in note for note in loaded.origin.assumed)


def test_a_layer_that_the_network_lacks_is_no_counter(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(CheckpointMismatch, match=r"unexpected: attention\.weight"):
        load(tmp_path / "m", model.state_dict() | {"attention.weight": torch.ones(3, 3)})


def test_an_averaged_model_and_parts_in_the_middle_of_names(
    tmp_path: Path, model: nn.Sequential, pictures: Tensor
) -> None:
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    assert agree(load(tmp_path / "swa", averaged.state_dict()), model, pictures)
    inside = {name.replace("0.", "0._orig_mod.", 1): tensor for name, tensor in model.state_dict().items()}
    assert agree(load(tmp_path / "compiled", inside), model, pictures)


def test_names_that_only_the_network_has_a_prefix_for(tmp_path: Path, model: nn.Module, pictures: Tensor) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from torch import nn\nfrom neural_cleanse.loading.architectures import mnist_cnn\n"
        "class Wrap(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.net = mnist_cnn(7)\n"
        "    def forward(self, x):\n        return self.net(x)\n"
        "def make():\n    return Wrap()\n"
    )
    torch.save(model.state_dict(), tmp_path / "m")
    loaded = load_model(tmp_path / "m", architecture=f"{own}:make", allow_code=True, input_shape=DIGIT)
    assert agree(loaded, model, pictures)


def test_a_normalising_layer_in_the_file_is_used(tmp_path: Path, model: nn.Module, pictures: Tensor) -> None:
    layer = {"0.mean": torch.full((1, 1, 1, 1), 0.4), "0.std": torch.full((1, 1, 1, 1), 0.3)}
    loaded = load(tmp_path / "m", layer | renamed(model.state_dict(), "1."))
    assert loaded.classifier.normalize.mean == pytest.approx((0.4,))
    assert torch.allclose(loaded.classifier(pictures), model((pictures - 0.4) / 0.3), atol=1e-4)
    given = Normalize((0.1,), (0.9,))
    assert (
        load(tmp_path / "m", layer | renamed(model.state_dict(), "1."), normalize=given).classifier.normalize == given
    )


# --- weights in parts ---


def pruned(module: nn.Sequential) -> None:
    prune.l1_unstructured(module[7], "weight", 0.3)


def weight_normed(module: nn.Sequential) -> None:
    parametrizations.weight_norm(module[9])


def weight_normed_of_old(module: nn.Sequential) -> None:
    module[9].register_parameter("weight_g", nn.Parameter(module[9].weight.norm(dim=1, keepdim=True).detach() * 2))
    module[9].register_parameter("weight_v", nn.Parameter(module[9].weight.detach().clone()))
    del module[9].weight


def spectrally_normed(module: nn.Sequential) -> None:
    spectral_norm(module[9])


@pytest.mark.parametrize("change", [pruned, weight_normed, weight_normed_of_old, spectrally_normed])
def test_weights_stored_in_parts_are_put_together(
    tmp_path: Path, pictures: Tensor, change: Callable[[nn.Sequential], None]
) -> None:
    module = network(5)
    change(module)
    loaded = load(tmp_path / "m", module.state_dict())
    plain = mnist_cnn(7).eval()
    if change is weight_normed_of_old:
        plain.load_state_dict({**network(5).state_dict(), "9.weight": network(5).state_dict()["9.weight"] * 2})
        assert agree(loaded, plain, pictures)
    else:
        assert agree(loaded, module, pictures)
    assert any("put together" in note for note in loaded.origin.assumed)
    if change is not spectrally_normed:
        save_like(loaded.origin, network(6).state_dict(), tmp_path / "again")
        assert agree(load_model(tmp_path / "again", architecture="mnist_cnn"), network(6), pictures)


def test_an_ordered_dictionary_with_attributes_is_plain(tmp_path: Path, model: nn.Module, pictures: Tensor) -> None:
    weights = OrderedDict(model.state_dict())
    weights._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    loaded = load(tmp_path / "m", {"net": weights})
    assert agree(loaded, model, pictures)
    assert not any("not built" in note for note in loaded.origin.assumed)
