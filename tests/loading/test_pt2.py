"""torch.export archives: read exactly and for any batch size, written back, and harmless however hostile."""

import contextlib
import copy
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import CodeExecutionRefused, ModelError, NeuralCleanseError, UnknownFormat, UnusableOutputs
from neural_cleanse.loading.pt2 import reader as pt2
from neural_cleanse.loading.pt2.shapes import InPortions
from neural_cleanse.outputs import OutputKind
from neural_cleanse.probe import probe

SHAPE = (3, 8, 8)


class Small(nn.Module):
    """Convolutions, batch norm, in-place operators, a view with the batch size in it, a softmax at the end."""

    def __init__(self, softmax: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.drop, self.fc, self.softmax = nn.Dropout(0.5), nn.Linear(64, 5), softmax
        nn.init.uniform_(self.features[1].running_mean, -0.1, 0.1)
        nn.init.uniform_(self.features[1].running_var, 0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        first = self.features(images)
        both = nn.functional.relu6(first + self.depthwise(first), inplace=True)
        logits = self.fc(self.drop(both.view(both.shape[0], -1)))
        return logits.softmax(1) if self.softmax else logits


class Attention(nn.Module):
    """Patches, a class token expanded to the batch, attention with the batch in the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.rand(1, 1, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        count = images.shape[0]
        tokens = self.patches(images).reshape(count, 8, 4).permute(0, 2, 1)
        return self.head(self.encoder(torch.cat([self.token.expand(count, -1, -1), tokens], 1))[:, 0])


def exported(module: nn.Module, batch: int = 2, dynamic: bool = True, core: bool = False, **options: Any) -> bytes:
    """What torch.export writes."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        program = torch.export.export(module, (torch.rand(batch, *SHAPE),), dynamic_shapes=shapes, **options)
        torch.export.save(program.run_decompositions() if core else program, stream)
    return stream.getvalue()


def reopened(content: bytes) -> Callable[[Tensor], Tensor]:
    """Our own file in torch's own reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Callable[[Tensor], Tensor] = torch.export.load(io.BytesIO(content)).module()
    return module


@pytest.fixture(scope="module")
def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Small().eval()


@pytest.fixture(scope="module")
def content(small: nn.Module) -> bytes:
    return exported(small)


@pytest.fixture(scope="module")
def static(small: nn.Module) -> bytes:
    return exported(small, dynamic=False)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, *SHAPE, generator=torch.Generator().manual_seed(1))


def with_json(content: bytes, change: Callable[[dict[str, Any]], None], entry: str = "models/model.json") -> bytes:
    """The archive with one of its JSON entries changed."""
    parsed = json.loads(entries_of(content)[entry])
    change(parsed)
    return with_entries(content, {entry: json.dumps(parsed).encode()})


def entries_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def with_entries(content: bytes, changed: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with entries replaced, added, or (None) left out."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in (entries_of(content) | dict(changed)).items():
            if data is not None:
                archive.writestr(f"root/{name}", data)
    return stream.getvalue()


def graph_of(program: dict[str, Any]) -> dict[str, Any]:
    graph: dict[str, Any] = program["graph_module"]["graph"]
    return graph


# --- exact, for any batch size ---


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize(("batch", "dynamic"), [(2, True), (2, False), (1, False)])
@pytest.mark.parametrize("kind", [Small, Attention])
def test_every_kind_of_export_is_read_exactly(
    images: Tensor, kind: Callable[[], nn.Module], batch: int, dynamic: bool, core: bool
) -> None:
    module = kind().eval()
    network = pt2.read(exported(module, batch, dynamic, core), "m.pt2")
    expected = module(images)
    answers = network.module(images)
    if isinstance(module, Small):  # the softmax is left out
        answers = answers.softmax(1)
    assert torch.allclose(answers, expected, atol=1e-6)
    assert not isinstance(network.module, InPortions)
    assert (network.container, network.trust) == ("torch.export archive", "graph of known operators")
    assert network.input_shape == SHAPE
    assert network.findings == ()


def test_weights_are_layers_and_gradients_reach_the_pixels(content: bytes, small: nn.Module, images: Tensor) -> None:
    module = pt2.read(content, "m.pt2").module
    kinds = {name: type(layer) for name, layer in module.layers.items()}  # type: ignore[operator,union-attr]
    assert kinds == {
        "features_0": nn.Conv2d,
        "features_1": nn.BatchNorm2d,
        "depthwise": nn.Conv2d,
        "fc": nn.Linear,
    }
    assert probe(module, images, Normalize()) == (5, OutputKind.LOGITS)
    inputs = images.clone().requires_grad_()
    (ours,) = torch.autograd.grad(copy.deepcopy(module)(inputs).softmax(1)[:, 0].sum(), inputs)
    (theirs,) = torch.autograd.grad(small(inputs * 1)[:, 0].sum(), inputs)
    assert torch.allclose(ours, theirs, atol=1e-7)
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


class BatchFirstInMemory(nn.Module):
    """Ends in a reshape from which the place of a batch of one cannot be told."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 5)

    def forward(self, images: Tensor) -> Tensor:
        turned = images.permute(1, 0, 2, 3).reshape(3, -1, 64).roll(1, 0)
        return self.fc(turned.permute(1, 0, 2).reshape(images.shape[0], 192) * images.shape[0])


def test_what_cannot_be_lifted_goes_through_in_portions(images: Tensor) -> None:
    module = BatchFirstInMemory().eval()  # multiplies by the batch size, which is 2 in the file
    network = pt2.read(exported(module, 2, dynamic=False), "m.pt2")
    expected = torch.cat([module(images[at : at + 2])[: 7 - at] for at in range(0, 6, 2)])
    assert torch.allclose(network.module(images)[:6], expected, atol=1e-6)
    assert len(network.module(images)) == 7

    class ByPosition(nn.Module):
        """Adds another number to every image of the batch."""

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) + torch.arange(2.0)[:, None]

    network = pt2.read(exported(ByPosition(), 2, dynamic=False), "m.pt2")
    assert isinstance(network.module, InPortions)
    assert any("portions of 2" in note for note in network.assumed)
    assert len(network.module(images)) == 7


def test_other_precisions_are_computed_in_float32(images: Tensor) -> None:
    module = Small(softmax=False).eval()
    halved = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half = copy.deepcopy(module).half()
        torch.export.save(torch.export.export(half, (torch.rand(2, *SHAPE).half(),)), halved)
    network = pt2.read(halved.getvalue(), "m.pt2")
    assert torch.allclose(network.module(images), module(images), atol=1e-2)
    assert any("float16" in note for note in network.assumed)


def test_spatial_sizes_that_are_open_are_taken_from_the_example(images: Tensor) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    stream, dim = io.BytesIO(), torch.export.Dim
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: dim.AUTO, 2: dim.AUTO, 3: dim.AUTO},)
        torch.export.save(torch.export.export(module, (torch.rand(2, *SHAPE),), dynamic_shapes=shapes), stream)
    network = pt2.read(stream.getvalue(), "m.pt2")
    assert network.input_shape == SHAPE
    assert any("as its example was" in note for note in network.assumed)
    assert torch.allclose(network.module(images), module(images), atol=1e-6)


# --- back into the file ---


@pytest.mark.parametrize("core", [False, True])
def test_an_unchanged_network_is_the_same_file(small: nn.Module, core: bool) -> None:
    content = exported(small, core=core)
    assert pt2.rewrite(content, pt2.read(content, "m").module.state_dict()) == content


@pytest.mark.parametrize("core", [False, True])
def test_a_changed_network_opens_in_torch(small: nn.Module, images: Tensor, core: bool) -> None:
    content = exported(small, core=core)
    changed = copy.deepcopy(pt2.read(content, "m").module)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.25)
        changed.layers.features_0.weight[1] = 0  # type: ignore[index,union-attr]
    written = pt2.rewrite(content, changed.state_dict())
    assert torch.allclose(reopened(written)(images), changed(images).softmax(1), atol=1e-6)
    assert torch.equal(pt2.read(written, "m").module(images), changed(images))
    before, after = entries_of(content), entries_of(written)
    different = {name for name in before if before[name] != after[name]}
    assert different and all(name.startswith("data/weights/weight_") for name in different)
    assert zipfile.ZipFile(io.BytesIO(written)).testzip() is None


def test_a_weight_kept_the_other_way_round_is_a_layer_all_the_same(images: Tensor) -> None:
    class Product(nn.Module):
        """Multiplies with inputs x outputs, where nn.Linear keeps outputs x inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.rand(192, 5))

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.kernel

    module = Product().eval()
    content = exported(module)
    found = pt2.read(content, "m").module
    (layer,) = found.layers.children()  # type: ignore[union-attr]
    assert isinstance(layer, nn.Linear)
    assert torch.allclose(found(images), module(images), atol=1e-5)
    state = {key: value * 2 for key, value in found.state_dict().items()}
    assert torch.allclose(reopened(pt2.rewrite(content, state))(images), 2 * module(images), atol=1e-5)


def test_precision_stays_when_written_back() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO()
        module = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).half().eval()
        torch.export.save(torch.export.export(module, (torch.rand(2, *SHAPE).half(),)), stream)
    network = pt2.read(stream.getvalue(), "m").module
    state = {key: value + 0.5 for key, value in network.state_dict().items()}
    again = torch.export.load(io.BytesIO(pt2.rewrite(stream.getvalue(), state))).state_dict
    assert {tensor.dtype for tensor in again.values()} == {torch.float16}
    assert torch.equal(again["1.bias"].float(), state["layers.1.bias"].half().float())


# --- what runs code in torch.export.load ---


class Payload:
    """Unpickling it makes the directory `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def pickled(marker: Path) -> bytes:
    stream = io.BytesIO()
    torch.save(Payload(marker), stream)
    return stream.getvalue()


def attack_by_sample_inputs(content: bytes, marker: Path) -> bytes:
    return with_entries(content, {"data/sample_inputs/model.pt": pickled(marker)})


def attack_by_pickled_weight(content: bytes, marker: Path) -> bytes:
    config = "data/weights/model_weights_config.json"
    entry = json.loads(entries_of(content)[config])["config"]["fc.bias"]["path_name"]
    content = with_json(content, lambda parsed: parsed["config"]["fc.bias"].update(use_pickle=True), config)
    return with_entries(content, {f"data/weights/{entry}": pickled(marker)})


def attack_by_expression(content: bytes, marker: Path) -> bytes:
    code = f"__import__('os').mkdir({str(marker)!r}) or Symbol('s77', positive=True, integer=True)"

    def change(program: dict[str, Any]) -> None:
        for value in graph_of(program)["sym_int_values"].values():
            value["as_expr"]["expr_str"] = code
        for meta in graph_of(program)["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    return with_json(content, change)


def attack_by_guard(content: bytes, marker: Path) -> bytes:
    code = f"__import__('os').mkdir({str(marker)!r}) is None"
    return with_json(content, lambda program: program.update(guards_code=[code]))


@pytest.mark.parametrize("attack", [attack_by_sample_inputs, attack_by_expression, attack_by_guard])
def test_code_beside_the_network_is_not_run(
    tmp_path: Path, content: bytes, small: nn.Module, images: Tensor, attack: Callable[[bytes, Path], bytes]
) -> None:
    marker = tmp_path / "marker"
    hostile = attack(content, marker)
    network = pt2.read(hostile, "m.pt2")
    assert torch.allclose(network.module(images).softmax(1), small(images), atol=1e-6)
    assert [finding.runs_code for finding in network.findings if finding.runs_code]
    assert pt2.findings(hostile, "m.pt2") == network.findings
    pt2.rewrite(hostile, network.module.state_dict())
    assert not marker.exists()
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        torch.export.load(io.BytesIO(hostile)).module()(images)
    assert marker.exists(), "the attack must be a real one"


def test_pickled_weights_are_refused_unrun(tmp_path: Path, content: bytes) -> None:
    marker = tmp_path / "marker"
    hostile = attack_by_pickled_weight(content, marker)
    with pytest.raises(CodeExecutionRefused, match=r"fc\.bias.*Nothing of it was run"):
        pt2.read(hostile, "m.pt2")
    assert any(finding.runs_code for finding in pt2.findings(hostile, "m.pt2"))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.ops.higher_order.cond", "control flow"),
        ("torch.ops.higher_order.while_loop", "control flow"),
        ("torch.ops.mylib.backdoor.default", "custom operator"),
        ("os.system", "custom operator"),
        ("torch.ops.aten.rand_like.default", "not among the operators"),
        ("torch.ops.aten.__class__.default", "not among the operators"),
        (7, "damaged"),
    ],
)
def test_operators_outside_the_table_are_refused(content: bytes, target: str, message: str) -> None:
    def change(program: dict[str, Any]) -> None:
        graph_of(program)["nodes"][3]["target"] = target

    with pytest.raises(ModelError, match=message):
        pt2.read(with_json(content, change), "m.pt2")


def test_control_flow_in_a_real_export_is_found_and_refused() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            def brighter(x: Tensor) -> Tensor:
                return x.mean((2, 3)) * 2

            def darker(x: Tensor) -> Tensor:
                return x.mean((2, 3)) - 1

            return torch.cond(images.mean() > 0.5, brighter, darker, (images,))

    content = exported(Branching(), dynamic=False)
    with pytest.raises(ModelError, match="control flow"):
        pt2.read(content, "m.pt2")
    found = [finding.what for finding in pt2.findings(content, "m.pt2")]
    assert any(what.startswith("cond: control flow") for what in found)
    assert any(what.startswith("gt.Scalar: an answer that jumps") for what in found)


# --- what is not read ---


@pytest.mark.parametrize(
    ("entry", "data", "error"),
    [
        ("archive_version", b"1", ModelError),
        ("archive_version", None, ModelError),
        ("archive_format", b"pt1", UnknownFormat),
        ("archive_format", None, UnknownFormat),
        ("byteorder", b"big", ModelError),
        ("models/model.json", None, ModelError),
        ("models/other.json", b"{}", ModelError),
        ("models/model.json", b"[" * 100_000, ModelError),
        ("models/model.json", b"{}", ModelError),
        ("models/model.json", b"\xff\xfe", ModelError),
        ("data/weights/model_weights_config.json", None, ModelError),
        ("data/weights/weight_0", None, ModelError),
        ("data/weights/weight_0", b"\0" * 8, ModelError),
        ("data/weights/weight_0", b"\xff" * 432, ModelError),
    ],
)
def test_other_versions_and_missing_parts_are_refused(
    content: bytes, entry: str, data: bytes | None, error: type[ModelError]
) -> None:
    with pytest.raises(error, match=r"m\.pt2"):
        pt2.read(with_entries(content, {entry: data}), "m.pt2")


@pytest.mark.parametrize(("version", "read"), [((8, 14), True), ((8, 99), True), ((7, 3), False), ((9, 0), False)])
def test_the_schema_is_of_version_8(content: bytes, version: tuple[int, int], read: bool) -> None:
    schema = {"major": version[0], "minor": version[1]}
    changed = with_json(content, lambda program: program.update(schema_version=schema))
    if read:
        assert pt2.read(changed, "m.pt2").input_shape == SHAPE
    else:
        with pytest.raises(ModelError, match="schema"):
            pt2.read(changed, "m.pt2")


def test_compiled_code_is_found_and_never_loaded(content: bytes) -> None:
    with_library = with_entries(content, {"data/aotinductor/model/m.so": b"\x7fELF"})
    assert any(finding.runs_code for finding in pt2.read(with_library, "m.pt2").findings)
    alone = with_entries(with_library, {"models/model.json": None})
    with pytest.raises(ModelError, match="AOTInductor"):
        pt2.read(alone, "m.pt2")


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ModelError, match=r"training mode.*model\.eval"):
        pt2.read(exported(Small().train(), dynamic=False), "m.pt2")


def test_several_outputs_and_inputs_are_refused(images: Tensor) -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images.mean((2, 3)), images.amax((2, 3))

    with pytest.raises(UnusableOutputs, match="2 outputs"):
        pt2.read(exported(Two()), "m.pt2")

    class Pair(nn.Module):
        def forward(self, images: Tensor, others: Tensor) -> Tensor:
            return (images + others).mean((2, 3))

    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Pair(), (images, images)), stream)
    with pytest.raises(UnusableOutputs, match="2 inputs"):
        pt2.read(stream.getvalue(), "m.pt2")


# --- sizes and places ---


def weight_meta(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """Change what the archive says of the last layer's weight (5 x 64 float32)."""
    entry = "data/weights/model_weights_config.json"
    return lambda content: with_json(content, lambda parsed: change(parsed["config"]["fc.weight"]), entry)


def sizes(*values: Any) -> list[dict[str, Any]]:
    return [{"as_int": value} for value in values]


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["tensor_meta"].update(sizes=sizes(5, 2**40)),
        lambda entry: entry["tensor_meta"].update(sizes=sizes(2**31, 2**31), strides=sizes(0, 0)),
        lambda entry: entry["tensor_meta"].update(sizes=sizes(10**9, 64), strides=sizes(0, 1)),
        lambda entry: entry["tensor_meta"].update(sizes=sizes(-5, 64)),
        lambda entry: entry["tensor_meta"].update(sizes=sizes(5.0, 64)),
        lambda entry: entry["tensor_meta"].update(sizes=sizes(True, 64)),
        lambda entry: entry["tensor_meta"].update(sizes=sizes(10**400, 64)),
        lambda entry: entry["tensor_meta"].update(strides=sizes(64, -1)),
        lambda entry: entry["tensor_meta"].update(strides=sizes(65, 1)),
        lambda entry: entry["tensor_meta"].update(strides=sizes(1)),
        lambda entry: entry["tensor_meta"].update(storage_offset={"as_int": 1}),
        lambda entry: entry["tensor_meta"].update(storage_offset={"as_int": 2**62 - 1}),
        lambda entry: entry["tensor_meta"].update(dtype=8),
        lambda entry: entry["tensor_meta"].update(dtype=11),
        lambda entry: entry["tensor_meta"].update(layout=2),
        lambda entry: entry["tensor_meta"].update(sizes={"as_int": 3}),
        lambda entry: entry.update(tensor_meta=None),
        lambda entry: entry.update(path_name="../../../etc/passwd"),
        lambda entry: entry.update(path_name=7),
        lambda entry: entry.clear(),
    ],
)
def test_tensors_beyond_their_bytes_are_refused_before_they_are_made(
    content: bytes, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(ModelError):
        pt2.read(weight_meta(change)(content), "m.pt2")


def test_one_weight_under_a_million_names_takes_no_memory(content: bytes) -> None:
    def change(parsed: dict[str, Any]) -> None:
        weight = parsed["config"]["fc.weight"]
        parsed["config"].update({f"copy {number}": weight for number in range(3000)})

    padding = {"extra/nothing": b"\0" * 100_000}
    with pytest.raises(ModelError, match="would fill"):
        pt2.read(with_json(with_entries(content, padding), change, "data/weights/model_weights_config.json"), "m.pt2")


def arguments_of(program: dict[str, Any], target: str) -> dict[str, Any]:
    node = next(node for node in graph_of(program)["nodes"] if f".{target}." in node["target"])
    return {item["name"]: item["arg"] for item in node["inputs"]}


def grow_padding(program: dict[str, Any]) -> None:
    arguments_of(program, "conv2d")["padding"]["as_ints"] = [10**6, 10**6]


def grow_view(program: dict[str, Any]) -> None:
    graph = graph_of(program)
    node = next(node for node in graph["nodes"] if ".view." in node["target"])
    node["target"] = "torch.ops.aten.expand.default"
    arguments_of(program, "expand")["size"].clear()
    arguments_of(program, "expand")["size"]["as_ints"] = [10**6, 10**6, 10**6, 4]


def grow_input(program: dict[str, Any]) -> None:
    image = program["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"]["as_tensor"]["name"]
    graph_of(program)["tensor_values"][image]["sizes"][2:] = sizes(10**5, 10**5)


def grow_batch(program: dict[str, Any]) -> None:
    image = program["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"]["as_tensor"]["name"]
    graph_of(program)["tensor_values"][image]["sizes"][0] = {"as_int": 10**12}


@pytest.mark.parametrize("change", [grow_padding, grow_view, grow_input, grow_batch])
def test_a_graph_that_would_fill_our_memory_is_refused(static: bytes, change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(ModelError):
        pt2.read(with_json(static, change), "m.pt2")


def test_names_are_keys_and_never_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        for name in ("../evil", "/tmp/evil", "root/../../evil", "C:\\evil"):
            archive.writestr(name, b"x")
    assert pt2.read(stream.getvalue(), "m.pt2").input_shape == SHAPE
    assert not list(tmp_path.rglob("*"))


def test_compressed_and_doubled_entries_are_refused(content: bytes) -> None:
    bomb = with_entries(content, {"data/weights/weight_0": b"\0" * 10**6}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError):
        pt2.read(bomb, "m.pt2")
    with pytest.raises(ModelError, match="compressed"):
        pt2.read(with_entries(content, {}, zipfile.ZIP_DEFLATED), "m.pt2")
    stream = io.BytesIO(content)
    name = zipfile.ZipFile(stream).namelist()[0]
    with zipfile.ZipFile(stream, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(name, b"x")
    with pytest.raises(ModelError, match="two entries"):
        pt2.read(stream.getvalue(), "m.pt2")


def test_values_changed_in_place_under_a_view_are_refused_not_misread() -> None:
    class Sneaky(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            copied = images * 1
            window = copied[:, 0]
            window.mul_(0)
            return copied.mean((2, 3))

    with pytest.raises(ModelError, match="in place"):
        pt2.read(exported(Sneaky()), "m.pt2")
    core = exported(Sneaky(), core=True)  # the same without in-place operators
    images = torch.rand(3, *SHAPE)
    assert torch.allclose(pt2.read(core, "m.pt2").module(images), Sneaky()(images), atol=1e-6)


# --- chance ---


@pytest.fixture(scope="module")
def tiny() -> bytes:
    """A small file to break: the shorter it is, the more of its bytes matter."""
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()

    def strip(program: dict[str, Any]) -> None:
        for node in graph_of(program)["nodes"]:
            node["metadata"] = {}

    return with_json(exported(module, dynamic=False), strip)


def opened_or_refused(content: bytes) -> None:
    """Whatever the bytes: a network that our probe takes or refuses, or an error of ours."""
    try:
        network = pt2.read(content, "m.pt2")
        shape = network.input_shape or SHAPE
        probe(network.module, torch.rand(3, *shape), Normalize())
        pt2.rewrite(content, network.module.state_dict())
    except NeuralCleanseError:
        pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_raise_nothing_but_our_errors(tiny: bytes, data: st.DataObject) -> None:
    broken = bytearray(tiny)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(tiny) - 1))] = data.draw(st.integers(0, 255))
    opened_or_refused(bytes(broken[: data.draw(st.sampled_from([len(tiny)] * 3 + [len(tiny) // 2]))]))


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from(
        [2**31, 2**63, -(2**63), 10**30, 0.5, float("nan"), "Infinity", "x", "", [], {}, [[]], {"as_int": 0}]
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_json_raises_nothing_but_our_errors(tiny: bytes, data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(["models/model.json"] * 3 + ["data/weights/model_weights_config.json"]))
    parsed = json.loads(entries_of(tiny)[entry])
    everywhere = [path for path in places(parsed) if path]
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(everywhere))
        parent = parsed
        try:
            for key in path:
                parent = parent[key]
            parent[last] = data.draw(LEAVES)
        except (KeyError, IndexError, TypeError):  # changed away before
            continue
    opened_or_refused(with_entries(tiny, {entry: json.dumps(parsed).encode()}))


# --- other forms of input ---


class Formed(nn.Module):
    """A network behind `how`, which brings its input into the usual form."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.how = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)), how

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.how(images))


def archive_of(module: nn.Module, example: Tensor) -> bytes:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), (example,)), stream)
    return stream.getvalue()


def test_channels_that_come_last_are_turned() -> None:
    module = Formed(lambda images: images.permute(0, 3, 1, 2))
    found = pt2.read(archive_of(module, torch.rand(1, 8, 8, 3)), "m.pt2")
    images = torch.rand(4, *SHAPE)
    assert found.input_shape == SHAPE and any("channels come last" in note for note in found.assumed)
    assert torch.allclose(found.module(images), module(images.permute(0, 2, 3, 1)), atol=1e-5)


def test_pixels_of_a_byte_get_a_gradient_and_a_scale() -> None:
    module = Formed(lambda images: images.float() / 255)
    found = pt2.read(archive_of(module, torch.zeros(1, *SHAPE, dtype=torch.uint8)), "m.pt2")
    assert found.normalize == Normalize(scale=255)
    pixels = torch.randint(0, 256, (3, *SHAPE), dtype=torch.uint8)
    assert torch.allclose(found.module(pixels.float()), module(pixels), atol=1e-5)
    assert probe(found.module, torch.rand(8, *SHAPE), Normalize(scale=255))[0] == 5


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resizing_with_antialias_as_torchvision_does(mode: str) -> None:
    module = Formed(lambda images: nn.functional.interpolate(images, (8, 8), mode=mode, antialias=True))
    found = pt2.read(archive_of(module, torch.rand(1, 3, 12, 12)), "m.pt2")
    images = torch.rand(4, 3, 12, 12)
    assert torch.allclose(found.module(images), module(images), atol=1e-5)


@pytest.mark.parametrize(
    ("how", "example", "note"),
    [
        (lambda rows: rows.unflatten(1, SHAPE), torch.rand(2, 192), "three channels"),
        (lambda planes: planes[:, None].expand(-1, 3, -1, -1), torch.rand(2, 8, 8), "one channel"),
    ],
)
@pytest.mark.parametrize("batch", [2, None])
def test_rows_of_pixels_and_images_without_channels_are_read(
    how: Callable[[Tensor], Tensor], example: Tensor, note: str, batch: int | None
) -> None:
    module, stream = Formed(how).eval(), io.BytesIO()
    sizes = None if batch else ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=sizes), stream)
    found = pt2.read(stream.getvalue(), "m.pt2")
    assert found.input_shape is not None and any(note in said for said in found.assumed)
    images = torch.rand(4, *found.input_shape)
    assert torch.allclose(found.module(images), module(images.reshape(4, *example.shape[1:])), atol=1e-5)


def test_whole_numbers_are_pixels_from_0_to_255() -> None:
    module = Formed(lambda images: images.float() / 255)
    found = pt2.read(archive_of(module, torch.zeros(1, *SHAPE, dtype=torch.int64)), "m.pt2")
    pixels = torch.randint(0, 256, (3, *SHAPE))
    assert found.normalize == Normalize(scale=255) and "pixels from 0 to 255" in found.assumed[0]
    assert torch.allclose(found.module(pixels.float()), module(pixels), atol=1e-5)


@pytest.mark.parametrize("example", [torch.rand(2, 10), torch.rand(2, 3, 4, 4, 4), torch.zeros(2, 1, 8, 8) > 0])
def test_input_that_is_no_image_is_refused_with_what_to_do(example: Tensor) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Flatten())
    with pytest.raises(ModelError) as refused:
        pt2.read(archive_of(module, example), "m.pt2")
    assert refused.value.cure
