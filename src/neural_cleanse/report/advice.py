"""What to do now, for every verdict: a sentence, and the command that does it.

Commands are made of the words of the scan's own command, each quoted: nothing in a record becomes shell.
"""

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neural_cleanse.report.content import settled_by_screening
from neural_cleanse.results.records import Outcome, ScanResult, Verdict
from neural_cleanse.results.repair import RepairResult, RepairStatus
from neural_cleanse.results.thresholds import FEW_LABELS, LOW_ACCURACY

MORE_RESTARTS = 8
ENOUGH = 50  # images of a class
PLACE, REST = ("--output", "--format"), ("--overwrite", "--resume", "--json", "--quiet", "--log-json")
FLAGS = frozenset(
    (*REST, "--pairs", "--patches-only", "--force", "--student", "--no-student", "--bgr", "--allow-code",
     "--no-sandbox", "--ignore-labels", "--skip-unreadable")
)  # fmt: skip
NO_SETTINGS = ("data", "baseline")  # options whose value is a name of its own in Python
EMPTY_BUDGET = ("--budget", "--max-passes")


@dataclass(frozen=True)
class Step:
    """One thing to do: what for, and the command, if there is one."""

    what: str
    command: str | None = None


def what_now(result: ScanResult, directory: Path | None = None) -> tuple[Step, ...]:
    """What to do after a scan whose files are in `directory`, most useful first."""
    return tuple(_STEPS[result.verdict](_Scan(result, directory)))


@dataclass(frozen=True)
class _Scan:
    """A result, and the words to go on from it."""

    result: ScanResult
    directory: Path | None

    @property
    def words(self) -> list[str]:
        """Of the command of the scan; none where it was not the command `scan` of this model alone."""
        try:
            words = shlex.split(self.result.provenance.command or "")
        except ValueError:
            return []
        path = self.result.provenance.model.get("path")
        return words if words[:2] == ["neural-cleanse", "scan"] and path in words else []

    @property
    def model(self) -> str:
        """The path of the model, as a word that is no option."""
        path = str(self.result.provenance.model.get("path") or "MODEL")
        return f"./{path}" if path.startswith("-") else path

    @property
    def where(self) -> str:
        """The directory of the scan."""
        named = dict(zip(self.words, self.words[1:], strict=False)).get("--output")
        return named or ("SCAN_DIRECTORY" if self.directory is None else str(self.directory))

    def again(self, *added: str, without: Collection[str] = ()) -> str:
        """The scan once more with other options, into a directory of its own; in Python where no command made it."""
        if self.result.provenance.command is None:
            return _in_python(added)
        if not self.words:  # of a batch, or of the demo: --like takes model and images from the directory
            like = ("neural-cleanse", "scan", self.model, "--like", self.where)
            return shlex.join([*like, *added, "--output", f"{self.where}-again"])
        named = {word for word in added if word.startswith("--")}
        kept = list(_without(self.words, {*named, *without, *PLACE, *REST}))
        return shlex.join([*kept, *added, "--output", f"{self.where}-again"])

    def resumed(self) -> str:
        """The scan that goes on where its budget ended it; from the start where nothing was kept."""
        if "--output" not in self.words:
            return self.again(without=EMPTY_BUDGET)
        return shlex.join([*_without(self.words, {*EMPTY_BUDGET, *REST}), "--resume"])

    def after(self, command: str, *options: str) -> str | None:
        """Another command on the same model and scan."""
        if self.result.provenance.command is None:
            return None
        return shlex.join(["neural-cleanse", *command.split(), self.model, *options])


def _in_python(added: Sequence[str]) -> str:
    """A call of `scan` with these options, which the settings of the first are given beside."""
    options = dict[str, str]()
    for word in added:
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            options[name] = "True"
        else:
            options[name] = word if word.isdigit() or name in NO_SETTINGS else repr(word)
    images, baseline = options.pop("data", "images").lower(), options.pop("baseline", "").lower()
    settings = ", ".join(f"{name}={value}" for name, value in options.items())
    given = f", neural_cleanse.ScanSettings({settings})" if settings else ""
    given += f", baseline={baseline}" if baseline else ""
    return f"result = neural_cleanse.scan(model, {images}{given})"


def _without(words: list[str], options: Collection[str]) -> Iterator[str]:
    """The words but for these options and their values."""
    rest = iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name not in options:
            yield word
        elif not equals and name not in FLAGS:
            next(rest, None)


def _infected(scan: _Scan) -> Iterator[Step]:
    yield Step("Do not use the model as it is: whoever knows the trigger chooses its answer.")
    seed = str(scan.result.provenance.seed + 1)
    yield Step("See whether another start of the search says the same:", scan.again("--seed", seed, "--plan", "full"))
    yield Step("Ask whoever made it how it was trained, and on which data. Show them this page.")
    repaired = f"{scan.where}-repaired{Path(scan.model).suffix}"
    yield Step(
        "Then choose: another model, or a repaired copy of this one:",
        scan.after("repair", "--scan", scan.where, "--output", repaired)
        or "repaired = neural_cleanse.repair(model, result, images)",
    )
    yield Step(
        "Or this model behind a guard, which rejects images that carry the trigger, and some that do not:",
        scan.after("guard fit", "--scan", scan.where, "--output", f"{scan.where}-guard")
        or "guard = neural_cleanse.fit_guard(model, result, images)",
    )


def _clean(scan: _Scan) -> Iterator[Step]:
    yield Step(
        "Use it as you would any model from this source: this is no proof that it is clean. Keep this page with the "
        "model: the verdict is of the file with this SHA-256, and of the kinds of trigger that were looked for."
    )
    if inspected := scan.after("inspect"):
        yield Step("See what in the file would run code, which a scan of answers cannot:", inspected)
    if scan.result.provenance.settings.get("patches_only"):
        yield Step("Look for triggers that are no patch, too:", scan.again(without=("--patches-only",)))
    if not scan.result.pair_rows:
        yield Step("Search with all steps for triggers that work on images of one class only:", scan.again("--pairs"))
    if settled_by_screening(scan.result):
        yield Step("Search every label to the end, for a lower detection limit:", scan.again("--plan", "full"))


def _inconclusive(scan: _Scan) -> Iterator[Step]:
    result = scan.result
    yield Step("Treat the model as unchecked: this is not the verdict “clean”.")
    data, settings = result.provenance.data, result.provenance.settings
    accuracy, used = data.get("clean_accuracy"), data.get("images_used")
    poor = isinstance(accuracy, float) and accuracy < LOW_ACCURACY
    if result.cut_off:
        yield Step("The budget ended the search. Go on without one:", scan.resumed())
    if poor:
        wrong = f"It answers only {accuracy:.1%} of the clean images rightly."
        inspected = scan.after("inspect")
        yield Step(
            f"{wrong} See which input it expects, and give that with --mean, --std, --scale, --bgr or --resize:"
            if inspected
            else f"{wrong} Give the mean and std that the images were normalised with.",
            inspected,
        )
    if settings.get("labels") is not None:
        yield Step("Search all of its labels:", scan.again(without=("--labels",)))
    if any(row.outcome is Outcome.NOT_ENOUGH_IMAGES for row in result.labels):
        yield Step(
            f"Some labels had too few images. Give more, some {ENOUGH} of every class:",
            scan.again("--data", "MORE_IMAGES"),
        )
    if result.cut_off or poor or settings.get("labels") is not None:
        return
    if settled_by_screening(result):
        yield Step("Search every label to the end:", scan.again("--plan", "full"))
    elif isinstance(used, int):
        more = ("--samples", str(2 * used), "--restarts", str(MORE_RESTARTS))
        yield Step("Search with more images and from more starts:", scan.again(*more))
    few = len(result.label_rows) < FEW_LABELS
    why = "With so few labels only a baseline helps" if few else "A baseline tells finer differences"
    yield Step(
        f"{why}: scan a model of the same classes that you know to be clean with --plan full, and compare with that:",
        scan.again("--baseline", "BASELINE_SCAN"),
    )


_STEPS = {Verdict.INFECTED: _infected, Verdict.CLEAN: _clean, Verdict.INCONCLUSIVE: _inconclusive}


def after_repair(repair: RepairResult, result: ScanResult) -> tuple[Step, ...]:
    """What to do after a repair; `result` is the last scan, of the repaired model where there is one."""
    if repair.status is RepairStatus.REPAIRED:
        path = result.provenance.model.get("path")
        which = f"the repaired file, {path}" if path else "the repaired model"
        patches = result.provenance.settings.get("patches_only")
        return (
            Step(f"Use {which}, in every place where the model stood that was scanned before."),
            Step("Measure it on images of your own before it goes into use: accuracy may have moved (see below)."),
            *([Step("Only patches were looked for. Scan it for the other kinds of trigger too.")] if patches else []),
            Step(
                "Keep the file, its SHA-256 and repair.json. A repair removes what was found, and is no proof that "
                "nothing else is there."
            ),
        )
    if repair.status is RepairStatus.NOTHING_TO_REPAIR:
        return _after_nothing(repair, _Scan(result, None))
    return (
        Step("Do not use the model: no changed copy was written."),
        Step("Allow the repair to cost more accuracy (--max-drop 0.05), or give it more images."),
        Step("Or keep the model and reject images that carry the trigger: neural-cleanse guard fit."),
    )


def _after_nothing(repair: RepairResult, scan: _Scan) -> tuple[Step, ...]:
    """Where nothing was tried; the scan is the one that was given."""
    if scan.result.verdict is Verdict.CLEAN:
        return (Step(f"Leave the model as it is: {repair.reason}."),)
    if scan.result.verdict is Verdict.INCONCLUSIVE:
        return tuple(_inconclusive(scan))
    return (
        Step("Do not use the model: the scan found a backdoor, and these images show none."),
        Step("See what a new scan says with these images:", scan.again("--data", "IMAGES")),
    )
