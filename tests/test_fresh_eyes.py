"""What a new user and a breaker ran into, each once."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.cli.main import run
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.errors import DataError, InputSanityError, UnknownFormat, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.probe import probe
from neural_cleanse.report.output_dir import write
from neural_cleanse.results.records import Verdict


def test_labels_that_were_left_out_are_never_clean(infected: Classifier, digits: ImageSet) -> None:
    """Label 3 holds the backdoor; a scan of six others must not clear the model."""
    result = scan(infected, digits, ScanSettings(patches_only=True, labels=(0, 1, 2, 4, 5, 6), restarts=1))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "4 of the model's labels were not searched" in result.reason


def test_overwriting_keeps_files_that_no_scan_wrote(infected: Classifier, digits: ImageSet, tmp_path: Path) -> None:
    result = scan(infected, digits, ScanSettings(patches_only=True, restarts=1))
    mine = tmp_path / "label_3" / "mine.csv"
    mine.parent.mkdir()
    mine.write_text("data")
    (tmp_path / "label_7").mkdir()
    (tmp_path / "label_7" / "mask.png").write_bytes(b"of an earlier scan")
    write(result, tmp_path)
    assert mine.read_text() == "data" and (tmp_path / "label_3" / "mask.png").exists()
    assert not (tmp_path / "label_7").exists()


class _Forward(nn.Module):
    """A linear network with a forward of somebody's own making."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(16, 3), kind

    def forward(self, images: Tensor) -> Tensor:
        if self.kind == "fixed batch":
            return self.linear(images.reshape(8, 16))
        logits = self.linear(images.flatten(1))
        if self.kind == "one-hot":
            return nn.functional.one_hot(logits.argmax(1), 3).float()
        if self.kind == "integers":
            return (logits * 100).long()
        with torch.no_grad():
            return self.linear(images.flatten(1))


@pytest.mark.parametrize("kind", ["fixed batch", "one-hot", "integers", "no_grad"])
def test_a_network_that_cannot_be_searched_is_refused_before_the_search(kind: str) -> None:
    with pytest.raises(UnusableOutputs):
        probe(_Forward(kind), torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)), Normalize())


def test_a_caller_under_no_grad_gets_the_same_result(infected: Classifier, digits: ImageSet) -> None:
    settings = ScanSettings(patches_only=True, labels=(2, 3, 4), restarts=1)
    with torch.no_grad():
        inside = scan(infected, digits, settings)
    assert [row.size for row in inside.labels] == [row.size for row in scan(infected, digits, settings).labels]


def test_repeated_images_confirm_nothing(infected: Classifier, digits: ImageSet) -> None:
    """Ten images, each forty times, are ten images: too few to search with."""
    repeated = digits.take(torch.arange(0, 500, 50).repeat(40))
    result = scan(infected, repeated, ScanSettings(patches_only=True, restarts=1))
    assert result.verdict is Verdict.INCONCLUSIVE and result.provenance.data["images_used"] == 10
    assert any("390 images are repetitions" in note for note in result.provenance.notes)


def test_images_of_one_class_are_called_that(infected: Classifier, digits: ImageSet) -> None:
    assert digits.labels is not None
    ones = digits.take((digits.labels == 1).nonzero().squeeze(1))
    with pytest.raises(InputSanityError, match=r"different ones: \d+\) have one label alone"):
        scan(infected, ones, ScanSettings(patches_only=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnknownFormat, match="no regular file"):
        load_model(tmp_path / "pipe")
    with pytest.raises(DataError):
        load_data(tmp_path / "pipe")


def test_a_chatty_architecture_does_not_spoil_the_json(
    infected: Classifier,
    demo_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "net.py").write_text(
        "from neural_cleanse.loading.architectures import mnist_cnn\nprint('hello')\n"
        "def build():\n    print('again')\n    return mnist_cnn()\n"
    )
    arguments = [str(demo_files / "infected.safetensors"), "--data", str(demo_files / "digits.npz"), "--json"]
    arguments += ["--architecture", f"{tmp_path / 'net.py'}:build", "--allow-code", "--labels", "3", "--restarts", "1"]
    monkeypatch.setattr(sys, "argv", ["neural-cleanse", "scan", *arguments])
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 3
    assert json.loads(capfd.readouterr().out)["verdict"] == "inconclusive"


def test_distinct_keeps_the_first_of_each(digits: ImageSet) -> None:
    twice = dataclasses.replace(digits, images=digits.images.repeat(2, 1, 1, 1), labels=None, names=None)
    assert torch.equal(twice.distinct().images, digits.distinct().images)
