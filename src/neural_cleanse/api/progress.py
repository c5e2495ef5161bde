"""How far a scan is, for Python: True writes a line to stderr, a function gets every Progress, None says nothing."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

from neural_cleanse.api.arguments import expect_progress
from neural_cleanse.api.errors import in_python
from neural_cleanse.detection.progress import Due, Progress

Report = Callable[[Progress], None]


def nothing(progress: Progress) -> None:
    """Say nothing."""
    del progress


@contextlib.contextmanager
def reporting(progress: Report | bool | None) -> Iterator[Report]:
    """What the search reports to; the line is ended when it ends. What is warned of raises a UserWarning at once."""
    expect_progress(progress)
    if callable(progress):
        yield _Warning(progress)
        return
    if not progress:
        yield _Warning(nothing)
        return
    line = _Line()
    try:
        yield _Warning(line)
    finally:
        line.end()


class _Warning:
    """Warns of each doubt about the input once, before it passes the progress on."""

    def __init__(self, inner: Report) -> None:
        self._inner, self._warned = inner, set[str]()

    def __call__(self, progress: Progress) -> None:
        said = tuple(map(in_python, progress.warnings))
        for warning in said:
            if warning not in self._warned:
                self._warned.add(warning)
                warnings.warn(warning, stacklevel=2)
        self._inner(replace(progress, warnings=said))


class _Line:
    """One line on stderr that is written again on a terminal and in a notebook, and a line now and then elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
        self._due, self._shown = Due(self._live), ""

    def __call__(self, progress: Progress) -> None:
        text = f"scan: {progress}"
        if text == self._shown or not self._due(progress.news):
            return
        blank = " " * max(0, len(self._shown) - len(text))
        self._shown = text
        sys.stderr.write(f"\r{text}{blank}" if self._live else f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._shown and self._live:
            sys.stderr.write("\n")
