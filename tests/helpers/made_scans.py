"""Scans and repairs made by hand, for the tests of reports: hostile names, pairs, a thousand labels, every outcome."""

import dataclasses
import math
import random

import torch

from neural_cleanse.results.kind import Kind
from neural_cleanse.results.provenance import Provenance
from neural_cleanse.results.records import (
    Evidence,
    KindRow,
    KindTest,
    LabelPair,
    LabelResult,
    Outcome,
    PaperRule,
    ScanResult,
    SourceRate,
    Verdict,
)
from neural_cleanse.results.repair import (
    ClassChange,
    RepairResult,
    RepairRound,
    RepairStatus,
    TracePoint,
    TriggerChange,
)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m\r\nfake line\x00",
    "user\u202egpj.exe\u2066\u200f",
    "[red]x[/] [link=https://evil.example]y[/link]",
    "x" * 10_000,
    "\ud800 alone",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;</td></table>",
)


def label(target: int, name: str | None, size: float | None = 80.0) -> LabelResult:
    return LabelResult(
        target=target,
        source=None,
        name=name,
        size=size,
        log_size_sd=0.125 if size else None,
        anomaly_index=0.5 if size else None,
        p_value=0.75 if size else None,
        asr=0.96875 if size else None,
        asr_interval=(0.9, 0.99) if size else None,
        outcome=Outcome.CONVERGED if size else Outcome.ASR_NOT_REACHED,
        image_passes=1000,
    )


def result(names: tuple[str | None, ...] = HOSTILE, verdict: Verdict = Verdict.INFECTED) -> ScanResult:
    """A scan whose label 0 is flagged, and whose last label has no size."""
    generator = torch.Generator().manual_seed(0)
    last = len(names) - 1
    rows = [label(target, name, None if target == last else 70.0 + target) for target, name in enumerate(names)]
    rows[0] = dataclasses.replace(rows[0], size=4.5, p_value=1e-20)
    before = torch.randint(256, (2, 3, 8, 8), generator=generator).to(torch.uint8)
    triggers = {
        LabelPair(target): {
            "mask": torch.rand(1, 1, 8, 8, generator=generator),
            "pattern": torch.rand(1, 3, 8, 8, generator=generator),
        }
        for target in range(last)
    }
    infected = verdict is Verdict.INFECTED
    return ScanResult(
        verdict=verdict,
        reason="label 0 is reached by a 4.5-pixel trigger",
        flagged=(0,) if infected else (),
        p_value=1e-20,
        alpha=0.01,
        level=0.01,
        detection_limit=12.25,
        image_passes=10_000,
        forward_passes=123,
        wall_s=1.5,
        image_shape=(3, 8, 8),
        labels=tuple(rows),
        paper_rule=PaperRule(2.0, 3.5, (0,)),
        provenance=Provenance(
            settings={"preset": "default", "names": {"<i>": [1, 2.5, None]}},
            seed=0,
            versions={"torch": "2"},
            model={"path": "/tmp/<script>alert(2)</script>\udcff\x1b[2J", "normalisation": "pixels"},
            data={"origin": "x", "labelled": True},
            notes=("assumed: <script>alert(3)</script>",),
            command="neural-cleanse scan '<script>'",
        ),
        evidence=(Evidence(0, before, 255 - before, (1, 2), (0, 0), (SourceRate(1, 3, 4), SourceRate(2, 0, 5))),)
        if infected
        else (),
        triggers=triggers,
    )


def pairs() -> ScanResult:
    """A scan of label pairs in which 3 -> 8 is flagged, and 5 -> 8 is not."""
    one = result(("a",) * 10)
    rows = [
        dataclasses.replace(label(target, f"class {target}", 80.0 + source), source=source)
        for source in range(10)
        for target in (7, 8)
        if source != target
    ]
    small = [dataclasses.replace(row, size=6.0, p_value=1e-6) if _is(row, 3, 8) else row for row in rows]
    evidence = dataclasses.replace(one.evidence[0], target=8, source=3, by_source=(SourceRate(3, 28, 30),))
    return dataclasses.replace(
        one,
        labels=tuple(small),
        flagged=(8,),
        evidence=(evidence,),
        triggers={row.pair: one.triggers[LabelPair(0)] for row in small},
    )


def _is(row: LabelResult, source: int, target: int) -> bool:
    return (row.source, row.target) == (source, target)


def features() -> ScanResult:
    """A scan whose patches are clean, and in which a trigger between the layers leads to label 2."""
    one = result(("a", "b", "ship", "d", "e"), Verdict.CLEAN)
    before = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    rates = (SourceRate(0, 30, 40), SourceRate(1, 38, 40))
    evidence = Evidence(2, before, before[:0], (0, 1), (2, 2), rates, None, Kind.FEATURE)
    rows = tuple(KindRow(target, None, 9.0 + target, 1e-5 if target == 2 else 0.9) for target in range(5))
    tests = (
        KindTest(Kind.PATCH, 0.5, Verdict.CLEAN, "no patch", 0.9),
        KindTest(Kind.FEATURE, 0.2, Verdict.INFECTED, "label 2 stands out", 1e-5, (LabelPair(2),), (), rows),
        KindTest(Kind.PAIRS, 0.2, None, "too few images"),
    )
    return dataclasses.replace(one, verdict=Verdict.INFECTED, flagged=(2,), evidence=(evidence,), tests=tests)


def one_class() -> ScanResult:
    """A scan of patches by default, in which a patch on images of class 1 alone leads to label 3."""
    one = result(("a", "b", "ship", "d", "e"))
    evidence = dataclasses.replace(
        one.evidence[0], target=3, source=1, kind=Kind.PAIRS, by_source=(SourceRate(1, 28, 30),)
    )
    rows = (KindRow(3, 1, 6.5, 1e-6), KindRow(3, 2, 60.0, 0.8))
    test = KindTest(Kind.PAIRS, 0.2, Verdict.INFECTED, "1 -> 3 stands out", 1e-6, (LabelPair(3, 1),), (), rows)
    own = {name: tensor.clone() for name, tensor in one.triggers[LabelPair(0)].items()}
    triggers = {**one.triggers, LabelPair(3, 1): own}
    return dataclasses.replace(one, flagged=(3,), evidence=(evidence,), tests=(test,), triggers=triggers)


def all_to_all() -> ScanResult:
    """A scan whose patches are clean, and in which one patch sends each of four classes to the next."""
    one = result(("a", "b", "ship", "d", "e"), Verdict.CLEAN)
    before = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    pairs = tuple(LabelPair((source + 1) % 4, source) for source in range(4))
    evidence = tuple(
        Evidence(
            pair.target, before, 255 - before, (pair.source or 0,) * 2, (pair.target,) * 2,
            (SourceRate(pair.source or 0, 37, 40),), pair.source, Kind.ALL_TO_ALL,
        )
        for pair in pairs
    )  # fmt: skip
    rows = tuple(KindRow(pair.target, pair.source, 6.5, 1e-6) for pair in pairs)
    tests = (
        KindTest(Kind.PATCH, 0.5, Verdict.CLEAN, "no patch", 0.9),
        KindTest(Kind.ALL_TO_ALL, 0.2, Verdict.INFECTED, "a map", 1e-6, pairs, pairs, rows, 40.0),
    )
    made = dataclasses.replace(one.provenance, model={"path": "m.onnx", "normalisation": "pixels"})
    made = dataclasses.replace(made, command="neural-cleanse scan m.onnx --data d --output out")
    own = {pair: one.triggers[LabelPair(0)] for pair in pairs}
    names = ("a", "b", "ship", "d")
    sized = [dataclasses.replace(label(pair.target, names[pair.target], 6.5), source=pair.source) for pair in pairs]
    return dataclasses.replace(
        one, labels=(*one.labels, *sized),
        verdict=Verdict.INFECTED, flagged=(1, 2, 3, 0), evidence=evidence, tests=tests, provenance=made,
        triggers={**one.triggers, **own},
    )  # fmt: skip


def many(count: int = 1283) -> ScanResult:
    """A scan of so many labels, of which 77 is flagged and every hundredth has no size."""
    one, rng = result(), random.Random(0)
    rows = [
        label(target, f"person {target}", None if target % 100 == 0 else 100 * math.exp(rng.gauss(0, 0.25)))
        for target in range(count)
    ]
    rows[77] = dataclasses.replace(rows[77], size=9.0, p_value=1e-9)
    rates = tuple(SourceRate(source, int(source % 7 > 0), 1) for source in range(count) if source != 77)
    return dataclasses.replace(
        one,
        labels=tuple(rows),
        flagged=(77,),
        evidence=(dataclasses.replace(one.evidence[0], target=77, by_source=rates),),
        triggers={LabelPair(77): one.triggers[LabelPair(0)]},
    )


def repaired(status: RepairStatus = RepairStatus.REPAIRED) -> RepairResult:
    """A repair that pruned, of a model with hostile names."""
    trace = tuple(TracePoint("pruning, convolution", step / 10, 0.99 - step / 50, 1 - step / 4) for step in range(5))
    name = HOSTILE[1]
    return RepairResult(
        status=status,
        reason="no known trigger works any more",
        max_drop=0.02,
        max_asr=0.02,
        triggers=(TriggerChange(0, None, name, 1, 4.5, 96, 1, 100), TriggerChange(8, 3, None, 2, 6.0, 90, 0, 100)),
        verified=(TriggerChange(0, None, name, 0, 9.0, 100, 3, 100),),
        classes=tuple(ClassChange(target, name, 50, 49, 50) for target, name in enumerate(HOSTILE)),
        rounds=(RepairRound(1, (0,), "pruning", trace, Verdict.CLEAN, ()),),
        num_images={"report": 500},
        wall_s=1.0,
        provenance=result().provenance,
    )
