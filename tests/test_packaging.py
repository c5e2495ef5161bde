"""What is installed: exact pins, torch among them, and nothing that brings torchvision, which un-pins torch."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PINS = dict(
    line.lower().replace("_", "-").split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for text in (*PROJECT["dependencies"], *(one for extra in extras for one in extra))]


def test_every_dependency_is_pinned_inside_its_bounds() -> None:
    for wanted in requirements():
        if wanted.name != "neural-cleanse":
            pin = PINS[wanted.name.lower().replace("_", "-")]
            assert wanted.specifier.contains(pin), f"{wanted} and {pin}"


def test_torchvision_is_not_among_them() -> None:
    assert "torchvision" not in PINS
    assert all(wanted.name != "torchvision" for wanted in requirements())


def test_set_up_always_passes_the_pins() -> None:
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        if re.search(r"\bpip install\b", line):
            assert "-c constraints.txt" in line
