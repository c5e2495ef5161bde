"""Is the verdict right on real input? One row a model: BadNets and clean networks of ours, and published ones.

    python benchmarks/verdicts.py --data DATA --output benchmarks/results [--models DIR] [--published DIR]

DATA holds mnist/, gtsrb/ and cifar10/ (test.parquet); models that --models lacks are trained first. --published holds
infected models that other people made: badnets-pytorch/badnet-MNIST.pth (github verazuo/badnets-pytorch) and
i-bau/{cifar10/badnets_8_02_ckpt,gtsrb/gtsrbbadnets_8_02_ckpt}.pth (github YiZeng623/I-BAU). All by the command line.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neural_cleanse.benchmark import surroundings
from presets import Case, train_if_missing

EXAMPLES = Path(__file__).parents[1] / "examples" / "published_networks.py"

OURS = (
    Case("mnist_badnets3_target7_seed1", "mnist", 3, 7, 1),
    Case("mnist_badnets4_target4_seed0", "mnist", 4, 4, 0),
    Case("mnist_badnets8_target1_seed2", "mnist", 8, 1, 2),
    Case("mnist_clean_seed0", "mnist", 0, 0, 0),
    Case("mnist_clean_seed1", "mnist", 0, 0, 1),
    Case("mnist_clean_seed2", "mnist", 0, 0, 2),
    Case("gtsrb_badnets4_target33_seed0", "gtsrb", 4, 33, 0),
    Case("gtsrb_badnets8_target14_seed1", "gtsrb", 8, 14, 1),
    Case("gtsrb_clean_seed0", "gtsrb", 0, 0, 0),
)


@dataclass(frozen=True)
class Published:
    """A model that somebody else made, its data set, true target, and the options it needs."""

    path: str
    dataset: str
    target: int
    function: str
    options: tuple[str, ...] = ()


PUBLISHED = (
    Published("badnets-pytorch/badnet-MNIST.pth", "mnist", 1, "badnet_mnist", ("--mean", "0.5", "--std", "0.5")),
    Published("i-bau/cifar10/badnets_8_02_ckpt.pth", "cifar10", 8, "small_vgg_10"),
    Published("i-bau/gtsrb/gtsrbbadnets_8_02_ckpt.pth", "gtsrb", 8, "small_vgg_43", ("--crop", "roi")),
)


def scan(name: str, target: int | None, arguments: list[str], seed: int) -> dict[str, Any]:
    """Scan by command, as a user does, and hold the answer against the truth."""
    command = [sys.executable, "-m", "neural_cleanse", "scan", *arguments, "--seed", str(seed), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        raise SystemExit(done.stderr)
    result = json.loads(done.stdout)
    sizes = sorted(row["size"] for row in result["labels"] if row["size"] is not None)
    expected = ("clean", []) if target is None else ("infected", [target])
    return {
        "model": name,
        "true_target": target,
        "verdict": result["verdict"],
        "flagged": result["flagged"],
        "right": (result["verdict"], result["flagged"]) == expected,
        "p_value": result["p_value"],
        "smallest_px": sizes[0],
        "median_px": sizes[len(sizes) // 2],
        "detection_limit": result["detection_limit"],
        "clean_accuracy": result["provenance"]["data"]["clean_accuracy"],
        "paper_index": result["paper_rule"]["anomaly_index"],
        "paper_flagged": result["paper_rule"]["flagged"],
        "image_passes_a_label": result["image_passes"] // len(result["labels"]),
        "wall_s": round(result["wall_s"], 1),
        "exit_code": done.returncode,
        "scan_seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("out/models"))
    parser.add_argument("--published", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only models with this in their name; other rows are kept")
    options = parser.parse_args()
    jobs: list[tuple[str, int | None, list[str]]] = []
    for case in OURS:
        path = train_if_missing(case, options.data, options.models)
        data = options.data / case.dataset / "test.parquet"
        jobs.append((case.name, case.target if case.patch else None, [str(path), "--data", str(data)]))
    for model in PUBLISHED if options.published else ():
        data = options.data / model.dataset / "test.parquet"
        arguments = [str(options.published / model.path), "--data", str(data), *model.options]
        arguments += ["--architecture", f"{EXAMPLES}:{model.function}", "--allow-code"]
        jobs.append((model.path, model.target, arguments))
    path = options.output / "verdicts.json"
    rows = {row["model"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    for name, target, arguments in jobs:
        if options.only in name:
            rows[name] = scan(name, target, arguments, options.seed) | surroundings()
            print(json.dumps(rows[name]), flush=True)
            path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
