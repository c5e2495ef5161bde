"""Evidence for flagged labels: success on held-out images, overall and by source class."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.metrics import stamped, triggered_answers
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import Evidence, Recovered, SourceRate

EXAMPLES = 6  # images shown before and after, of as many classes as there are


@torch.no_grad()
def evidence_of(
    classifier: Classifier,
    data: ScanImages,
    pictures: UInt8[Tensor, "m c h w"],
    recovered: Recovered,
    kind: Kind = Kind.PATCH,
    most: int | None = None,
) -> Evidence:
    """Evidence against one label, on the confirm images alone, at most so many; no image shows a trigger in features.

    `pictures` are the images that `data` are of. Raises OutOfTime after the classifier's deadline.
    """
    assert recovered.trigger is not None, "a flagged label has a size, and a size has a trigger"
    trigger = recovered.trigger.to(classifier.device)  # on the CPU where it was read from disk
    rows = data.eligible(recovered.pair, Split.TEST)[:most]
    answers = triggered_answers(classifier, trigger, data.images[rows])
    classes = data.given[rows]
    by_source = []
    for source in classes.unique().tolist():
        hits = answers[classes == source] == recovered.pair.target
        by_source.append(SourceRate(source, int(hits.sum()), len(hits)))
    shown = _one_of_each(classes.tolist())[:EXAMPLES]
    before = pictures[rows[shown]]
    after = before[:0] if data.images is not pictures else stamped(trigger, before)
    return Evidence(
        target=recovered.pair.target,
        source=recovered.pair.source,
        before=before.cpu(),
        after=after.cpu(),
        answers_before=tuple(data.answers[rows[shown]].tolist()),
        answers_after=tuple(answers[shown].tolist()),
        by_source=tuple(by_source),
        kind=kind,
    )


def _one_of_each(classes: list[int]) -> list[int]:
    """Positions, the first of every class before the second of any."""
    seen: dict[int, int] = {}
    rank = []
    for label in classes:
        rank.append(seen.get(label, 0))
        seen[label] = rank[-1] + 1
    return sorted(range(len(classes)), key=lambda position: (rank[position], position))
