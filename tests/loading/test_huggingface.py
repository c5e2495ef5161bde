"""Hugging Face directories: transformers' own outputs, none of the directory's code, and the way back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError, NeuralCleanseError, OutputError
from neural_cleanse.loading.huggingface.preprocessing import label_names, normalization
from neural_cleanse.loading.load import load_model
from neural_cleanse.loading.save import save_like

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PREPROCESSOR = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3], "rescale_factor": 1 / 255, "size": {"height": 16, "width": 16},
    "image_processor_type": "ViTImageProcessor",
}  # fmt: skip
NAMES = {0: "cat", 1: "dog", 2: "bird", 3: "fish", 4: "bee"}


def vit() -> Any:
    return transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
        id2label=NAMES, label2id={name: label for label, name in NAMES.items()},
    )  # fmt: skip


def resnet() -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )


def convnext() -> Any:
    return transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=5, image_size=16)


def swin() -> Any:
    return transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=5
    )


def mobilenet() -> Any:
    return transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.1, num_labels=5, tf_padding=False)


FAMILIES: dict[str, Callable[[], Any]] = {
    "vit": vit, "resnet": resnet, "convnext": convnext, "swin": swin, "mobilenet": mobilenet,
}  # fmt: skip


def saved(
    directory: Path, config: Any, preprocessor: dict[str, Any] | None = PREPROCESSOR, **options: Any
) -> nn.Module:
    """A network with seeded weights, saved as people save them."""
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.AutoModelForImageClassification.from_config(config).eval()
    for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr]
    network.save_pretrained(directory, **options)
    if preprocessor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return network  # type: ignore[no-any-return]


def edited(directory: Path, **changes: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A ViT with label names and a preprocessor."""
    directory = tmp_path_factory.mktemp("vit")
    return directory, saved(directory, vit())


@pytest.fixture
def copy(plain: tuple[Path, nn.Module], tmp_path: Path) -> Path:
    """The same, to be broken."""
    return Path(shutil.copytree(plain[0], tmp_path / "copy"))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# --- what can be read ---


def test_outputs_names_and_normalisation_are_the_directorys(plain: tuple[Path, nn.Module], pictures: Tensor) -> None:
    directory, network = plain
    loaded = load_model(directory)
    mean, std = (torch.tensor(PREPROCESSOR[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        expected = network(pixel_values=(pictures - mean) / std).logits
    assert torch.allclose(loaded.classifier(pictures), expected, atol=1e-5)
    assert (loaded.classifier.input_shape, loaded.classifier.num_classes) == ((3, 16, 16), 5)
    assert loaded.origin.label_names == tuple(NAMES.values())
    assert (loaded.origin.container, loaded.origin.trust) == ("Hugging Face directory", "tensors only")
    assert (loaded.origin.architecture, loaded.origin.assumed) == ("ViTForImageClassification", ())


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_networks_there_and_back(tmp_path: Path, family: str) -> None:
    side = 32 if family == "mobilenet" else 16
    network = saved(tmp_path / "m", FAMILIES[family](), None)
    loaded = load_model(tmp_path / "m", input_shape=(3, side, side))
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(2)).requires_grad_()
    logits = loaded.classifier(images)
    assert torch.allclose(logits, network(pixel_values=images).logits, atol=1e-5)
    logits.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    state = {name: tensor * 1.5 for name, tensor in loaded.classifier.module.state_dict().items()}
    save_like(loaded.origin, state, tmp_path / "out")
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out", local_files_only=True)
    loaded.classifier.module.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(again.eval()(images).logits, loaded.classifier(images), atol=1e-5)
        assert not torch.allclose(again(images).logits, logits, atol=1e-3)


def test_without_a_preprocessor_the_rest_is_assumed_aloud(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    origin = load_model(copy).origin
    assert any("no normalisation" in note for note in origin.assumed)
    shutil.rmtree(copy)
    saved(copy, resnet(), None)
    with pytest.raises(ModelError, match="which images"):
        load_model(copy)
    assert any("3x16x16" in note for note in load_model(copy, input_shape=(3, 16, 16)).origin.assumed)


@pytest.mark.parametrize(
    ("processor", "changes"),
    [
        ("ViTImageProcessor", {}),
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}),
        ("ViTImageProcessor", {"do_normalize": False}),
        ("ViTImageProcessor", {"do_rescale": False}),
        ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": True}),
        ("EfficientNetImageProcessor", {"rescale_offset": False, "include_top": True}),
    ],
)
def test_normalisation_is_that_of_transformers_own_processors(processor: str, changes: dict[str, Any]) -> None:
    described = PREPROCESSOR | {"image_processor_type": processor} | changes
    pixels = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    picture = Image.fromarray(np.asarray(pixels.permute(1, 2, 0).numpy()))
    own = getattr(transformers, f"{processor}Pil")(**{k: v for k, v in described.items() if "type" not in k})
    expected = torch.as_tensor(np.asarray(own(picture, return_tensors="np")["pixel_values"]))
    ours = normalization(described, "it")((pixels / 255).unsqueeze(0))
    assert torch.allclose(ours, expected.float(), atol=1e-4)


def test_blue_first_is_turned_round(copy: Path, plain: tuple[Path, nn.Module], pictures: Tensor) -> None:
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({"do_flip_channel_order": True, "do_normalize": False, "crop_size": 16}))
    loaded = load_model(copy)
    with torch.no_grad():
        expected = plain[1](pixel_values=pictures.flip(1)).logits
    assert torch.allclose(loaded.classifier(pictures), expected, atol=1e-5)
    assert loaded.classifier.normalize == Normalize()


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ({"10": "k", **{str(n): chr(97 + n) for n in reversed(range(10))}}, tuple("abcdefghijk")),
        ({"0": "LABEL_0", "1": "LABEL_1"}, None),
        ({"0": "a", "2": "c"}, None),
        ({"x": "a"}, None),
        ({"0": "a" * 10**6, "1": 7}, ("a" * 200, "7")),
        (["a", "b"], None),
    ],
)
def test_label_names_are_ordered_by_number_and_short(raw: Any, names: tuple[str, ...] | None) -> None:
    assert label_names({"id2label": raw}) == names


def test_shards_are_read_and_written_back(tmp_path: Path, pictures: Tensor) -> None:
    network = saved(tmp_path / "m", vit(), max_shard_size="8KB")
    shards = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert len(shards) > 1
    loaded = load_model(tmp_path / "m")
    state = {name: tensor * 2 for name, tensor in loaded.classifier.module.state_dict().items()}
    digest = save_like(loaded.origin, state, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == shards
    again = load_model(tmp_path / "out")
    assert again.origin.sha256 == digest
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
        expected = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")(pictures).logits
        assert torch.allclose(network(pictures).logits, expected, atol=1e-5)


def test_half_precision_stays_half_on_the_way_back(tmp_path: Path) -> None:
    saved(tmp_path / "m", resnet())
    path = tmp_path / "m" / "model.safetensors"
    halved = {name: tensor.half() for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(halved, path, metadata={"format": "pt"})
    edited(tmp_path / "m", dtype="float16")
    loaded = load_model(tmp_path / "m")
    assert {parameter.dtype for parameter in loaded.classifier.module.parameters()} == {torch.float32}
    save_like(loaded.origin, loaded.classifier.module.state_dict(), tmp_path / "out")
    kept = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert kept.keys() == halved.keys() and all(torch.equal(kept[name], halved[name]) for name in kept)


# --- the way back ---


def test_only_what_belongs_to_the_repaired_model_goes_along(copy: Path, tmp_path: Path) -> None:
    """Not the unrepaired weights in another form, nor code, nor what a link points to."""
    (copy / "README.md").write_text("a card")
    (copy / "pytorch_model.bin").write_bytes(b"old weights")
    (copy / "modeling.py").write_text("code")
    (copy / "secret.json").symlink_to("/etc/hostname")
    loaded = load_model(copy)
    save_like(loaded.origin, loaded.classifier.module.state_dict(), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert not list(tmp_path.glob(".*partial"))


def test_the_original_and_what_is_there_are_never_overwritten(copy: Path, tmp_path: Path) -> None:
    loaded, before = load_model(copy), sorted(copy.iterdir())
    state = loaded.classifier.module.state_dict()
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / "there").mkdir()
    for output, message in (
        (copy, "never overwritten"), (tmp_path / "link", "never overwritten"), (copy / "inside", "never overwritten"),
        (tmp_path / "there", "there already"), (tmp_path / "no" / "where", "cannot be written"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match=message):
            save_like(loaded.origin, state, output)
    assert sorted(copy.iterdir()) == before
    edited(copy, hidden_act="relu")
    with pytest.raises(OutputError, match="changed since"):
        save_like(loaded.origin, state, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what would run code, and what is broken ---


def test_code_that_comes_along_is_refused_unrun(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (copy / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\n")
    for auto_map in ({"AutoModelForImageClassification": "evil.Evil"}, {"AutoConfig": "evil.Evil"}):
        edited(copy, auto_map=auto_map, model_type="evil")
        for allow_code in (False, True):
            with pytest.raises(CodeExecutionRefused, match="auto_map"):
                load_model(copy, allow_code=allow_code)
    assert not marker.exists()


def test_weights_in_a_pickle_are_refused_with_a_cure(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(CodeExecutionRefused, match="save_pretrained"):
        load_model(copy)


TIMM = {"architecture": "resnet18", "num_classes": 5, "pretrained_cfg": {}}
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "hidden size": ({"hidden_size": 10**9}, "needs"),
    "layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers 1,000,000,000"),
    "depths": ({"model_type": "convnext", "depths": [10**8, 3]}, "depths 100,000,000"),
    "classes": ({"id2label": None, "num_labels": 10**6}, "at most 100,000"),
    "named classes": ({"id2label": {str(n): "" for n in range(200_000)}}, "at most 100,000"),
    "a few classes too many": ({"id2label": {str(n): "x" for n in range(9)}, "label2id": {}}, "fit|needs"),
    "a class too few": ({"id2label": {str(n): "x" for n in range(4)}, "label2id": {}}, "fit|needs"),
    "image size": ({"image_size": 10**6}, "needs|takes images"),
    "patch": ({"patch_size": 0}, "cannot build"),
    "activation": ({"hidden_act": "__import__('os').mkdir('x')"}, "cannot build"),
    "dtype": ({"dtype": "load", "torch_dtype": "load"}, ""),
    "attention from the hub": ({"_attn_implementation": "kernels-community/x", "attn_implementation": "a/b"}, ""),
    "kernels": ({"use_kernels": True}, "use_kernels"),
    "quantization": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    "another network": ({"backbone": "microsoft/resnet-50", "use_pretrained_backbone": True}, "backbone"),
    "unknown type": ({"model_type": "nonsense"}, "model type"),
    "no type": ({"model_type": None}, "model type"),
    "a type that is a path": ({"model_type": "../../evil"}, "model type"),
    "text model": ({"model_type": "bert"}, "cannot build|fit|needs"),
    "timm in transformers": ({"model_type": "timm_wrapper"}, "timm"),
    "methods": ({"to_dict": 1, "from_dict": 2, "get_text_config": 3}, ""),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_absurd_settings_are_refused_before_anything_is_built(copy: Path, case: str) -> None:
    changes, message = CONFIGS[case]
    (copy / "preprocessor_config.json").unlink()
    edited(copy, **changes)
    if message:
        with pytest.raises(ModelError, match=message):
            load_model(copy)
        return
    try:  # what makes no difference may be ignored
        assert load_model(copy).classifier.num_classes == 5
    except ModelError as error:
        assert "cannot build" in str(error)


FILES: dict[str, tuple[str, bytes, str]] = {
    "timm": ("config.json", json.dumps(TIMM).encode(), "timm needs torchvision.*ONNX"),
    "no json": ("config.json", b"{", "damaged"),
    "a list": ("config.json", b"[]", "damaged"),
    "deep": ("config.json", b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}", "damaged"),
    "fairly deep": (
        "config.json",
        b'{"model_type": "vit", "a":' + b"[" * 900 + b"]" * 900 + b"}",
        "deep|cannot build|needs",
    ),
    "long": ("config.json", b" " * 17 * 1024**2 + b"{}", "too large"),
    "weights": ("model.safetensors", bytes(100), "damaged"),
    "other weights": ("model.safetensors", safetensors.torch.save({"a": torch.zeros(10**5)}), "do not fit"),
    "mean": ("preprocessor_config.json", b'{"image_mean": [NaN,1,1], "image_std": [1,1,1]}', "preprocessor_config"),
    "std": ("preprocessor_config.json", b'{"image_mean": [0,0,0], "image_std": [0,0,0]}', "preprocessor_config"),
    "channels": ("preprocessor_config.json", b'{"image_mean": [0,0], "image_std": [1,1]}', "preprocessor_config"),
    "factor": ("preprocessor_config.json", b'{"rescale_factor": "x"}', "preprocessor_config"),
    "size": ("preprocessor_config.json", b'{"size": {"height": 100000, "width": 100000}}', "takes images"),
    "another size": ("preprocessor_config.json", b'{"size": {"height": 64, "width": 64}}', "fails on images"),
    "size of nothing": ("preprocessor_config.json", b'{"size": -3}', "takes images"),
}


@pytest.mark.parametrize("case", FILES)
def test_broken_files_end_in_one_message(copy: Path, case: str) -> None:
    name, content, message = FILES[case]
    (copy / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(copy)


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "model.bin", "missing.safetensors", ".."]
)
def test_an_index_names_files_of_its_directory_only(copy: Path, shard: str) -> None:
    (copy / "model.safetensors").rename(copy.parent / "outside.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match=r"no safetensors file|no model file"):
        load_model(copy)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "["])
def test_an_index_that_is_none(copy: Path, index: str) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match="damaged"):
        load_model(copy)


def test_a_directory_that_is_none_and_an_architecture_for_one(copy: Path) -> None:
    with pytest.raises(ModelError, match="names its network itself"):
        load_model(copy, architecture="mnist_cnn")
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"directory.*config\.json"):
        load_model(copy)
    (copy / "saved_model.pb").touch()
    with pytest.raises(ModelError, match="SavedModel"):
        load_model(copy)


def test_without_transformers_the_extra_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ModelError, match=r"neural-cleanse\[huggingface\]"):
        load_model(copy)


def test_weights_that_are_no_numbers(copy: Path) -> None:
    path = copy / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["classifier.bias"][2] = float("nan")
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError, match=r"NaN or Inf, in network\.classifier\.bias"):
        load_model(copy)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.just([]),
    st.lists(st.integers(-5, 5), max_size=4), st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_directories_raise_our_errors_only(plain: tuple[Path, nn.Module], data: st.DataObject) -> None:
    directory = plain[0].parent / "mutated"
    shutil.copytree(plain[0], directory, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["config.json", "preprocessor_config.json", "model.safetensors"]))
    if name.endswith("json") and data.draw(st.booleans()):
        raw = json.loads((directory / name).read_text())
        raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(VALUES)
        (directory / name).write_text(json.dumps(raw))
    else:
        content = bytearray((directory / name).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        (directory / name).write_bytes(bytes(content))
    try:
        assert load_model(directory).classifier.num_classes == 5
    except NeuralCleanseError as error:
        assert not isinstance(error, CheckpointMismatch) or "fit" in str(error) or "needs" in str(error)
