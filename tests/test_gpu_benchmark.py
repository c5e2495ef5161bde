"""`make bench-gpu`: what it measures, and that it says so where there is no GPU."""

from pathlib import Path

import pytest
import torch

import gpu


def test_it_measures_steps_as_a_scan_takes_them() -> None:
    row = gpu.measure("gtsrb_cnn", torch.device("cpu"), steps=1, side=64)
    assert row["images_a_step"] == 128 and row["labels"] == 43
    assert row["image_passes_per_s"] == pytest.approx(128 / row["step_s"], rel=0.01)
    assert 0 < row["share_of_peak"] == pytest.approx(row["tflops"] / row["tflops_of_a_matrix_product"], rel=0.2)


def test_without_a_gpu_nothing_is_measured_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--rows", str(tmp_path / "rows.jsonl")])
    assert gpu.main() == 2 and "no GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
