"""How much stronger than random maps the best map of classes of a model is, in pixels and in feature space.

    python benchmarks/maps.py zoo/triggers --data DATA --rows ROWS

A suite is what `neural-cleanse benchmark` takes. All maps are searched for of every model, also where a scan would stop
at the first random one. A row that is there is not made again.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.all_to_all import LEARNT, RANDOM, classes_of, strength_of
from neural_cleanse.detection.feature_space import feature_inversion, feature_space
from neural_cleanse.detection.pairs import pair_inversion
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.statistics.maps import map_test
from neural_cleanse.evaluation.suite import open_case, read_suite, run_info
from neural_cleanse.inversion.class_maps import MappedImages, MapSearch, random_maps
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from resumable import add, rows_in

SEED = 0


def measure(classifier: Classifier, images: ScanImages, inversion: Inversion) -> dict[str, Any]:
    """The maps found, and how far they are above random ones."""
    mapped = MappedImages.among(images, classes_of(images, classifier.num_classes))
    search = MapSearch.of(inversion, classifier.num_classes)
    found = search.learn(classifier, mapped, LEARNT, SEED)
    others = search.follow(classifier, mapped, random_maps(mapped.classes, RANDOM, SEED + 1), SEED)
    test = map_test([strength_of(one) for one in found], [strength_of(one) for one in others])
    best = max(found, key=strength_of)
    return {
        "gain": round(test.gain, 3), "p_value": test.p_value, "targets": best.targets, "asr": round(best.asr, 4),
        "size": round(best.size, 2), "random_asr": [round(one.asr, 4) for one in others],
        "random_sizes": [round(one.size, 2) for one in others],
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    known = {row["model"] for row in rows_in(options.rows)}
    for case in read_suite(options.suite, options.data):
        if case.name in known:
            continue
        opened, data = open_case(case, at_most=ScanSettings().images_wanted, seed=SEED)
        classifier = opened.classifier
        images = ScanImages.of(classifier, data, SEED)
        row: dict[str, Any] = {"model": case.name, "infected": case.card["infected"]}
        row["patches"] = measure(classifier, images, pair_inversion("ce"))
        space = feature_space(classifier, images)
        if not isinstance(space, str):
            row["shifts"] = measure(space.classifier, space.images, feature_inversion(preset("default"), space))
        add(row | run_info(), options.rows)
        print(case.name, row["patches"]["gain"], row.get("shifts", {}).get("gain"), flush=True)


if __name__ == "__main__":
    main()
