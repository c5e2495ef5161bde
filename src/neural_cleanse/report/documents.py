"""Every document that a result can be written as, by name; `--format` and `ScanResult.report` take the names."""

from collections.abc import Callable
from pathlib import Path

from neural_cleanse.report import attestation, junit, sarif
from neural_cleanse.report.markdown import markdown, model_card
from neural_cleanse.report.page import html
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import RepairResult

Writer = Callable[[ScanResult, RepairResult | None, Path | None], str]

DOCUMENTS: dict[str, Writer] = {
    "html": html,
    "markdown": lambda result, repair, directory: markdown(result, repair, directory=directory),
    "json": lambda result, *_: storage.dumps(result),
    "sarif": lambda result, *_: sarif.dumps(result),
    "junit": lambda result, *_: junit.dumps(result),
    "cyclonedx": lambda result, *_: attestation.bom(result),
    "in-toto": lambda result, *_: attestation.statement(result),
    "model-card": lambda result, *_: model_card(result),
}
