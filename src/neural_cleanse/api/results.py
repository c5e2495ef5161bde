"""ScanResult as Python users have it: a record that prints as one line, shows in a notebook, and is a file."""

from dataclasses import dataclass, fields
from pathlib import Path

from neural_cleanse.api.arguments import expect_result
from neural_cleanse.api.errors import in_python, python_errors
from neural_cleanse.choices import DOCUMENT_NAMES
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.report import text
from neural_cleanse.results import records, storage
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger


@dataclass(frozen=True)
class ScanResult(records.ScanResult):
    """The answer of a scan with its evidence.

    `print(result)` says it in one line, a notebook shows verdict, chart and triggers. `save` writes what the command
    line writes with --output, `load` reads that back.
    """

    @classmethod
    def of(cls, record: records.ScanResult) -> "ScanResult":
        """The same values."""
        return cls(**{one.name: getattr(record, one.name) for one in fields(records.ScanResult)})

    def __str__(self) -> str:
        return text.line(self)

    def __repr__(self) -> str:
        height, width = self.image_shape[1:]
        return f"<ScanResult {self.verdict.value}, {len(self.label_rows)} labels, {height}x{width} px: {self}>"

    def _repr_html_(self) -> str:
        """What a notebook shows. Every name is escaped."""
        from neural_cleanse.report.cell import cell

        return cell(self)

    @python_errors()
    def trigger(self, label: int, source: int | None = None) -> PatchTrigger:
        """The trigger found for a label (of images of class `source` alone, if given), on the CPU.

        `mask` is 1 x 1 x h x w and `pattern` 1 x c x h x w, both in [0, 1]. Raises SettingsError where there is none.
        """
        tensors = self.triggers.get(LabelPair(label, source))
        if tensors is None:
            known = ", ".join(str(pair.target) for pair in sorted(self.triggers, key=str) if pair.source == source)
            raise SettingsError(
                f"The scan has no trigger for label {label}.",
                cure=f"It has one for {known}." if known else "It recovered none: the labels' rows say why.",
            )
        return PatchTrigger.of(tensors)

    @python_errors()
    def report(self, kind: str = "html") -> str:
        """The result as text: html, markdown (or md), json, sarif, junit, cyclonedx, in-toto or model-card."""
        from neural_cleanse.report.documents import DOCUMENTS

        kind = DOCUMENT_NAMES.get(kind, kind)
        if kind not in DOCUMENTS:
            raise SettingsError(f"There is no report {kind!r}.", cure=f"The kinds are {', '.join(DOCUMENTS)}.")
        return DOCUMENTS[kind](self, None, None)

    @python_errors()
    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write scan.json, triggers.safetensors, report.html, report.md and pictures into a directory.

        Raises OutputError where it holds something already (unless `overwrite`) or cannot be written.
        """
        from neural_cleanse.report import output_dir

        with output_dir.claimed(Path(directory), overwrite=overwrite):
            output_dir.write(self, Path(directory))

    @classmethod
    @python_errors()
    def load(cls, directory: str | Path) -> "ScanResult":
        """A scan that `save` or the command line wrote. Raises OutputError when it is not there, or damaged."""
        if not Path(directory).is_dir():
            raise OutputError(f"{directory} is not a directory.", cure="Give the one that the scan was saved to.")
        return cls.of(storage.load_result(Path(directory)))


def as_result(result: records.ScanResult | str | Path, name: str = "result") -> records.ScanResult:
    """A scan, or the one saved at that path. Raises SettingsError on anything else given as the argument `name`."""
    expect_result(result, name)
    return ScanResult.load(result) if isinstance(result, str | Path) else result


def notes_in_python(notes: tuple[str, ...]) -> tuple[str, ...]:
    """Notes that name keywords."""
    return tuple(map(in_python, notes))
