"""scan, repair and fit_guard as a PyTorch user calls them: one module, many wrappings, the same answer."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import neural_cleanse as nc
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import DataError, InputSanityError, ModelError, OutputError, SettingsError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.mitigation.repair import METHODS
from neural_cleanse.mitigation.unlearning import Unlearning
from neural_cleanse.outputs import OutputKind

QUICK = nc.ScanSettings(patches_only=True, student=False, samples=300)
# One that keeps the first try: how well a repair works is tested elsewhere.
LENIENT = nc.RepairSettings(max_drop=0.05, max_asr=0.3, rounds=1)
Loader = DataLoader[tuple[Tensor, ...]]


class Halves(nn.Module):
    """The infected digits network for images normalised with mean 0.5 and standard deviation 0.5."""

    def __init__(self, inner: nn.Module, answer: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.inner, self.answer = copy.deepcopy(inner).requires_grad_(), answer
        self.dropout = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Any:
        return self.answer(self.dropout(self.inner(images * 0.5 + 0.5)))


ONE_LABEL = nc.ScanSettings(patches_only=True, samples=60, restarts=1, labels=(3,))


@pytest.fixture
def _quick_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One learning rate, without the searches beside it: how well a repair works is tested elsewhere."""
    once = Unlearning(epochs=4, least_batches=1, most_stamped=0.5, learning_rates=(2e-3,), strong_rate=None)
    monkeypatch.setitem(METHODS, "auto", (once,))


@pytest.fixture(scope="module")
def plain(infected: Classifier, digits: ImageSet) -> nc.ScanResult:
    """The network as it is, scanned for one label."""
    return nc.scan(infected, digits, ONE_LABEL)


@pytest.fixture
def model(infected: Classifier) -> Halves:
    return Halves(infected.module).train()


@pytest.fixture(scope="module")
def normalised(digits: ImageSet) -> Loader:
    assert digits.labels is not None
    return DataLoader(TensorDataset((digits.images / 255 - 0.5) / 0.5, digits.labels), batch_size=64, shuffle=True)


@pytest.fixture(scope="module")
def result(infected: Classifier, normalised: Loader) -> nc.ScanResult:
    return nc.scan(Halves(infected.module), normalised, QUICK, mean=0.5, std=0.5)


def test_a_module_and_a_loader_give_a_verdict_and_stay_as_they_were(model: Halves, normalised: Loader) -> None:
    model.inner.requires_grad_(False)
    for layer in list(model.inner.modules())[-1:]:
        layer.requires_grad_()
    asked = [parameter.requires_grad for parameter in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    told: list[Any] = []
    random = torch.get_rng_state()
    with torch.inference_mode():
        found = nc.scan(model, normalised, QUICK, mean=0.5, std=(0.5,), device="cpu", progress=told.append)
    assert torch.equal(torch.get_rng_state(), random)
    assert found.flagged == (3,) and told
    assert model.training and [parameter.requires_grad for parameter in model.parameters()] == asked
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert str(found).startswith("Backdoor found: label 3 (") and " px, median " in str(found)
    assert found.provenance.model["architecture"] == "Halves"


def test_the_same_seed_draws_the_same_images_from_a_shuffled_loader(
    result: nc.ScanResult, model: Halves, normalised: Loader
) -> None:
    torch.manual_seed(99)
    again = nc.scan(model, normalised, QUICK, mean=0.5, std=0.5)
    assert again.provenance.data["sha256"] == result.provenance.data["sha256"]
    assert [row.size for row in again.labels] == [row.size for row in result.labels]


class WithLogits:
    """As Hugging Face returns its answers."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    ("answer", "kind", "note"),
    [
        (lambda rows: rows.softmax(1), OutputKind.PROBABILITIES, None),
        (lambda rows: rows.log_softmax(1), OutputKind.LOG_PROBABILITIES, None),
        (torch.sigmoid, OutputKind.SIGMOID, None),
        (lambda rows: {"features": rows.sum(), "logits": rows}, OutputKind.LOGITS, "'logits'"),
        (lambda rows: {"features": rows.sum(1), "scores": rows}, OutputKind.LOGITS, "'scores'"),
        (lambda rows: (rows.sum(1), rows), OutputKind.LOGITS, "entry 1 of 2"),
        (lambda rows: (rows.repeat(1, 6), rows), OutputKind.LOGITS, "entry 1 of 2"),  # features beside the answers
        (lambda rows: rows[:, :, None, None], OutputKind.LOGITS, None),
        (WithLogits, OutputKind.LOGITS, "'logits'"),
    ],
)
def test_modules_may_answer_in_many_ways(
    infected: Classifier,
    digits: ImageSet,
    plain: nc.ScanResult,
    answer: Callable[[Tensor], Any],
    kind: OutputKind,
    note: str | None,
) -> None:
    found = nc.scan(Halves(infected.module, answer), digits, ONE_LABEL, mean=0.5, std=0.5)
    assert found.provenance.model["outputs"] == kind.value
    assert found.provenance.data["clean_accuracy"] == plain.provenance.data["clean_accuracy"]
    assert note is None or any(note in said for said in found.provenance.notes)


def test_logits_come_back_from_a_sigmoid_with_a_gradient() -> None:
    logits = torch.tensor([[-3.0, 0.0, 2.0], [40.0, -200.0, 1.0]], requires_grad=True)
    back = Classifier(nn.Identity(), (1, 2, 2), 3, outputs=OutputKind.SIGMOID).as_logits(logits.sigmoid())
    assert torch.allclose(back[0], logits[0], atol=1e-5)
    assert torch.isfinite(back).all()
    assert torch.isfinite(torch.autograd.grad(back.sum(), logits)[0]).all()


def test_what_cannot_be_scanned_is_refused_with_a_cure_in_keywords(digits: ImageSet, infected: Classifier) -> None:
    with pytest.raises(ModelError, match=r"A dict is not a model.*nc\.load"):
        nc.scan({}, digits)
    with pytest.raises(UnusableOutputs, match="no entry is known"):
        nc.scan(Halves(infected.module, lambda rows: [rows[0], "x"]), digits)
    with pytest.raises(UnusableOutputs, match="answers differently"):
        nc.scan(Halves(infected.module, lambda rows: rows + torch.rand_like(rows)), digits)
    with pytest.raises(UnusableOutputs, match=r"fails on images of shape 1x28x28.*resize="):
        nc.scan(nn.Sequential(nn.Flatten(), nn.Linear(5, 3)), digits)
    with pytest.raises(ModelError, match="never run"):
        nc.scan(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), digits)
    with pytest.raises(TypeError, match=r"'restarts'.*ScanSettings"):
        nc.scan(infected, digits, restarts=1)  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match="Both trigger= and inversion="):
        nc.scan(infected, digits, trigger=nc.PatchTrigger, inversion=nc.Inversion())
    with pytest.raises(SettingsError, match="mean= needs a number"):
        nc.scan(infected, digits, mean="half")  # type: ignore[arg-type]


def test_a_wrong_size_names_the_keyword_and_not_the_option(demo_files: Path, digits: ImageSet) -> None:
    small = torch.nn.functional.interpolate(digits.images.float(), (20, 20)).to(torch.uint8)
    with pytest.raises(DataError, match=r"resize=\(28, 28\)") as raised:
        nc.scan(nc.load(demo_files / "infected.safetensors"), small)
    assert "--" not in str(raised.value)


def test_a_normalisation_that_does_not_fit_the_images_is_warned_of(model: Halves, normalised: Loader) -> None:
    settings = nc.ScanSettings(patches_only=True, samples=60, restarts=1, labels=(3,))
    with pytest.warns(UserWarning, match="are not those that they were normalised with"):
        found = nc.scan(model, normalised, settings, mean=0.47, std=0.46)
    assert any("are not those that they were normalised with" in note for note in found.provenance.notes)


def test_a_wrong_form_stops_or_is_warned_of_in_keywords(infected: Classifier, digits: ImageSet) -> None:
    settings = nc.ScanSettings(patches_only=True, restarts=1, labels=(3,))
    with pytest.raises(InputSanityError, match=r"With pixels in \[0, 1\] \(no mean=, .*ScanSettings\(force=True\)"):
        nc.scan(infected, digits, settings, mean=0.9, std=0.05)
    told: list[Any] = []
    with pytest.warns(UserWarning, match=r"With pixels in \[0, 1\] \(no mean=, ") as caught:
        nc.scan(infected, digits, replace(settings, force=True), mean=0.9, std=0.05, progress=told.append)
    assert len(caught) == 1
    warned = next(progress for progress in told if progress.warnings)
    assert warned.finished == () and warned.phase.done == 0, "before the search"
    assert warned.warnings == (str(caught[0].message),)


def test_own_parts_are_used(infected: Classifier, digits: ImageSet) -> None:
    settings = nc.ScanSettings(patches_only=True, samples=60, labels=(3, 4))
    whole = nc.Inversion(steps=7, restarts=1)
    found = nc.scan(infected, digits, settings, inversion=whole, plan=nc.plans.FullSweep())
    assert found.provenance.settings["inversion"]["steps"] == 7
    assert found.provenance.settings["search"]["name"] == "FullSweep"

    class Own(nc.PatchTrigger):
        """Another kind of trigger."""

    found = nc.scan(infected, digits, settings, trigger=Own, plan=nc.plans.FullSweep())
    assert found.provenance.settings["inversion"]["trigger"] == "Own"


def test_a_half_precision_module_is_scanned_in_float32(infected: Classifier, digits: ImageSet) -> None:
    settings = nc.ScanSettings(patches_only=True, samples=60, restarts=1, labels=(3,))
    found = nc.scan(copy.deepcopy(infected.module).half(), digits, settings)
    assert "weights of float16 were scanned as float32" in found.provenance.notes


def test_a_path_and_what_load_returns_are_models(demo_files: Path, digits: ImageSet) -> None:
    path = demo_files / "infected.safetensors"
    settings = nc.ScanSettings(patches_only=True, samples=60, restarts=1, labels=(3, 4))
    ways = [nc.scan(one, demo_files / "digits.npz", settings) for one in (path, str(path), nc.load(path))]
    assert len({found.provenance.model["sha256"] for found in ways}) == 1
    assert len({tuple(row.size for row in found.labels) for found in ways}) == 1


@pytest.mark.usefixtures("nothing_found_again", "_quick_repairs")
def test_repair_takes_the_form_from_the_scan_and_saves_what_the_module_loads(
    result: nc.ScanResult, model: Halves, normalised: Loader, tmp_path: Path
) -> None:
    repaired = nc.repair(model, result, normalised, LENIENT)
    assert repaired.repaired and str(repaired).startswith("Repaired: ")
    repaired.save(tmp_path / "fixed.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "fixed.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    own = copy.deepcopy(model)
    own.load_state_dict(safetensors.torch.load_file(tmp_path / "fixed.safetensors"))
    assert any(not torch.equal(model.state_dict()[name], tensor) for name, tensor in own.state_dict().items())
    assert repaired.module.training and next(repaired.module.parameters()).requires_grad
    assert nc.scan(own, normalised, QUICK, mean=0.5, std=0.5).flagged == ()
    assert "<h" in repaired.report() and repaired.report("markdown") == repaired.report("md") != ""
    with pytest.raises(SettingsError, match="no report 'json' of a repair"):
        repaired.report("json")
    with pytest.raises(OutputError, match=r"overwrite=True"):
        repaired.save(tmp_path / "fixed.safetensors")
    with pytest.raises(SettingsError, match="does not end in"):
        repaired.save(tmp_path / "fixed.onnx")
    with pytest.raises(SettingsError, match="The scan is of another model"):
        nc.repair(own, result, normalised)
    with pytest.raises(SettingsError, match="The scan read the model with"):
        nc.repair(model, result, normalised, mean=0.4, std=0.5)


@pytest.mark.usefixtures("nothing_found_again", "_quick_repairs")
def test_a_repaired_file_is_saved_in_the_container_it_came_in(
    demo_files: Path, digits: ImageSet, tmp_path: Path, scanned_infected: Path
) -> None:
    path, found = demo_files / "infected.safetensors", nc.ScanResult.load(scanned_infected)
    repaired = nc.repair(path, found, digits, LENIENT)
    repaired.save(tmp_path / "fixed.safetensors")
    assert repaired.result.provenance.settings["samples"] == 10_000
    assert nc.load(tmp_path / "fixed.safetensors").origin.container == nc.load(path).origin.container
    with pytest.raises(OutputError, match="original is never overwritten"):
        repaired.save(path, overwrite=True)
    with pytest.raises(OutputError, match=r"would hold a safetensors file.*Name it .*fixed\.safetensors"):
        repaired.save(tmp_path / "fixed.onnx")
    assert not (tmp_path / "fixed.onnx").exists()


def test_a_model_with_nothing_to_repair_is_not_saved(clean: Classifier, digits: ImageSet, tmp_path: Path) -> None:
    found = nc.scan(clean, digits, QUICK)
    assert str(found).startswith("Nothing found: 10 labels, smallest trigger ")
    done = nc.repair(clean, found, digits)
    with pytest.raises(OutputError, match="no repaired model") as refused:
        done.save(tmp_path / "fixed.safetensors")
    assert "method=" not in refused.value.cure
    unsure = replace(found, verdict=nc.Verdict.INCONCLUSIVE)
    assert "RepairSettings(labels='all')" in str(nc.repair(clean, unsure, digits))
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingsError, match="flagged nothing"):
        nc.fit_guard(clean, found, digits)


def doubled(module: nn.Module) -> None:
    """Other weights."""
    for weight in module.parameters(recurse=False):
        weight.mul_(2)


def test_a_guard_rejects_triggered_images_and_is_saved(
    result: nc.ScanResult, model: Halves, normalised: Loader, digits: ImageSet, tmp_path: Path
) -> None:
    guard = nc.fit_guard(model, result, normalised, false_positive_rate=0.1)
    triggered = result.trigger(3)(digits.images[:40].float().unsqueeze(0) / 255).squeeze(0)
    assert guard.check((triggered - 0.5) / 0.5).accepted.float().mean() < 0.2
    assert guard.check(digits).accepted.float().mean() > 0.8
    guard.save(tmp_path / "guard")
    again = nc.Guard.load(tmp_path / "guard", guard.guard.classifier)
    assert torch.equal(again.check(digits.images).score, guard.check(digits).score)
    own = nc.Guard.load(tmp_path / "guard", model)
    assert torch.equal(own.check(digits.images).score, guard.check(digits).score)
    with pytest.raises(SettingsError, match="reads pixels in"):
        nc.Guard.load(tmp_path / "guard", model, mean=0.0, std=1.0)
    with pytest.raises(SettingsError, match="fitted to another model"):
        nc.Guard.load(tmp_path / "guard", copy.deepcopy(model).requires_grad_(False).apply(doubled))
    with pytest.raises(ModelError, match="is not a model"):
        nc.Guard.load(tmp_path / "guard", {"weights": 1})
    in_colour = digits.images.expand(-1, 3, -1, -1)
    assert torch.equal(guard.check(in_colour).score, guard.check(digits).score), "grey images in three channels"
    assert str(guard).startswith("Guard: rejects ")
    for checks in (guard, again):
        with pytest.raises(DataError, match=r"The images are 3x32x32, the model takes 1x28x28"):
            checks.check(torch.zeros(2, 3, 32, 32))


def test_a_wrong_normalisation_is_named_with_keywords(infected: Classifier, digits: ImageSet) -> None:
    named = r"With pixels in \[0, 1\] \(no mean=, std=, scale=\) it would be 9[89]\.\d% \(500 images\)"
    with pytest.raises(InputSanityError, match=named) as refused:
        nc.scan(infected.module, (digits.images, digits.labels), nc.ScanSettings(), mean=0.485, std=0.229)
    assert (
        refused.value.cure == "Look up what the model was trained on, and give it (this form may only be near it); "
        "ScanSettings(force=True) if it is the form given."
    )


def test_a_guard_fitted_with_normalised_floats_takes_floats_so(
    result: nc.ScanResult, model: Halves, normalised: Loader, digits: ImageSet, tmp_path: Path
) -> None:
    fitted = nc.fit_guard(model, result, normalised, false_positive_rate=0.1)
    fitted.save(tmp_path / "guard")
    again = nc.Guard.load(tmp_path / "guard", fitted.guard.classifier)
    bright = digits.images[:20] // 2 + 128
    as_floats = (bright / 255 - 0.5) / 0.5
    assert float(as_floats.min()) >= 0 and float(as_floats.max()) <= 1
    known = fitted.check(bright).logits
    for guard in (fitted, again):
        assert torch.allclose(guard.check(as_floats).logits, known, atol=1e-3)
    raw = nc.fit_guard(model, result, digits, false_positive_rate=0.1)
    assert torch.allclose(raw.check(bright / 255).logits, known, atol=1e-3)
    description = tmp_path / "guard" / "guard.json"
    described = json.loads(description.read_text())
    assert described.pop("normalised_images") is True
    description.write_text(json.dumps(described))
    older = nc.Guard.load(tmp_path / "guard", fitted.guard.classifier)
    assert torch.allclose(older.check(bright / 255).logits, known, atol=1e-3)
    assert torch.allclose(again.check(bright.float()).logits, known, atol=1e-3), "floats up to 255"
    with pytest.raises(DataError, match=r"neither in \[0, 1\] nor 0 to 255"):
        again.check(bright.float() * 3)
