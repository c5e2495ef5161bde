"""Build wheel and source archive into dist/, check both, install the wheel and run the demo with it: `make wheel`.

The wheel is installed into an environment of its own that sees the dependencies of this one, but not the source tree:
files that are missing in the wheel are missing there. No network is used.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
MAX_BYTES = 5 * 2**19  # two thirds are the demo: this is to notice data that do not belong there


def run(*words: str | Path, **options: object) -> None:
    """Run a command; its failure is ours."""
    subprocess.run([str(word) for word in words], check=True, **options)  # type: ignore[call-overload]


def build() -> Path:
    """The wheel, built anew."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    (wheel,) = DIST.glob("*.whl")
    if wheel.stat().st_size > MAX_BYTES:
        sys.exit(f"{wheel.name} has {wheel.stat().st_size:,} bytes, at most {MAX_BYTES:,}")
    return wheel


def try_demo(wheel: Path, folder: Path) -> None:
    """Install the wheel alone and run its demo."""
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    # Found after the installed package, and without the links that an editable installation leaves.
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text(f"import sys; sys.path.extend({here!r})\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = "import neural_cleanse, pathlib, sys; sys.exit(sys.prefix not in neural_cleanse.__file__)"
    run(binaries / "python", "-c", where, env=environment, cwd=folder)
    run(binaries / "neural-cleanse", "demo", "--output", "demo", env=environment, cwd=folder, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    made = build()
    with tempfile.TemporaryDirectory() as directory:
        try_demo(made, Path(directory).resolve())
    sys.stdout.write(f"{made.name}: {made.stat().st_size:,} bytes, the demo runs\n")
