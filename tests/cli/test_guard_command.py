"""`guard fit` and `guard check` as a script sees them."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from shell import Ran, files_under, refused, run, strict

from neural_cleanse.cli.guard import _tell
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.load import load_model
from neural_cleanse.metrics import stamped
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.guard import Guard


@pytest.fixture(scope="module")
def fitted(demo_files: Path, scanned_infected: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    """A guard of all the demo's digits at 5 %, with --json."""
    directory = tmp_path_factory.mktemp("fitted") / "guard"
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    ran = run(
        "guard",
        "fit",
        model,
        "--scan",
        scanned_infected,
        "--data",
        data,
        "--fpr",
        0.05,
        "--output",
        directory,
        "--json",
    )
    return ran, directory


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, digits: ImageSet, recovered: Backdoor) -> Path:
    """Twenty digits, clean and with the trigger: as an .npz, and as two class folders of the same file names."""
    assert digits.labels is not None
    root = tmp_path_factory.mktemp("images")
    clean = digits.images[digits.labels != 3][::22][:20]
    bad = stamped(recovered.trigger, clean)
    np.savez(root / "clean.npz", images=clean[:, 0].numpy())
    np.savez(root / "both.npz", images=np.concatenate([clean[:, 0].numpy(), bad[:, 0].numpy()]))
    for name, part in (("a", clean), ("b", bad)):
        (root / "folder" / name).mkdir(parents=True)
        for number, image in enumerate(part):
            Image.fromarray(image[0].numpy()).save(root / "folder" / name / f"{number}.png")
    return root


@pytest.fixture
def check(demo_files: Path, fitted: tuple[Ran, Path]) -> Callable[..., Ran]:
    def call(where: Path, *options: object) -> Ran:
        return run(
            "guard", "check", where, "--model", demo_files / "infected.safetensors", "--guard", fitted[1], *options
        )

    return call


# --- fit ---


def test_fitted_is_exit_code_0_and_json(fitted: tuple[Ran, Path]) -> None:
    ran, directory = fitted
    assert ran.code == 0, ran.err
    told = strict(ran.out)
    rejected, (of_label,) = (told["measured"][name] for name in ("clean_rejected", "label_rejected"))
    assert 390 <= rejected["trials"] <= 410 and rejected["hits"] == of_label["hits"]
    assert of_label["label"] == 3 and of_label["interval"][0] <= 0.1, "the threshold is one of 80 images itself"
    (passed,) = told["measured"]["triggered_passed"]
    assert passed["target"] == 3 and passed["share"] < 0.05
    assert set(files_under(directory)) == {"guard.json", "guard.safetensors", "options.json"}
    kept = strict((directory / "guard.json").read_text())
    assert kept["model_sha256"] == told["model_sha256"] and kept["false_positive_rate"] == 0.05


def test_three_lines_of_python(fitted: tuple[Ran, Path], demo_files: Path, digits: ImageSet) -> None:
    classifier = load_model(demo_files / "infected.safetensors").classifier
    guard = Guard.load(str(fitted[1]), classifier)
    assert guard.check(digits.images).accepted.float().mean() > 0.95


def test_a_directory_in_use_needs_overwrite(demo_files: Path, scanned_infected: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    arguments = [
        "guard", "fit", demo_files / "infected.safetensors", "--scan", scanned_infected, "--data",
        demo_files / "digits.npz", "--samples", 200, "--output", tmp_path,
    ]  # fmt: skip
    refused(run(*arguments), "--overwrite")
    ran = run(*arguments, "--overwrite")
    assert ran.code == 0 and "asked for 5.0%" in ran.out and "still get that label" in " ".join(ran.out.split())
    assert "next: " in ran.out and "  neural-cleanse guard check IMAGES --model" in ran.out
    assert set(files_under(tmp_path)) == {"mine.txt", "guard.json", "guard.safetensors", "options.json"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fpr", "0"), "between 0 and 1"),
        (("--fpr", "nan"), "between 0 and 1"),
        (("--fpr", "0.001", "--samples", "100"), "are needed"),
        (("--labels", "99"), "no trigger for any of the labels 99"),
        (("--labels", "x"), "not a list of labels"),
        (("--labels", ""), ""),
        (("--features", "0"), "no linear layer '0'"),
        (("--resize", "20x20"), "28x28"),
        (("--mean", "0.5"), "Pass the same --mean"),
    ],
    ids=str,
)
def test_what_cannot_be_fitted(
    demo_files: Path, scanned_infected: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    if "--resize" in options:
        with np.load(data) as archive:
            np.savez(tmp_path / "small.npz", images=archive["images"][:, :20, :20])
        data, options = tmp_path / "small.npz", ()
    ran = run("guard", "fit", model, "--scan", scanned_infected, "--data", data, "--output", tmp_path / "g", *options)
    refused(ran, words)
    assert not (tmp_path / "g").exists()


def test_the_scan_of_another_model_is_refused(demo_files: Path, scanned_infected: Path, tmp_path: Path) -> None:
    model, data = demo_files / "clean.safetensors", demo_files / "digits.npz"
    ran = run("guard", "fit", model, "--scan", scanned_infected, "--data", data, "--output", tmp_path / "g")
    refused(ran, "Scan this model first")


def test_a_scan_that_flagged_nothing_has_nothing_to_guard_against(
    demo_files: Path, scanned_infected: Path, tmp_path: Path
) -> None:
    for name in ("scan.json", "triggers.safetensors"):
        (tmp_path / name).write_bytes((scanned_infected / name).read_bytes())
    raw = json.loads((tmp_path / "scan.json").read_text())
    (tmp_path / "scan.json").write_text(json.dumps(raw | {"flagged": [], "evidence": [], "verdict": "clean"}))
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    arguments = ("guard", "fit", model, "--scan", tmp_path, "--data", data, "--samples", 200)
    refused(run(*arguments, "--output", tmp_path / "g"), "flagged nothing")
    assert run(*arguments, "--output", tmp_path / "g", "--labels", "3").code == 0, "a label can be named all the same"


# --- check ---


def test_all_accepted_is_exit_code_0(check: Callable[..., Ran], images: Path, tmp_path: Path) -> None:
    ran = check(images / "clean.npz", "--copy-rejected", tmp_path / "aside")
    assert ran.code == 0, ran.out + ran.err
    assert "0 of 20 images rejected" in ran.out
    assert not (tmp_path / "aside").exists(), "nothing to copy, nothing made"


def test_some_rejected_is_exit_code_1_and_json(check: Callable[..., Ran], images: Path) -> None:
    ran = check(images / "both.npz", "--json")
    assert ran.code == 1, ran.err
    rows = strict(ran.out)["images"]
    assert [row["image"] for row in rows] == list(range(40))
    rejected = [row["image"] for row in rows if not row["accepted"]]
    assert set(rejected) <= set(range(20, 40)) and len(rejected) >= 18
    assert all(row["label"] == 3 for row in rows if row["image"] in rejected)
    assert all((row["score"] is None) == (row["label"] != 3) for row in rows), "no other label is guarded"
    assert all(row["accepted"] == (row["score"] <= 0) for row in rows if row["score"] is not None)
    assert f"{len(rejected)} of 40 images rejected" in check(images / "both.npz").out


def test_at_most_says_how_many_rejected_are_no_alarm(check: Callable[..., Ran], images: Path, demo_files: Path) -> None:
    """A guard rejects some of the very images it was calibrated on, as it was asked to."""
    assert check(demo_files / "digits.npz").code == 1
    calm = check(demo_files / "digits.npz", "--at-most", 0.05, "--json")
    assert calm.code == 0, calm.err
    told = strict(calm.out)
    rejected = sum(not row["accepted"] for row in told["images"])
    assert rejected > 0 and told["rejected_share"] == rejected / len(told["images"]) and told["at_most"] == 0.05
    assert check(images / "both.npz", "--at-most", 0.3).code == 1
    assert check(images / "both.npz", "--at-most", 1).code == 0
    share = strict(check(images / "both.npz", "--json").out)["rejected_share"]
    assert check(images / "both.npz", "--at-most", share).code == 0, "no more than that"


def test_images_that_cannot_be_read_are_told_as_not_checked(
    check: Callable[..., Ran], images: Path, tmp_path: Path
) -> None:
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes((images / "folder" / "a" / name).read_bytes())
    broken = tmp_path / "2.png"
    broken.write_bytes((images / "folder" / "b" / "2.png").read_bytes()[:60])
    ran = check(tmp_path, "--skip-unreadable", "--at-most", 0.9)
    assert ran.code == 2, "nothing was rejected, and not all were checked"
    assert f"1 could not be read, and not checked: {broken}" in ran.out
    told = strict(check(tmp_path, "--skip-unreadable", "--json").out)
    assert told["not_checked"] == [str(broken)] and len(told["images"]) == 2


@pytest.mark.parametrize("wrong", ["-0.1", "1.5", "nan"])
def test_a_share_outside_zero_to_one_is_refused(check: Callable[..., Ran], images: Path, wrong: str) -> None:
    refused(check(images / "clean.npz", "--at-most", wrong), "between 0 and 1")


def test_rejected_files_are_copied_as_they_are(check: Callable[..., Ran], images: Path, tmp_path: Path) -> None:
    """Two folders with files of the same names: none is lost."""
    ran = check(images / "folder", "--copy-rejected", tmp_path / "aside", "--json")
    assert ran.code == 1, ran.err
    rejected = [Path(row["image"]) for row in strict(ran.out)["images"] if not row["accepted"]]
    assert all(path.parent.name == "b" for path in rejected) and len(rejected) >= 18
    copied = files_under(tmp_path / "aside")
    assert sorted(copied.values()) == sorted(path.read_bytes() for path in rejected)
    assert {name.split("_", 1)[1] for name in copied} == {path.name for path in rejected}
    refused(check(images / "folder", "--copy-rejected", tmp_path / "aside"), "not empty")


def test_rejected_arrays_become_pictures(check: Callable[..., Ran], images: Path, tmp_path: Path) -> None:
    ran = check(images / "both.npz", "--copy-rejected", tmp_path / "aside", "--json")
    rejected = [row["image"] for row in strict(ran.out)["images"] if not row["accepted"]]
    assert sorted(path.name for path in (tmp_path / "aside").iterdir()) == [f"{row:06d}.png" for row in rejected]
    with np.load(images / "both.npz") as archive:
        for row in rejected:
            assert np.array_equal(np.array(Image.open(tmp_path / "aside" / f"{row:06d}.png")), archive["images"][row])


def test_hostile_file_names_do_not_steer_the_terminal(check: Callable[..., Ran], images: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        source = images / "folder" / "b" / f"{number}.png"
        (tmp_path / "in" / f"\x1b[2J\u202e[red]{number}.png").write_bytes(source.read_bytes())
    ran = check(tmp_path / "in", "--copy-rejected", tmp_path / "aside")
    assert ran.code == 1 and not set(ran.out) & set("\x1b\u202e")


def test_what_cannot_be_checked(
    check: Callable[..., Ran], images: Path, demo_files: Path, fitted: tuple[Ran, Path], tmp_path: Path
) -> None:
    refused(check(images / "absent"), "There is no")
    refused(check(tmp_path), "holds no pictures")
    refused(check(images / "clean.npz", "--mean", "0.5"), "Pass the same --mean, --std and --scale")
    np.savez(tmp_path / "small.npz", images=np.zeros((3, 20, 20), np.uint8))
    refused(check(tmp_path / "small.npz"), "28x28")
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 28, 28), np.uint8))
    refused(check(tmp_path / "none.npz"), "not one image")
    red = np.zeros((3, 3, 28, 28), np.uint8)
    red[:, 0] = 200  # three equal channels would be grey, and taken as one
    np.savez(tmp_path / "colour.npz", images=red)
    refused(check(tmp_path / "colour.npz"), "3 channels")
    (tmp_path / "file").touch()
    refused(check(images / "both.npz", "--copy-rejected", tmp_path / "file"), "it is a file, a directory is needed")
    other = ("guard", "check", images / "clean.npz", "--model", demo_files / "clean.safetensors", "--guard")
    ran = run(*other, fitted[1])
    refused(ran, "was fitted for another model file (sha256 ")
    assert "clean.safetensors" in ran.err and "Fit it again for this model" in " ".join(ran.err.split())
    refused(run(*other, tmp_path / "absent"), "no guard in")


def test_a_guard_of_other_image_sizes_is_refused(
    images: Path, demo_files: Path, fitted: tuple[Ran, Path], tmp_path: Path
) -> None:
    for shape in ([3, 32, 32], 7):
        described = json.loads((fitted[1] / "guard.json").read_text()) | {"input_shape": shape}
        (tmp_path / "guard.json").write_text(json.dumps(described))
        arguments = ("guard", "check", images / "clean.npz", "--model", demo_files / "infected.safetensors", "--guard")
        said = "3x32x32" if isinstance(shape, list) else "7"
        refused(run(*arguments, tmp_path), f"was fitted for images of {said}, the model takes 1x28x28")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "guard.json is damaged"),
        (b"{", "guard.json is damaged"),
        (b"\xff", "guard.json is damaged"),
        (b"[]", "no guard of this version"),
        (b'{"schema_version": 1}', "no guard of this version"),
        (b'{"schema_version": 2}', "fitted for another model file"),
    ],
)
def test_a_damaged_guard_is_refused(
    images: Path, demo_files: Path, fitted: tuple[Ran, Path], tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "guard.safetensors").write_bytes((fitted[1] / "guard.safetensors").read_bytes())
    (tmp_path / "guard.json").write_bytes(content)
    arguments = ("guard", "check", images / "clean.npz", "--model", demo_files / "infected.safetensors", "--guard")
    refused(run(*arguments, tmp_path), said)
    (tmp_path / "guard.json").write_bytes((fitted[1] / "guard.json").read_bytes())
    (tmp_path / "guard.safetensors").write_bytes(content)
    refused(run(*arguments, tmp_path), "cannot be used")


def test_a_place_for_copies_that_is_a_file_names_its_option(
    check: Callable[..., Ran], images: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ran = check(images / "clean.npz", "--copy-rejected", tmp_path / "file")
    refused(ran, "Name another directory with --copy-rejected")


def test_a_threshold_that_too_few_images_set_says_how_many_it_needs() -> None:
    def told(hits: int, trials: int) -> str:
        rate = {"hits": hits, "trials": trials, "share": hits / trials, "interval": clopper_pearson(hits, trials)}
        measured = {"label_rejected": [{"label": 3, **rate}], "clean_rejected": rate, "triggered_passed": []}
        stream = io.StringIO()
        _tell(measured, 0.05, Console(file=stream, width=1000))
        return stream.getvalue()

    assert "Give some 190 clean images that get label 3 (there were some 50;" in told(5, 10)
    assert "Give" not in told(1, 20)
