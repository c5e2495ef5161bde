"""The face: few names, quick to import, and a core that needs torch, numpy, scipy and safetensors alone."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import neural_cleanse as nc

EDGE = ("PIL", "pyarrow", "rich", "typer", "jinja2", "pandas", "click")

OPTIONAL = (
    "onnx", "onnxruntime", "onnxscript", "transformers", "keras", "h5py", "pyarrow", "bokeh", "ray",
    "pandas",
)  # fmt: skip


def python(code: str) -> str:
    """Run the code in a fresh interpreter."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_every_name_is_there() -> None:
    for name in nc.__all__:
        assert getattr(nc, name) is not None
    assert dir(nc) == nc.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        nc.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_the_list_is_sorted_and_short() -> None:
    assert nc.__all__ == sorted(set(nc.__all__))
    assert len(nc.__all__) <= 25


def test_type_checkers_see_the_same_names() -> None:
    stub = Path(nc.__file__).with_suffix(".pyi")
    homes = {
        alias.asname: (node.module, alias.name)
        for node in ast.walk(ast.parse(stub.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(str(name) for name in homes) == nc.__all__
    for name, (module, original) in homes.items():
        assert name == original, "exported under its own name"
        assert getattr(importlib.import_module(str(module)), original) is getattr(nc, name)


def test_importing_the_package_waits_for_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "safetensors", "jaxtyping", "filelock", *EDGE, *OPTIONAL)
    assert python(f"import sys, neural_cleanse; print([m for m in {heavy!r} if m in sys.modules])") == "[]"


def test_the_command_line_waits_for_nothing_that_is_optional() -> None:
    """What reads a container, or runs on a cluster, is imported by the command that needs it."""
    code = f"import sys, neural_cleanse.cli.main; print([m for m in {OPTIONAL!r} if m in sys.modules])"
    assert python(code) == "[]"


BEFORE = (
    "nc.scan",
    "nc.ScanSettings(patches_only=True)",
    "import neural_cleanse.detection.scan",
    "from neural_cleanse.detection.progress import Progress",
    "from neural_cleanse import *",
    "import neural_cleanse.cli.main",
)


def test_scan_is_the_function_whatever_was_imported_before() -> None:
    """A submodule of the same name must not take its place. The package is imported anew for each, torch once."""
    after = "from neural_cleanse import scan\nprint(type(nc.scan).__name__, scan is nc.scan)"
    code = f"""
import sys
for before in {BEFORE!r}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "neural_cleanse"]:
        del sys.modules[name]
    exec("import neural_cleanse as nc\\n" + before + "\\n" + {after!r}, {{}})
"""
    assert python(code).splitlines() == ["function True"] * len(BEFORE)


def test_the_core_runs_without_the_edge(demo_files: Path) -> None:
    """A whole scan with what serves the edge blocked."""
    code = f"""
import sys
for name in {EDGE!r}:
    sys.modules[name] = None
import neural_cleanse.results.storage, neural_cleanse.loading.images.load, neural_cleanse.loading.load
import neural_cleanse as nc
for name in nc.__all__:
    getattr(nc, name)
model = nc.load({str(demo_files / "clean.safetensors")!r})
data = nc.load_data({str(demo_files / "digits.npz")!r}, at_most=60)
result = nc.scan(model.classifier, data, nc.ScanSettings(patches_only=True, labels=(1, 2), restarts=1))
print(result.verdict.value, len(result.labels))
"""
    assert python(code) == "inconclusive 2"
