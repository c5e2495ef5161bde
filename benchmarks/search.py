"""How near the search comes to the smallest trigger, on networks of many kinds: its passes, sizes and verdicts.

    python benchmarks/search.py --data DATA --models MODELS --networks TRAINED \\
        --output benchmarks/results/search.jsonl [--only NAME,NAME] [--reference]

A row a network of search_networks.py, with true labels. `scan` is a default scan of all labels. `labels` has, for the
planted label and five others, the size and the success on unseen images after the default search (`default`), and the
smallest size of a long one (`best`: six restarts of 1,250 steps that do not race, 30,000 image passes). With
`--reference` the planted label is also searched by the authors' schedule. A row that is there is not made again.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.first_look import for_margin
from neural_cleanse.detection.input_check import temperature
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.evaluation.suite import run_info
from neural_cleanse.images import ImageSet, balanced
from neural_cleanse.inversion.batching import BatchScheduler
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.metrics import margin
from neural_cleanse.results.records import LabelPair
from resumable import add, rows_in
from search_networks import NETWORKS, Published, Trained, labels_to_search

SEED, IMAGES, OTHERS, MOST_LABELS = 0, 1000, 5, 100
LONG = Inversion(restarts=6, steps=1250, race=(), extra_steps=0)


def open_network(name: str, data: Path, models: Path, trained: Path) -> tuple[Classifier, ImageSet]:
    """The network, trained unless it is there, and clean test images of its data set."""
    network = NETWORKS[name]
    published = network if isinstance(network, Published) else None
    images = load_data(
        data / network.dataset / "test.parquet",
        at_most=IMAGES,
        seed=SEED,
        crop="roi" if published and published.crop else None,
        resize=published.resize if published else None,
    ).distinct()
    assert images.labels is not None, "test images have labels"
    images = images.take(balanced(images.labels, IMAGES, SEED))
    if isinstance(network, Trained):
        trained.mkdir(parents=True, exist_ok=True)
        return network.classifier(trained / f"{name}.pth", data), images
    if network.dataset == "lfw":  # the network knows other people
        images = ImageSet(images.images, None)
    return network.classifier(models, images.shape), images


def measure(name: str, classifier: Classifier, data: ImageSet, *, reference: bool) -> dict[str, Any]:
    """The row of one network, without where it was measured."""
    network = NETWORKS[name]
    images = ScanImages.of(classifier, data, SEED)
    scale = temperature(margin(classifier, for_margin(data.images)))
    labels = labels_to_search(network.target, classifier.num_classes, OTHERS)

    def searched(inversion: Inversion, among: list[int]) -> dict[int, dict[str, Any]]:
        invert = BatchScheduler(classifier, images, BatchLimit(128))
        found = invert(replace(inversion, temperature=scale), [LabelPair(label) for label in among])
        return {
            one.pair.target: {
                "size": None if one.size is None else round(one.size, 2),
                "success": None if one.asr is None else round(one.asr, 4),
                "outcome": one.outcome.value,
                "image_passes": one.image_passes,
            }
            for one in found
        }

    ways = {
        "default": searched(preset("default"), labels),
        "best": searched(LONG, labels),
    }
    if reference and network.target is not None:
        ways["reference"] = searched(replace(preset("reference"), temperature=1.0), [network.target])
    row: dict[str, Any] = {
        "network": name,
        "dataset": network.dataset,
        "target": network.target,
        "planted_size": network.size,
        "labels": {label: {way: found[label] for way, found in ways.items() if label in found} for label in labels},
        "scan": None,
        "seed": SEED,
    }
    if classifier.num_classes <= MOST_LABELS:
        result = scan(classifier, data, ScanSettings(seed=SEED, force=True))
        row["scan"] = {
            "verdict": result.verdict.value,
            "flagged": list(result.flagged),
            "p_value": result.p_value,
            "reason": result.reason,
            "passes_a_label": round(result.image_passes / classifier.num_classes),
            "sizes": {one.target: None if one.size is None else round(one.size, 2) for one in result.label_rows},
            "outcomes": {one.target: one.outcome.value for one in result.label_rows},
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models", "networks", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--reference", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    there = {row["network"] for row in rows_in(options.output)}
    for name in options.only.split(","):
        if name in there:
            continue
        classifier, data = open_network(name, options.data, options.models, options.networks)
        row = measure(name, classifier, data, reference=options.reference) | run_info()
        add(row, options.output)
        print(json.dumps(row["scan"]), flush=True)


if __name__ == "__main__":
    main()
