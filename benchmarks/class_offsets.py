"""Can a label's usual trigger size be told from clean data? Correlations over the labels of clean models.

    python benchmarks/class_offsets.py --zoo zoo/small --data DATA --rows benchmarks/results/scans_small.jsonl \\
        --output benchmarks/results/class_offsets.json

Within each clean model of the choosing part, the correlation between log trigger size and: `gap`, the mean over images
of other classes of the largest logit minus the label's; `distance`, that gap over the norm of its gradient (the way to
the label in a linear network); `pixels`, the mean distance in pixels from images of other classes to the label's mean
image; `baseline_sizes`, the log size in another clean model. Its square is the share of variance that a prediction can remove.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.evaluation.rates import cluster, known_sizes
from neural_cleanse.evaluation.suite import read_rows, run_info
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.metrics import pixels

IMAGES, SEED = 300, 0


def covariates(classifier: Classifier, data: ImageSet) -> dict[str, list[float]]:
    """One value a label and covariate."""
    assert data.labels is not None
    found: dict[str, list[float]] = {"gap": [], "distance": [], "pixels": []}
    for label in range(classifier.num_classes):
        images = pixels(data.images[data.labels != label]).requires_grad_()
        logits = classifier(images)
        gap = logits.amax(1) - logits[:, label]
        (gradient,) = torch.autograd.grad(gap.sum(), images)
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-6)
        own = pixels(data.images[data.labels == label]).mean(0)
        found["gap"].append(gap.mean().item())
        found["distance"].append((gap / norm).mean().item())
        found["pixels"].append((images.detach() - own).flatten(1).norm(dim=1).mean().item())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for row in read_rows(options.rows) if row["part"] == "choosing" and not row["truth"]["infected"]]
    data: dict[str, ImageSet] = {}
    correlations: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        dataset = row["truth"]["dataset"]
        if dataset not in data:
            data[dataset] = load_data(options.data / dataset / "test.parquet", at_most=IMAGES, seed=SEED)
        classifier = load_model(options.zoo / f"{row['model']}.safetensors").classifier
        labels, sizes = known_sizes(row)
        logs = [math.log(size) for size in sizes]
        values = covariates(classifier, data[dataset])
        baseline_sizes: dict[str, Any] | None = next(
            (r for r in rows if r is not row and cluster(r) == cluster(row)), None
        )
        if baseline_sizes is not None:
            theirs = dict(zip(*known_sizes(baseline_sizes), strict=True))
            values["twin"] = [math.log(theirs.get(label, 1.0)) for label in range(classifier.num_classes)]
        for name, value in values.items():
            found = correlations.setdefault(dataset, {}).setdefault(name, [])
            found.append(statistics.correlation(logs, [value[label] for label in labels]))
    summary = {
        dataset: {name: round(statistics.mean(values), 3) for name, values in by_name.items()}
        for dataset, by_name in correlations.items()
    }
    record = {"mean_correlation": summary, "models": len(rows), "images": IMAGES, "seed": SEED} | run_info()
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
